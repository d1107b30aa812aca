"""The inputs that nodes share which make a video, and what can be refused of them before a model is known."""

from __future__ import annotations

from collections.abc import Collection

from comfy_api.latest import io

from ...loaders.spec import programs, with_feature
from ...samplers.early import LENGTHS, check_length_from
from ...samplers.solvers import SAMPLERS
from .. import host
from ..effect import Conditions, counted
from ..types import (
    ABSENT,
    ConditioningType,
    ControlType,
    keyframes_input,
    model_input,
    number_input,
    share_input,
    whole_input,
)
from ..words import frame_rules, models_with

DEFAULT = "default"
FRAMES, SOURCE = LENGTHS
# inputs in the order in which they are waited for, those that may take hours last
STAGES = (("keyframes", "control", "mask", "audio"), ("source", "extend"), ("conditioning",))
PRESETS = (DEFAULT, "quality", "balanced", "speed", "distilled", *programs())

PRESET = (
    "Fills in whatever is 0. default: as the makers sample. quality, balanced, speed: larger or smaller, more steps "
    "or fewer. distilled: for distilled checkpoints, 8 "
    "steps. Names of checkpoints: as their makers' own program runs them. The help page has all numbers, and after a "
    "run the node shows what was used"
)


def side_inputs() -> list[io.Input]:
    """Width and height of a video."""
    return [whole_input(name, 0, (-16384, 16384), "Pixels; 0: the preset's") for name in ("width", "height")]


def steps_inputs(guidance: str) -> list[io.Input]:
    """Steps and guidance of a video. guidance: the tooltip of the scale."""
    return [
        whole_input("steps", 0, (0, 1000), "0: the preset's"),
        number_input("guidance", 0.0, (0.0, 100.0, 0.1), guidance),
    ]


def size_inputs() -> list[io.Input]:
    """Size, length, steps and guidance of a video."""
    guidance = "Guidance scale; 0: the preset's, 1: off, which takes half the forwards on most models"
    return [
        *side_inputs(),
        whole_input("frames", 0, (-100_000, 100_000), f"0: the preset's. {frame_rules()}"),
        *steps_inputs(guidance),
    ]


def sampler_input(tooltip: str) -> io.Input:
    """The solver."""
    return io.Combo.Input("sampler", options=[DEFAULT, *SAMPLERS], default=DEFAULT, tooltip=tooltip)


def seed_input(tooltip: str, after: io.ControlAfterGenerate | bool) -> io.Input:
    """The seed. after: what the page does with it after a run."""
    largest = 0xFFFFFFFFFFFFFFFF
    return io.Int.Input("seed", default=0, min=0, max=largest, control_after_generate=after, tooltip=tooltip)


def preset_input() -> io.Input:
    """What fills in those that are 0."""
    return io.Combo.Input("preset", options=list(PRESETS), default=DEFAULT, tooltip=PRESET)


def shift_input(tooltip: str) -> io.Input:
    """The flow shift."""
    return number_input("shift", 0.0, (0.0, 100.0, 0.1), tooltip, optional=True, advanced=True)


def loop_input() -> io.Input:
    """Whether the last frame meets the first."""
    tooltip = (
        "The last frame meets the first: with a keyframe at frame 0, that picture ends the video too, on models that "
        "take one at the last frame; without keyframes, text-to-video models see time as a circle. How well the ends "
        "meet stands on the decode node"
    )
    return io.Boolean.Input("loop", default=False, optional=True, advanced=True, tooltip=tooltip)


# what a sampler's inputs depend on
SAMPLER_COUNTS: Conditions = {"strength": {"source": True}, "shift": {"family": with_feature("flow_shift")}}


def sampler_inputs() -> list[io.Input]:
    """What tells a sampler which video to make."""
    inputs = [
        model_input(),
        ConditioningType.Input(
            "conditioning",
            tooltip="The prompts, from Encode Prompt (Video) with the same model",
        ),
        *size_inputs(),
        sampler_input(
            "default: the model's own. Where a source asks for DDIM on a flow model, use euler: with eta 0 they are "
            "the same"
        ),
        seed_input("Starting point of the noise: the same seed and inputs make the same video", True),
        preset_input(),
        *_image_inputs(),
        ControlType.Input("control", optional=True, tooltip="For models that follow a control video"),
        shift_input(
            f"Flow shift of {models_with('flow_shift')}: more spends the steps on large shapes; 0: the preset's"
        ),
        *source_inputs(),
        _fps_input(),
    ]
    return counted(made_later(inputs), SAMPLER_COUNTS)


def _fps_input() -> io.Input:
    """The frame rate."""
    tooltip = (
        f"Frames per second. {models_with('frame_rate')} is told, and moves things accordingly; of the others it is "
        "the speed of playing alone. 0: the preset's or the model's own"
    )
    return number_input("fps", 0.0, (0.0, 240.0, 0.01), tooltip, optional=True, advanced=True)


def _image_inputs() -> list[io.Input]:
    """What a video begins with or is made of."""
    return [
        keyframes_input(
            "keyframes (pictures)",
            "The pictures that the video must show, from Keyframe. For "
            f"{models_with('prompt_pictures')} connect them to Encode Prompt too; for all others here alone",
        ),
        *video_inputs(),
    ]


def video_inputs() -> list[io.Input]:
    """A video that another one is made of."""
    return [
        io.MultiType.Input(
            "source",
            [io.Image, io.Latent, io.Video],
            optional=True,
            tooltip="Video-to-video: frames, latents or a video to start from; a video's sound comes along",
        ),
        share_input(
            "strength",
            1.0,
            "How much of the source is made anew: 1 all of it, .3 little",
            step=0.05,
            optional=True,
        ),
    ]


def source_inputs() -> list[io.Input]:
    """What of a source is made anew, and whether the video is as long as it."""
    return [
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="White where the source is made anew, black where it stays, gray between; one mask, or one for "
            "each frame",
        ),
        io.Combo.Input(
            "frames_from",
            options=[FRAMES, SOURCE],
            default=FRAMES,
            optional=True,
            advanced=True,
            tooltip="frames: as many as frames says. source: as many as the source or the control video has, less what "
            "the model cannot make",
        ),
        io.MultiType.Input(
            "extend",
            [io.Image, io.Video],
            optional=True,
            tooltip="The video goes on from the last frames of this clip: by latents on "
            f"{models_with('latent_windows')}, else as models that start from pictures can. A VIDEO brings its frame "
            "rate along",
        ),
    ]


def made_later(inputs: list[io.Input]) -> list[io.Input]:
    """The inputs, of which ComfyUI makes what a link brings only when it is asked for, but for the model."""
    for field in inputs:
        if any(field.id in stage for stage in STAGES):
            field.lazy = True
    return inputs


def wanted_next(later: Collection[str]) -> list[str]:
    """Of the inputs that are still to come, those to ask for next."""
    return host.in_turn([name for name in stage if name in later] for stage in STAGES)


def size_checks(width: int | None, height: int | None) -> tuple[host.Check, ...]:
    """What can be refused of a size before the model is known."""
    from ...samplers.early import check_side

    return (check_side, "width", width), (check_side, "height", height)


def media_checks(
    strength: float | None,
    source: object,
    mask: object,
    frames_from: str | None,
    extend: object,
    control: object = ABSENT,
) -> tuple[host.Check, ...]:
    """What can be refused of a source and what belongs to it before the model is known. All but the strength and the
    choice: ABSENT where nothing is connected."""
    from ...samplers.early import check_clip, check_mask, check_strength

    sourced, masked, clipped = (thing != ABSENT for thing in (source, mask, extend))
    return (
        (check_strength, strength),
        (check_mask, masked, sourced),
        (check_length_from, frames_from, sourced or control != ABSENT),
        (check_clip, clipped, sourced),
    )
