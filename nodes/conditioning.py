"""What guides a video: prompts, keyframes and control videos."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..loaders.controls import AS_IT_IS, WAYS, WORKING_BYTES, prepared
from ..loaders.devices import empty_cache, out_of_memory
from ..loaders.video_model import Control, InputError, Keyframe, VideoModel
from . import host
from .types import ConditioningType, ControlType, KeyframesType, VideoModelType

NOTHING = "Control Video has neither frames nor references, so there are no images to show."


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
        report = host.Report(cls)
        report.tell(*conditioning.notes)
        return io.NodeOutput(conditioning, ui=report.ui())


class AddKeyframe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireKeyframe", display_name="Keyframe", category="Reelwire/conditioning",
            description="A picture (or a short clip) that the video must show at a frame. Chain several. Pictures are scaled to cover the video and cut in the middle. What a model has no place for is moved, with a note on the sampler, or refused.",
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
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip="How strongly it counts; on Fun-Control anything but 1 is an approximation"),
                io.Combo.Input("prepare", options=list(WAYS), default=AS_IT_IS, optional=True, tooltip="What to make of the frames: edges (Canny), gray, blur, or nothing where they are depth or pose already"),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True, optional=True, tooltip="Share of the steps before which the control does not count"),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True, optional=True, tooltip="Share of the steps from which the control does not count: details are then the model's own"),
                io.Float.Input("low", default=0.4, min=0.01, max=0.99, step=0.01, advanced=True, optional=True, tooltip="edges: one goes on where the change is above this; less gives longer lines"),
                io.Float.Input("high", default=0.8, min=0.01, max=0.99, step=0.01, advanced=True, optional=True, tooltip="edges: one begins where the change is above this; less gives more lines"),
            ],
            outputs=[ControlType.Output(display_name="control"), io.Image.Output(display_name="images")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, frames: Tensor | None = None, mask: Tensor | None = None, references: Tensor | None = None, strength: float = 1.0,
                prepare: str = AS_IT_IS, start: float = 0.0, end: float = 1.0, low: float = 0.4, high: float = 0.8) -> io.NodeOutput:  # fmt: skip
        report, references = host.Report(cls), None if references is None else _pictures("references", references)
        if frames is None and mask is not None:
            raise InputError("mask", "without frames", "It says which part of the frames stays.", "Connect frames too.")
        if frames is None and prepare != AS_IT_IS:
            raise InputError("prepare", prepare, "There are no frames to prepare.", f"Connect frames, or choose {AS_IT_IS}.")  # fmt: skip
        if frames is not None:
            frames = cls.prepared(report, _pictures("frames", frames), prepare, low, high)
        shown = next((images for images in (frames, references) if images is not None), ExecutionBlocker(NOTHING))
        return io.NodeOutput(Control(frames, mask, references, strength, start, end), shown, ui=report.ui())

    @classmethod
    def prepared(cls, report: host.Report, frames: Tensor, way: str, low: float, high: float) -> Tensor:
        """Frames [T, H, W, 3] in one of WAYS, on the card, or on the CPU where the card has no room even for one."""
        device, update = host.HostMemory().device("transformer"), host.progress()
        host.make_room(device, frames[0, ..., 0].numel() * WORKING_BYTES.get(way, 0))
        try:
            return prepared(frames, way, low, high, update, device)
        except Exception as error:
            if not out_of_memory(error):
                raise
        empty_cache(device)
        report.tell("Memory ran out on the card: the control video was prepared on the CPU.")
        return prepared(frames, way, low, high, update)


def _pictures(name: str, image: Tensor) -> Tensor:
    """An IMAGE without its alpha; raises InputError for anything else."""
    if image.ndim != 4 or image.shape[-1] < 3 or 0 in image.shape:
        rule, remedy = "This is not a picture.", "Connect Load Image or the frames of a video."
        raise InputError(name, f"a tensor of shape {list(image.shape)}", rule, remedy)
    return image[..., :3]


NODES = [EncodePrompt, AddKeyframe, ControlVideo]
