"""The sampler of all families."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from comfy_api.latest import Input, io
from torch import Tensor

from ..loaders.messages import InputError, message
from ..loaders.notices import heard_by
from ..loaders.parts import Part
from ..loaders.request import Conditioning, Control, Keyframe, Request
from ..loaders.spec import programs, with_feature
from ..loaders.video_model import VideoModel
from ..samplers.early import LENGTHS, check_length_from
from ..samplers.solvers import SAMPLERS
from . import host
from .effect import Conditions, counted
from .origin import from_model
from .types import (
    ABSENT,
    ConditioningType,
    ControlType,
    InputValue,
    keyframes_input,
    model_input,
    number_input,
    share_input,
    whole_input,
)
from .words import frame_rules, models_with, published_upsamplers, sampled

if TYPE_CHECKING:
    from ..samplers.caches.runner import Runner
    from ..samplers.denoise import Sampling
    from ..samplers.plan import SamplingPlan

DEFAULT = "default"
FRAMES, SOURCE = LENGTHS
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
            lazy=True,
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
    return counted(inputs, SAMPLER_COUNTS)


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
            advanced=True,
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
        io.Image.Input(
            "extend",
            optional=True,
            tooltip="The video goes on from the last frames of this clip: by latents on "
            f"{models_with('latent_windows')}, else as models that start from pictures can",
        ),
    ]


def size_checks(width: int | None, height: int | None) -> tuple[host.Check, ...]:
    """What can be refused of a size before the model is known."""
    from ..samplers.early import check_side

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
    from ..samplers.early import check_clip, check_mask, check_strength

    sourced, masked, clipped = (thing != ABSENT for thing in (source, mask, extend))
    return (
        (check_strength, strength, sourced),
        (check_mask, masked, sourced),
        (check_length_from, frames_from, sourced or control != ABSENT),
        (check_clip, clipped, sourced),
    )


class SamplerNode(io.ComfyNode):
    """What nodes with `sampler_inputs` share."""

    @classmethod
    def validate_inputs(
        cls,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        strength: float | None = None,
        source: object = ABSENT,
        mask: object = ABSENT,
        control: object = ABSENT,
        frames_from: str | None = FRAMES,
        extend: object = ABSENT,
        fps: float | None = None,
    ) -> bool | str:
        from ..samplers.early import check_fps, check_length

        sizes = *size_checks(width, height), (check_length, frames), (check_fps, fps)
        return host.valid(*sizes, *media_checks(strength, source, mask, frames_from, extend, control))


class Sampler(SamplerNode):
    """Video Sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireSampler",
            display_name="Video Sampler",
            category="Reelwire/sampling",
            description="Makes the video's latents. 0 for size, frames, steps and guidance means what the preset or "
            "the model says.",
            search_aliases=[
                "sample video",
                "ksampler",
                "sampler",
                "text to video",
                "t2v",
                "video to video",
                "v2v",
                "generate video",
                "文生视频",
                "视频生视频",
                "生成视频",
                "采样",
                "采样器",
            ],
            inputs=[*sampler_inputs(), loop_input()],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The latents, with size, length and seed noted, for the two decode nodes",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def check_lazy_status(
        cls, model: VideoModel, conditioning: Conditioning | None = None, **inputs: InputValue
    ) -> list[str]:
        """Refuse what cannot work before the prompt is encoded, so before any weights are read."""
        from ..samplers.plan import plan

        if later := host.pending(cls, inputs):
            plan(model, request_of(model, **numbers_of(inputs)), outline=True)
            return later
        plan(model, request_of(model, **inputs))
        return ["conditioning"] if conditioning is None else []

    @classmethod
    def execute(cls, model: VideoModel, conditioning: Conditioning, **inputs: InputValue) -> io.NodeOutput:
        from ..samplers.denoise import sample
        from ..samplers.plan import plan

        prepared, report = plan(model, request_of(model, **inputs)), host.Report(cls)
        request = prepared.request
        report.tell(*prepared.notes, *host.shortage(model, prepared))
        watch, began = _Watching(model), time.monotonic()
        with heard_by(report.tell):
            latents = sample(model, conditioning, prepared, watch.step)
        line = sampled(request, request.fps, time.monotonic() - began)
        note = {
            "family": model.name,
            "variant": model.variant,
            "frames": request.frames,
            "fps": request.fps,
            "width": request.width,
            "height": request.height,
            "seed": request.seed,
            **_clip_note(inputs.get("source"), prepared),
            **({"loop": True} if request.loop else {}),
        }
        if request.program is not None:
            note["decoding"] = asdict(request.program.decoding)
        charts = {"reelwire_chart": _report_cache(report, model, prepared, watch.cache, note)}
        sound = host.source_sound(inputs.get("source"))
        latent = from_model(model, model.to_host(latents.cpu()), note, sound)
        return io.NodeOutput({**latent, **_noise_mask(inputs.get("source"))}, ui=report.ui(charts, line))


def _clip_note(source: object, prepared: SamplingPlan) -> dict[str, int]:
    """How many first frames are those of a clip that was extended, by this run or by that which made its source."""
    earlier = source.get("reelwire", {}) if isinstance(source, dict) else {}
    is_whole = earlier.get("frames") == prepared.request.frames
    shared = prepared.shared or (earlier.get("clip_frames", 0) if is_whole else 0)
    return {"clip_frames": shared} if shared else {}


def _noise_mask(latent: object) -> dict[str, Tensor]:
    """The noise mask of a LATENT, which stays with what is made of it, as in ComfyUI's own nodes."""
    mask = latent.get("noise_mask") if isinstance(latent, dict) else None
    return {} if mask is None else {"noise_mask": mask}


class _Watching:
    """Progress and preview of a run, and its cache; not the run itself, which holds `step`: a circle would keep the
    model until garbage is collected."""

    def __init__(self, model: VideoModel) -> None:
        self._model, self._update = model, host.progress()
        self.cache: Runner | None = None

    def step(self, done: int, total: int, run: Sampling) -> None:
        """Called after every step."""
        self.cache = run.cache
        self._update(done, total, lambda: host.latent_preview(self._model, run.preview()))


def _report_cache(
    report: host.Report, model: VideoModel, prepared: SamplingPlan, runner: Runner | None, note: dict[str, object]
) -> list[str]:
    """Report what the cache did, and add it to `note`, which goes into the file; returns charts for the page."""
    from ..samplers.caches.report import report as report_of

    if prepared.policy is None or runner is None:
        return []
    cache = report_of(runner, prepared.policy.estimate(model, prepared.request))
    note["cache"] = cache.facts()
    report.tell(*cache.words(), level=logging.INFO)
    return [json.dumps(cache.chart())]


def numbers_of(inputs: Mapping[str, InputValue]) -> dict[str, InputValue]:
    """Those of a sampler's inputs that can be checked while what the video is made of is still sampled."""
    known = ("width", "height", "frames", "steps", "guidance", "sampler", "seed", "preset", "shift", "fps")
    return {name: inputs[name] for name in known if name in inputs}


def request_of(
    model: VideoModel,
    width: int = 0,
    height: int = 0,
    frames: int = 0,
    steps: int = 0,
    guidance: float = 0.0,
    sampler: str = DEFAULT,
    seed: int = 0,
    preset: str = DEFAULT,
    keyframes: tuple[Keyframe, ...] = (),
    source: Tensor | host.Latent | Input.Video | None = None,
    strength: float = 1.0,
    control: Control | None = None,
    shift: float = 0.0,
    mask: Tensor | None = None,
    frames_from: str = FRAMES,
    extend: Tensor | None = None,
    fps: float = 0.0,
    loop: bool = False,
) -> Request:
    """The request that a sampler's inputs stand for, before defaults are filled in."""
    plain = {DEFAULT: ""}
    check_length_from(frames_from, True)
    source, noise_mask = _source(model, source)
    if mask is not None and noise_mask is not None:
        raise InputError("mask", message("connected"), message("two_masks"), message("disconnect_one_mask"))
    return Request(
        width,
        height,
        frames,
        steps,
        guidance,
        plain.get(sampler, sampler),
        plain.get(preset, preset),
        seed,
        tuple(keyframes or ()),
        source,
        strength,
        shift,
        control=control,
        mask=noise_mask if mask is None else mask,
        as_long=frames_from == SOURCE,
        clip=extend,
        fps=fps,
        loop=bool(loop),
    )


def _source(
    model: VideoModel, source: Tensor | host.Latent | Input.Video | None
) -> tuple[Tensor | None, Tensor | None]:
    """(frames as they are, those of a VIDEO, or latents as the model has them, the noise mask of these)."""
    if isinstance(source, Input.Video):
        return host.video_frames(source), None
    if not isinstance(source, dict):
        return source, None
    return _latents(model, source), source.get("noise_mask")


def _latents(model: VideoModel, latent: host.Latent) -> Tensor:
    """A LATENT's latents as the model has them; raises InputError for those of another family."""
    family = latent.get("reelwire", {}).get("family", model.name)
    if family != model.name:
        rule = message("latents_of_family", family=family, model=model.name)
        raise InputError("source", family, rule, message("decode_and_connect"))
    latents = host.latents_of(model, latent)
    if latents.ndim != 5:  # of another model, and no frames
        rule = message("other_channels", variant=model.variant, channels=model.facts.channels)
        value = message("latents_shape", shape=list(latents.shape))
        raise InputError("source", value, rule, message("decode_and_connect"))
    return latents


class LatentUpscale(io.ComfyNode):
    """Upscale Latent (LTX Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLatentUpscale",
            display_name=f"Upscale Latent ({models_with('latent_upsampler').replace('-', ' ')})",
            category="Reelwire/sampling",
            description=f"Doubles width and height of {models_with('latent_upsampler')} latents. Give the result to "
            "Video Sampler as source, with a strength of about .4, to refine it.",
            search_aliases=[
                "multi-scale",
                "spatial upscaler",
                "hires fix",
                "upscale",
                "upscale video",
                "放大",
                "视频放大",
                "高清修复",
            ],
            inputs=[
                model_input(),
                io.Latent.Input(
                    "latent", lazy=True, tooltip=f"Latents of {models_with('latent_upsampler')}, from Video Sampler"
                ),
                io.Combo.Input(
                    "upsampler",
                    options=list(host.upsamplers()),
                    tooltip=f"A diffusers folder in models/diffusers, as {published_upsamplers()}",
                ),
                share_input(
                    "adain",
                    1.0,
                    "How much of the small latents' contrast and colour the large ones keep",
                    step=0.05,
                    advanced=True,
                ),
                share_input("tone_map", 0.6, "How much extreme values are softened", step=0.05, advanced=True),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="Latents of twice the width and height, for Video Sampler as source"
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, upsampler: str | None = None) -> bool | str:
        return host.valid((host.choose, "upsampler", upsampler, host.upsamplers()))

    @classmethod
    def check_lazy_status(
        cls, model: VideoModel, upsampler: str, latent: host.Latent | None = None, **inputs: InputValue
    ) -> list[str]:
        """Refuse an upsampler that does not fit before the latents are sampled."""
        cls._part(model, upsampler)
        return ["latent"] if latent is None else []

    @staticmethod
    def _part(model: VideoModel, upsampler: str) -> Part:
        """The upsampler; raises InputError where it does not fit the model."""
        return model.upsampler(host.choose("upsampler", upsampler, host.upsamplers()))

    @classmethod
    def execute(
        cls, model: VideoModel, latent: host.Latent, upsampler: str, adain: float = 1.0, tone_map: float = 0.6
    ) -> io.NodeOutput:
        part = cls._part(model, upsampler)
        samples, update = _latents(model, latent), host.progress()
        large = model.upscale(part, samples, adain, tone_map).cpu()
        update(1, 1, lambda: host.latent_preview(model, large))
        note = {k: v * 2 if k in ("width", "height") else v for k, v in latent.get("reelwire", {}).items()}
        large_latent = from_model(model, model.to_host(large), note, host.source_sound(latent))
        return io.NodeOutput({**large_latent, **_noise_mask(latent)})


NODES = [Sampler, LatentUpscale]
