"""The sampler of all families."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..loaders.messages import InputError, message
from ..loaders.notices import heard_by
from ..loaders.parts import Part
from ..loaders.request import Conditioning, Control, Keyframe, Request
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.solvers import SAMPLERS
from . import host
from .effect import Conditions, counted
from .families import frame_rules, titles_with
from .origin import from_model
from .types import ABSENT, ConditioningType, ControlType, KeyframesType, model_input
from .words import sampled

if TYPE_CHECKING:
    from ..samplers.denoise import Sampling
    from ..samplers.plan import SamplingPlan

DEFAULT = "default"
PRESETS = (DEFAULT, "quality", "balanced", "speed", "distilled")


def size_inputs() -> list[Any]:
    """Size, length, steps and guidance of a video."""
    return [
        io.Int.Input("width", default=0, min=-16384, max=16384, tooltip="Pixels; 0: the preset's"),
        io.Int.Input("height", default=0, min=-16384, max=16384, tooltip="Pixels; 0: the preset's"),
        io.Int.Input(
            "frames",
            default=0,
            min=-100_000,
            max=100_000,
            tooltip=f"0: the preset's. {frame_rules()}",
        ),
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0: the preset's"),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance scale; 0: the preset's, 1: off, which takes half the forwards on most models",
        ),
    ]


PRESET = (
    "Fills in whatever is 0. default: as the makers sample. quality, balanced, speed: larger or smaller, more steps or fewer; "
    "LTX-Video 1216x704 in 40 steps, 896x512 in 25, 640x352 in 10. distilled: for distilled checkpoints, 8 steps. The help "
    "page has all numbers, and after a run the node shows what was used"
)


def preset_input() -> Any:
    """What fills in those that are 0."""
    return io.Combo.Input("preset", options=list(PRESETS), default=DEFAULT, tooltip=PRESET)


# what a sampler's inputs depend on
SAMPLER_COUNTS: Conditions = {"strength": {"source": True}, "shift": {"family": with_feature("flow_shift")}}


def sampler_inputs() -> list[Any]:
    """What tells a sampler which video to make."""
    return counted([
        model_input(),
        ConditioningType.Input("conditioning", lazy=True, tooltip="The prompts, from Encode Prompt (Video) with the same model"),
        *size_inputs(),
        io.Combo.Input("sampler", options=[DEFAULT, *SAMPLERS], default=DEFAULT,
                       tooltip="default: the model's own. Where a source asks for DDIM on a flow model, use euler: with eta 0 they are the same"),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                     tooltip="Starting point of the noise: the same seed and inputs make the same video"),
        preset_input(),
        KeyframesType.Input("keyframes", optional=True,
                            tooltip="The pictures that the video must show, from Keyframe. For HunyuanVideo I2V connect them to Encode Prompt too; for all others here alone"),
        io.MultiType.Input("source", [io.Image, io.Latent], optional=True, tooltip="Video-to-video: frames or latents to start from"),
        io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                       tooltip="How much of the source is made anew: 1 all of it, .3 little"),
        ControlType.Input("control", optional=True, tooltip="For models that follow a control video"),
        io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.1, optional=True, advanced=True,
                       tooltip=f"Flow shift of {titles_with('flow_shift')}: more spends the steps on large shapes; 0: the preset's"),
    ], SAMPLER_COUNTS)  # fmt: skip


def size_checks(width: int | None, height: int | None) -> tuple[Any, ...]:
    """What can be refused of a size before the model is known."""
    from ..samplers.early import check_side

    return (check_side, "width", width), (check_side, "height", height)


class SamplerNode(io.ComfyNode):
    """What nodes with `sampler_inputs` share."""

    @classmethod
    def validate_inputs(
        cls,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        strength: float | None = None,
        source: Any = ABSENT,
    ) -> bool | str:
        from ..samplers.early import check_length, check_strength

        sizes = *size_checks(width, height), (check_length, frames)
        return host.valid(*sizes, (check_strength, strength, source != ABSENT))


class Sampler(SamplerNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireSampler", display_name="Video Sampler", category="Reelwire/sampling",
            description="Makes the video's latents. 0 for size, frames, steps and guidance means what the preset or the model says.",
            search_aliases=["sample video", "ksampler", "sampler", "text to video", "t2v", "video to video", "v2v", "generate video", "文生视频", "视频生视频", "生成视频", "采样", "采样器"],
            inputs=sampler_inputs(),
            outputs=[io.Latent.Output(display_name="latent", tooltip="The latents, with size, length and seed noted, for the two decode nodes")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, model: VideoModel, conditioning: Conditioning | None = None, **inputs: Any) -> list[str]:
        """Refuse what cannot work before the prompt is encoded, so before any weights are read."""
        from ..samplers.plan import plan

        plan(model, request_of(model, **inputs))
        return ["conditioning"] if conditioning is None else []

    @classmethod
    def execute(cls, model: VideoModel, conditioning: Conditioning, **inputs: Any) -> io.NodeOutput:
        from ..samplers.denoise import sample
        from ..samplers.plan import plan

        prepared, report = plan(model, request_of(model, **inputs)), host.Report(cls)
        request = prepared.request
        report.tell(*prepared.notes, *host.shortage(model, prepared))
        update = host.progress()
        runs: list[Sampling] = []

        def on_step(done: int, total: int, run: Sampling) -> None:
            runs[:] = [run]
            update(done, total, lambda: host.latent_picture(model, run.preview()))

        began = time.monotonic()
        with heard_by(report.tell):
            latents = sample(model, conditioning, prepared, on_step)
        line = sampled(request, model.facts.fps, time.monotonic() - began)
        note = {"family": model.name, "variant": model.variant, "frames": request.frames, "fps": model.facts.fps,
                "width": request.width, "height": request.height, "seed": request.seed}  # fmt: skip
        charts = {"reelwire_chart": _tell_of_cache(report, model, prepared, runs, note)}
        latent = from_model(model, model.to_host(latents.cpu()), note)
        return io.NodeOutput(latent, ui=report.ui(charts, line))


def _tell_of_cache(
    report: host.Report, model: VideoModel, prepared: SamplingPlan, runs: list[Sampling], note: dict[str, Any]
) -> list[str]:
    """Say what the cache did, and add it to `note`, which goes with the latents into the file; its charts for the page."""
    from ..samplers.caches.report import report as report_of

    if prepared.policy is None or not runs:
        return []
    cache = report_of(runs[0].cache, prepared.policy.estimate(model, prepared.request))
    note["cache"] = cache.facts()
    report.tell(*cache.words(), level=logging.INFO)
    return [json.dumps(cache.chart())]


def request_of(model: VideoModel, width: int = 0, height: int = 0, frames: int = 0, steps: int = 0, guidance: float = 0.0, sampler: str = DEFAULT, seed: int = 0,
               preset: str = DEFAULT, keyframes: tuple[Keyframe, ...] = (), source: Any = None, strength: float = 1.0,
             control: Control | None = None, shift: float = 0.0) -> Request:  # fmt: skip
    plain = {DEFAULT: ""}
    return Request(width, height, frames, steps, guidance, plain.get(sampler, sampler), plain.get(preset, preset), seed,
                   tuple(keyframes or ()), _source(model, source), strength, shift, control=control)  # fmt: skip


def _source(model: VideoModel, source: Any) -> Tensor | None:
    if not isinstance(source, dict):
        return source
    family = source.get("reelwire", {}).get("family", model.name)
    if family != model.name:
        rule = message("latents_of_family", family=family, model=model.name)
        raise InputError("source", family, rule, message("decode_and_connect"))
    return host.samples(model, source)


class LatentUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLatentUpscale", display_name="Upscale Latent (LTX Video)", category="Reelwire/sampling",
            description="Doubles width and height of LTX-Video latents. Give the result to Video Sampler as source, with a strength of about .4, to refine it.",
            search_aliases=["multi-scale", "spatial upscaler", "hires fix", "upscale", "upscale video", "放大", "视频放大", "高清修复"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", lazy=True, tooltip="Latents of LTX-Video, from Video Sampler"),
                io.Combo.Input("upsampler", options=list(host.upsamplers()), tooltip="A diffusers folder in models/diffusers, as ltxv-spatial-upscaler-0.9.7"),
                io.Float.Input("adain", default=1.0, min=0.0, max=1.0, step=0.05, advanced=True, tooltip="How much of the small latents' contrast and colour the large ones keep"),
                io.Float.Input("tone_map", default=0.6, min=0.0, max=1.0, step=0.05, advanced=True, tooltip="How much extreme values are softened"),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Latents of twice the width and height, for Video Sampler as source")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, upsampler: str | None = None) -> bool | str:
        return host.valid((host.choose, "upsampler", upsampler, host.upsamplers()))

    @classmethod
    def check_lazy_status(cls, model: VideoModel, upsampler: str, latent: Any = None, **inputs: Any) -> list[str]:
        """Refuse an upsampler that does not fit before the latents are sampled."""
        cls._part(model, upsampler)
        return ["latent"] if latent is None else []

    @staticmethod
    def _part(model: VideoModel, upsampler: str) -> Part:
        return model.upsampler(host.choose("upsampler", upsampler, host.upsamplers()))

    @classmethod
    def execute(cls, model: VideoModel, latent: dict[str, Any], upsampler: str, adain: float = 1.0, tone_map: float = 0.6) -> io.NodeOutput:  # fmt: skip
        from ..samplers.multiscale import upscale

        part = cls._part(model, upsampler)
        samples, update = _source(model, latent), host.progress()
        large = upscale(model, part, samples, adain, tone_map).cpu()
        update(1, 1, lambda: host.latent_picture(model, large))
        note = {k: v * 2 if k in ("width", "height") else v for k, v in latent.get("reelwire", {}).items()}
        return io.NodeOutput(from_model(model, model.to_host(large), note))


NODES = [Sampler, LatentUpscale]
