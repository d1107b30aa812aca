"""What guides a video: prompts, keyframes and control videos."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..loaders.common.controls import (
    AS_IT_IS,
    EDGES,
    WAYS,
    WORKING_BYTES,
    check_given,
    check_range,
    check_way,
    prepared,
)
from ..loaders.common.door import open_images
from ..loaders.common.emphasis import as_letters
from ..loaders.common.images import compressed
from ..loaders.devices import empty_cache, out_of_memory
from ..loaders.messages import message
from ..loaders.request import Control, Keyframe
from ..loaders.video_model import VideoModel
from ..samplers.early import check_compression
from . import host
from .effect import counted, idle
from .types import (
    ABSENT,
    ConditioningType,
    ControlType,
    KeyframesType,
    keyframes_input,
    model_input,
    number_input,
    share_input,
    whole_input,
)
from .words import models_with

NOTHING = message("control_nothing")
WEIGHTS, LETTERS = "(word:1.2)", "letters"  # what brackets in a prompt are


class EncodePrompt(io.ComfyNode):
    """Encode Prompt (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireEncodePrompt",
            display_name="Encode Prompt (Video)",
            category="Reelwire/conditioning",
            description="Turns a prompt into what the model reads. An empty prompt is allowed: the model then makes "
            "what it likes.",
            search_aliases=["clip text encode", "prompt", "text", "text encode", "提示词", "文本编码"],
            inputs=[
                model_input(),
                io.String.Input("positive", multiline=True, dynamic_prompts=True, tooltip="What the video shows"),
                io.String.Input(
                    "negative", multiline=True, dynamic_prompts=True, default="", tooltip="What it should not look like"
                ),
                keyframes_input(
                    f"keyframes ({models_with('prompt_pictures')})",
                    f"For {models_with('prompt_pictures')} alone, which reads the first frame along with the "
                    "prompt; connect the same ones to Video Sampler. All other models take keyframes at Video Sampler, "
                    "and nothing is needed here",
                ),
                io.Combo.Input(
                    "weights",
                    options=[WEIGHTS, LETTERS],
                    default=WEIGHTS,
                    optional=True,
                    advanced=True,
                    tooltip="What brackets in a prompt are. (word:1.2): weights, as everywhere in ComfyUI: (word) is "
                    "1.1, \\( and \\) are letters. letters: brackets like any other sign",
                ),
                io.Image.Input(
                    "extend",
                    optional=True,
                    advanced=True,
                    tooltip=f"For {models_with('prompt_pictures')} alone, which reads the last frame of a clip that is "
                    "extended along with the prompt; connect the same clip to extend of Video Sampler",
                ),
            ],
            outputs=[
                ConditioningType.Output(
                    display_name="conditioning", tooltip="The encoded prompts, for Video Sampler with the same model"
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: VideoModel,
        positive: str,
        negative: str = "",
        keyframes: tuple[Keyframe, ...] = (),
        weights: str = WEIGHTS,
        extend: Tensor | None = None,
    ) -> io.NodeOutput:
        if weights == LETTERS:
            positive, negative = as_letters(positive), as_letters(negative)
        clip, notes = (None, ()) if extend is None else open_images("extend", extend)
        last = () if clip is None else (Keyframe(clip[-1:], 0),)
        keyframes = (*last, *(keyframes or ()))
        conditioning, report = model.encode(positive, negative, keyframes), host.Report(cls)
        report.tell(*notes)
        unread = keyframes and conditioning.picture is None
        title = f"{model.title} ({model.variant})"
        report.tell(*conditioning.notes, *((message("keyframes_not_read", title=title),) if unread else ()))
        return io.NodeOutput(replace(conditioning, negative=negative.strip()), ui=report.ui())


class AddKeyframe(io.ComfyNode):
    """Keyframe (Image to Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireKeyframe",
            display_name="Keyframe (Image to Video)",
            category="Reelwire/conditioning",
            description="A picture (or a short clip) that the video must show at a frame. Chain several. Pictures are "
            "scaled to cover the video and cut in the middle. What a model has no place for is moved, with a note on "
            "the sampler, or refused.",
            search_aliases=[
                "i2v",
                "image to video",
                "first last frame",
                "flf2v",
                "first frame",
                "last frame",
                "start image",
                "end image",
                "图生视频",
                "首尾帧",
                "首帧",
                "尾帧",
                "关键帧",
            ],
            inputs=[
                io.Image.Input("image", tooltip="One picture, or the frames of a clip"),
                whole_input(
                    "frame",
                    0,
                    (-100_000, 100_000),
                    "Where it lies: 0 is the first frame, -1 the last, negative counts from the end. In a chain whose "
                    "first frame is taken, 0 is the last frame, so that two Keyframes as they are mean first and last",
                ),
                share_input("strength", 1.0, "1 keeps the picture as it is, less lets the model change it", step=0.05),
                keyframes_input("earlier keyframes", "Earlier keyframes: chain as many as the model takes"),
                whole_input(
                    "compression",
                    0,
                    (-1, 51),
                    "Compresses the picture as a frame of a video, at this H.264 quality (CRF): stills then move more, "
                    "about 29 is usual. 0: as the preset says, or not at all; -1: never",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                KeyframesType.Output(
                    display_name="keyframes",
                    tooltip="The earlier keyframes and this one, for Video Sampler or Long Video",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, strength: float | None = None, compression: int | None = None) -> bool | str:
        from ..samplers.early import check_keyframe

        return host.valid((check_keyframe, strength), (check_compression, compression))

    @classmethod
    def execute(
        cls, image: Tensor, frame: int, strength: float, keyframes: tuple[Keyframe, ...] = (), compression: int = 0
    ) -> io.NodeOutput:
        report = host.Report(cls)
        images = report.images("image", image)
        if frame == 0 and len(images) == 1 and any(earlier.frame == 0 for earlier in keyframes):
            frame = -1
            report.tell(message("keyframe_last"), level=logging.INFO)
        check_compression(compression)
        images = compressed(images, compression, host.stop_if_asked) if compression > 0 else images
        keyframe = Keyframe(images, frame, strength, settled=compression != 0)
        return io.NodeOutput((*keyframes, keyframe), ui=report.ui())


CONTROL_COUNTS = {name: {"prepare": (EDGES,)} for name in ("low", "high")}


def _control_inputs() -> list[io.Input]:
    """The control video itself."""
    return [
        io.Image.Input("frames", optional=True, tooltip="Depth, pose, edges, or the video to change"),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="VACE: white where the video is made anew, black where it stays; one mask, or one for each frame",
        ),
        io.Image.Input("references", optional=True, tooltip="VACE: pictures of what must appear in the video"),
        number_input(
            "strength",
            1.0,
            (0.0, 10.0, 0.05),
            "How strongly it counts; on Fun-Control anything but 1 is an approximation",
        ),
    ]


def _preparation_inputs() -> list[io.Input]:
    """What is made of the frames, and in which steps they count."""
    return [
        io.Combo.Input(
            "prepare",
            options=list(WAYS),
            default=AS_IT_IS,
            optional=True,
            tooltip="What to make of the frames: edges (Canny), gray, blur, or nothing where they are depth or pose "
            "already",
        ),
        share_input(
            "start", 0.0, "Share of the steps before which the control does not count", advanced=True, optional=True
        ),
        share_input(
            "end",
            1.0,
            "Share of the steps from which the control does not count: details are then the model's own",
            advanced=True,
            optional=True,
        ),
        number_input(
            "low",
            0.4,
            (0.01, 0.99, 0.01),
            "edges: one goes on where the change is above this; less gives longer lines",
            optional=True,
        ),
        number_input(
            "high",
            0.8,
            (0.01, 0.99, 0.01),
            "edges: one begins where the change is above this; less gives more lines",
            optional=True,
        ),
    ]


class ControlVideo(io.ComfyNode):
    """Control Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireControl",
            display_name="Control Video",
            category="Reelwire/conditioning",
            description=f"A video that says what moves where, for models that follow one: {models_with('control')}.",
            search_aliases=[
                "vace",
                "controlnet",
                "video controlnet",
                "depth",
                "pose",
                "inpaint",
                "reference",
                "控制",
                "控制网络",
                "姿态",
                "深度",
                "参考图像",
            ],
            inputs=counted([*_control_inputs(), *_preparation_inputs()], CONTROL_COUNTS),
            outputs=[
                ControlType.Output(display_name="control", tooltip="The control video, for Video Sampler"),
                io.Image.Output(
                    display_name="images", tooltip="The frames as prepared, to look at; without frames, the references"
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = None,
        frames: object = ABSENT,
        mask: object = ABSENT,
        prepare: str | None = AS_IT_IS,
        start: float | None = 0.0,
        end: float | None = 1.0,
        low: float | None = 0.4,
        high: float | None = 0.8,
    ) -> bool | str:
        return host.valid(
            (check_way, prepare, low, high),
            (check_given, frames != ABSENT, mask != ABSENT, prepare),
            (check_range, start, end, strength),
        )

    @classmethod
    def execute(
        cls,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        references: Tensor | None = None,
        strength: float = 1.0,
        prepare: str = AS_IT_IS,
        start: float = 0.0,
        end: float = 1.0,
        low: float = 0.4,
        high: float = 0.8,
    ) -> io.NodeOutput:
        report = host.Report(cls)
        references = None if references is None else report.images("references", references)
        mask = None if mask is None else report.mask("mask", mask)
        check_given(frames is not None, mask is not None, prepare)
        check_range(start, end, strength)
        report.tell(*idle(cls, {"prepare": prepare, "low": low, "high": high}))
        if frames is not None:
            frames = cls.prepared(report, report.images("frames", frames), prepare, low, high)
        preview = next((images for images in (frames, references) if images is not None), ExecutionBlocker(NOTHING))
        return io.NodeOutput(Control(frames, mask, references, strength, start, end), preview, ui=report.ui())

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
        report.tell(message("control_on_cpu"))
        return prepared(frames, way, low, high, update)


NODES = [EncodePrompt, AddKeyframe, ControlVideo]
