"""What guides a video: prompts and keyframes."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..loaders.video_model import InputError, Keyframe, VideoModel
from .types import ConditioningType, KeyframesType, VideoModelType


class EncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireEncodePrompt", display_name="Encode Prompt (Video)", category="Reelwire/conditioning",
            description="Turns a prompt into what the model reads. An empty prompt is allowed: the model then makes what it likes.",
            search_aliases=["clip text encode", "prompt", "text"],
            inputs=[
                VideoModelType.Input("model"),
                io.String.Input("positive", multiline=True, dynamic_prompts=True, tooltip="What the video shows"),
                io.String.Input("negative", multiline=True, dynamic_prompts=True, default="", tooltip="What it should not look like"),
            ],
            outputs=[ConditioningType.Output(display_name="conditioning")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: VideoModel, positive: str, negative: str = "") -> io.NodeOutput:
        return io.NodeOutput(model.family.encode(model, positive, negative))


class AddKeyframe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireKeyframe", display_name="Keyframe", category="Reelwire/conditioning",
            description="A picture (or a short clip) that the video must show at a frame. Chain several. Pictures are scaled to cover the video and cut in the middle.",
            search_aliases=["image to video", "i2v", "first frame", "last frame"],
            inputs=[
                io.Image.Input("image", tooltip="One picture, or the frames of a clip"),
                io.Int.Input("frame", default=0, min=-100_000, max=100_000, tooltip="Where it lies; negative counts from the end, -1 is the last frame"),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="1 keeps the picture as it is, less lets the model change it"),
                KeyframesType.Input("keyframes", optional=True, tooltip="Earlier keyframes"),
            ],
            outputs=[KeyframesType.Output(display_name="keyframes")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, frame: int, strength: float, keyframes: tuple[Keyframe, ...] = ()) -> io.NodeOutput:
        if image.ndim != 4 or image.shape[-1] < 3 or 0 in image.shape:
            raise InputError(
                "image",
                f"a tensor of shape {list(image.shape)}",
                "This is not a picture.",
                "Connect Load Image or the frames of a video.",
            )
        return io.NodeOutput((*keyframes, Keyframe(image[..., :3], frame, strength)))


NODES = [EncodePrompt, AddKeyframe]
