"""What guides a video: prompts, keyframes and control videos."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..loaders.video_model import Control, InputError, Keyframe, VideoModel
from . import host
from .types import ConditioningType, ControlType, KeyframesType, VideoModelType


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
                KeyframesType.Input("keyframes", optional=True, tooltip="For models that read the first frame along with the prompt (HunyuanVideo I2V); others pay no attention to it"),
            ],
            outputs=[ConditioningType.Output(display_name="conditioning")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: VideoModel, positive: str, negative: str = "", keyframes: tuple[Keyframe, ...] = ()
    ) -> io.NodeOutput:
        conditioning = model.family.encode(model, positive, negative, tuple(keyframes or ()))
        host.tell(cls.hidden.unique_id, conditioning.notes)
        return io.NodeOutput(conditioning, ui={"text": list(conditioning.notes)} if conditioning.notes else None)


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
        return io.NodeOutput((*keyframes, Keyframe(_pictures("image", image), frame, strength)))


class ControlVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireControl", display_name="Control Video", category="Reelwire/conditioning",
            description="A video that says what moves where, for models that follow one: Wan VACE and CogVideoX Fun-Control.",
            search_aliases=["vace", "controlnet", "depth", "pose", "inpaint", "reference"],
            inputs=[
                io.Image.Input("frames", optional=True, tooltip="Depth, pose, edges, or the video to change"),
                io.Mask.Input("mask", optional=True, tooltip="VACE: white where the video is made anew, black where it stays; one mask, or one for each frame"),
                io.Image.Input("references", optional=True, tooltip="VACE: pictures of what must appear in the video"),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip="VACE: how strongly it counts"),
            ],
            outputs=[ControlType.Output(display_name="control")],
        )  # fmt: skip

    @classmethod
    def execute(cls, frames: Tensor | None = None, mask: Tensor | None = None, references: Tensor | None = None,
                strength: float = 1.0) -> io.NodeOutput:  # fmt: skip
        frames = None if frames is None else _pictures("frames", frames)
        references = None if references is None else _pictures("references", references)
        if mask is not None and frames is None:
            raise InputError("mask", "without frames", "It says which part of the frames stays.", "Connect frames too.")
        return io.NodeOutput(Control(frames, mask, references, strength))


def _pictures(name: str, image: Tensor) -> Tensor:
    """An IMAGE without its alpha; raises InputError for anything else."""
    if image.ndim != 4 or image.shape[-1] < 3 or 0 in image.shape:
        rule, remedy = "This is not a picture.", "Connect Load Image or the frames of a video."
        raise InputError(name, f"a tensor of shape {list(image.shape)}", rule, remedy)
    return image[..., :3]


NODES = [EncodePrompt, AddKeyframe, ControlVideo]
