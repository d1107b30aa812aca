"""The sampler of all families."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..loaders.notices import heard_by
from ..loaders.run import Run
from ..loaders.video_model import Conditioning, Control, InputError, Keyframe, Part, Request, VideoModel
from ..samplers.schedules import SAMPLERS
from . import host
from .types import ConditioningType, ControlType, KeyframesType, VideoModelType

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
            tooltip="0: the preset's. HunyuanVideo and Wan make 4n+1 frames, "
            "CogVideoX and LTX-Video 8n+1, Mochi 6n+1, SVD 14 or 25",
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


def preset_input() -> Any:
    """What fills in those that are 0."""
    return io.Combo.Input("preset", options=list(PRESETS), default=DEFAULT, tooltip="Fills in whatever is 0")


def sampler_inputs() -> list[Any]:
    """What tells a sampler which video to make."""
    return [
        VideoModelType.Input("model"),
        ConditioningType.Input("conditioning", lazy=True),
        *size_inputs(),
        io.Combo.Input("sampler", options=[DEFAULT, *SAMPLERS], default=DEFAULT,
                       tooltip="default: the model's own. Where a source asks for DDIM on a flow model, use euler: with eta 0 they are the same"),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True),
        preset_input(),
        KeyframesType.Input("keyframes", optional=True),
        io.MultiType.Input("source", [io.Image, io.Latent], optional=True, tooltip="Video-to-video: frames or latents to start from"),
        io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                       tooltip="How much of the source is made anew: 1 all of it, .3 little"),
        ControlType.Input("control", optional=True, tooltip="For models that follow a control video"),
        io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.1, optional=True, advanced=True,
                       tooltip="Flow shift of HunyuanVideo and Wan: more spends the steps on large shapes; 0: the preset's"),
    ]  # fmt: skip


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireSampler", display_name="Sample Video", category="Reelwire/sampling",
            description="Makes the video's latents. 0 for size, frames, steps and guidance means what the preset or the model says.",
            search_aliases=["ksampler", "text to video", "video sampler"],
            inputs=sampler_inputs(),
            outputs=[io.Latent.Output(display_name="latent")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, model: VideoModel, conditioning: Conditioning | None = None, **inputs: Any) -> list[str]:
        """Refuse what cannot work before the prompt is encoded, so before any weights are read."""
        from ..samplers.denoise import ready

        ready(model, request_of(model, **inputs))
        return ["conditioning"] if conditioning is None else []

    @classmethod
    def execute(cls, model: VideoModel, conditioning: Conditioning, **inputs: Any) -> io.NodeOutput:
        from ..samplers.denoise import ready, sample
        from ..samplers.kernels import attention_notes

        request, report = ready(model, request_of(model, **inputs)), host.Report(cls)
        report.tell(*request.notes, *host.shortage(model, request))
        report.tell(*attention_notes(model), level=logging.INFO)
        update, runs = host.progress(), list[Run]()

        def on_step(done: int, total: int, run: Run) -> None:
            runs[:] = [run]
            update(done, total, lambda: host.latent_picture(model, run.preview()))

        with heard_by(report.tell):
            latents = sample(model, conditioning, request, on_step)
        note = {"family": model.family.name, "variant": model.variant, "frames": request.frames, "fps": model.facts.fps,
                "width": request.width, "height": request.height, "seed": request.seed}  # fmt: skip
        charts = _tell_of_cache(report, model, request, runs, note)
        output = {"samples": model.family.to_host(model, latents.cpu()), "reelwire": note}
        return io.NodeOutput(output, ui=report.ui(charts))


def _tell_of_cache(
    report: host.Report, model: VideoModel, request: Request, runs: list[Run], note: dict[str, Any]
) -> dict[str, Any]:
    """Say what the cache did, and add it to `note`, which goes with the latents into the file; its chart for the page."""
    from ..samplers.caches.report import report as report_of
    from ..samplers.caches.runner import planned

    if model.cache is None:
        return {}
    policy, notes = planned(model, request)
    if policy is None or not runs:
        report.tell(*notes)
        return {}
    cache = report_of(runs[0].cache, policy.estimate(model, request))
    note["cache"] = cache.facts()
    report.tell(*cache.words(), level=logging.INFO)
    return {"reelwire_chart": [cache.chart()]}


def request_of(model: VideoModel, width: int = 0, height: int = 0, frames: int = 0, steps: int = 0, guidance: float = 0.0, sampler: str = DEFAULT, seed: int = 0,
               preset: str = DEFAULT, keyframes: tuple[Keyframe, ...] = (), source: Any = None, strength: float = 1.0,
             control: Control | None = None, shift: float = 0.0) -> Request:  # fmt: skip
    plain = {DEFAULT: ""}
    return Request(width, height, frames, steps, guidance, plain.get(sampler, sampler), plain.get(preset, preset), seed,
                   tuple(keyframes or ()), _source(model, source), strength, shift, control=control)  # fmt: skip


def _source(model: VideoModel, source: Any) -> Tensor | None:
    if not isinstance(source, dict):
        return source
    family = source.get("reelwire", {}).get("family", model.family.name)
    if family != model.family.name:
        rule = f"These latents belong to {family}, the model is {model.family.name}."
        raise InputError("source", family, rule, "Decode them with their own model and connect the frames.")
    return host.samples(model, source)


class LatentUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLatentUpscale", display_name="Upscale Latent (LTX)", category="Reelwire/sampling",
            description="Doubles width and height of LTX-Video latents. Give the result to Sample Video as source, with a strength of about .4, to refine it.",
            search_aliases=["multi-scale", "spatial upscaler", "hires fix"],
            inputs=[
                VideoModelType.Input("model"),
                io.Latent.Input("latent", lazy=True),
                io.Combo.Input("upsampler", options=list(host.upsamplers()), tooltip="A diffusers folder in models/diffusers, as ltxv-spatial-upscaler-0.9.7"),
                io.Float.Input("adain", default=1.0, min=0.0, max=1.0, step=0.05, advanced=True, tooltip="How much of the small latents' contrast and colour the large ones keep"),
                io.Float.Input("tone_map", default=0.6, min=0.0, max=1.0, step=0.05, advanced=True, tooltip="How much extreme values are softened"),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, upsampler: str) -> bool | str:
        return host.valid(upsampler, lambda: host.choose("upsampler", upsampler, host.upsamplers()))

    @classmethod
    def check_lazy_status(cls, model: VideoModel, upsampler: str, latent: Any = None, **inputs: Any) -> list[str]:
        """Refuse an upsampler that does not fit before the latents are sampled."""
        cls._part(model, upsampler)
        return ["latent"] if latent is None else []

    @staticmethod
    def _part(model: VideoModel, upsampler: str) -> Part:
        from ..loaders.ltx_upsampler import load_upsampler
        from ..samplers.multiscale import check_upscale

        check_upscale(model)
        folder = host.choose("upsampler", upsampler, host.upsamplers())
        return load_upsampler(folder, model.facts.channels, model.recipe.dtype)

    @classmethod
    def execute(cls, model: VideoModel, latent: dict[str, Any], upsampler: str, adain: float = 1.0, tone_map: float = 0.6) -> io.NodeOutput:  # fmt: skip
        from ..samplers.multiscale import upscale

        part = cls._part(model, upsampler)
        samples, update = _source(model, latent), host.progress()
        large = upscale(model, part, samples, adain, tone_map).cpu()
        update(1, 1, lambda: host.latent_picture(model, large))
        note = {k: v * 2 if k in ("width", "height") else v for k, v in latent.get("reelwire", {}).items()}
        return io.NodeOutput({"samples": model.family.to_host(model, large), "reelwire": note})


NODES = [Sampler, LatentUpscale]
