"""The sampler of all families."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...loaders.notices import heard_by
from ...loaders.request import Conditioning
from ...loaders.video_model import VideoModel
from .. import host
from ..live import Status
from ..origin import from_model, untouched_in
from ..types import ABSENT, InputValue
from ..words import sampled
from .apart import run_of, sampled_apart
from .inputs import FRAMES, loop_input, media_checks, sampler_inputs, size_checks
from .request import check_ahead, clip_frames_of, decoding_of, negative_notes, noise_mask_of, picture_notes, request_of

if TYPE_CHECKING:
    from ...samplers.caches.report import Report as CacheReport
    from ...samplers.caches.runner import Runner
    from ...samplers.denoise import RunSoFar
    from ...samplers.plan import SamplingPlan


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
        from ...samplers.early import check_fps, check_length

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
    def check_lazy_status(cls, model: VideoModel, **inputs: InputValue) -> list[str]:
        """Refuse what cannot work before anything that the video is made of is made."""
        return check_ahead(cls, model, inputs)

    @classmethod
    async def execute(cls, model: VideoModel, conditioning: Conditioning, **inputs: InputValue) -> io.NodeOutput:
        from ...samplers.denoise import with_source_latents
        from ...samplers.parallel.clip.spread import sample
        from ...samplers.plan import plan

        source, report = inputs.get("source"), host.Report(cls)
        prepared, heard = plan(model, request_of(model, **inputs)), host.heard_in(source)
        report.tell(*host.source_sound_notes(source, False), level=logging.INFO)
        host.forget_video()
        report.tell(*picture_notes(inputs))
        report.tell(*prepared.notes, *negative_notes(model, prepared.request, conditioning.negative))
        meter, apart = host.Meter(model), None
        with heard_by(report.tell):
            prepared = with_source_latents(model, conditioning, prepared)
        if not model.does_jobs:
            report.tell(*host.shortage(model, prepared))
            watch = _Watching(report, model, prepared.request.fps)
            with heard_by(report.tell):
                latents = sample(model, conditioning, prepared, watch.step)
            cache = _cache_report(watch.cache)
        else:
            done = await sampled_apart(model, conditioning, prepared, report)
            latents, cache, apart = done.latents, done.cache, run_of(done)
        line = sampled(prepared.request, prepared.request.fps, meter.seconds)
        note = latent_note(model, prepared, source)
        charts = {"reelwire_chart": _tell_cache(report, cache, note)}
        latent = from_model(model, model.to_host(latents.cpu()), note, heard)
        taken = {} if model.parallel is not None and apart is None else meter.noted(source, apart)  # of one card alone
        made = {**latent, **noise_mask_of(source), **untouched_in(model, prepared, source), **taken}
        return io.NodeOutput(made, ui=report.ui(charts, line))


def latent_note(model: VideoModel, prepared: SamplingPlan, source: object) -> dict[str, object]:
    """What latents of a plan say of themselves, for the nodes that decode them and the file that they become."""
    request = prepared.request
    note: dict[str, object] = {
        "family": model.name,
        "variant": model.variant,
        "frames": request.frames,
        "fps": request.fps,
        "width": request.width,
        "height": request.height,
        "seed": request.seed,
        **_clip_note(source, prepared),
        **({"loop": True} if request.loop else {}),
    }
    decoding = decoding_of(request, source)
    return note if decoding is None else {**note, "decoding": asdict(decoding)}


def _clip_note(source: object, prepared: SamplingPlan) -> dict[str, int]:
    """How many first frames are those of a clip that was extended, by this run or by that which made its source."""
    shared = prepared.shared or clip_frames_of(source, prepared.request.frames)
    return {"clip_frames": shared} if shared else {}


class _Watching:
    """Progress and live view of a run, and its cache; not the run itself, which holds `step`: a circle would keep the
    model until garbage is collected."""

    def __init__(self, report: host.Report, model: VideoModel, fps: float) -> None:
        self._model, self._fps = model, fps
        self._view, self._status = host.LiveView(), Status(report, model)
        self.cache: Runner | None = None

    def step(self, done: int, total: int, run: RunSoFar) -> None:
        """Called after every step."""
        self.cache = run.cache
        self._status.step(done, total, run.cache)
        self._view.latents(done, total, self._model, run.preview, self._fps)


def _cache_report(runner: Runner | None) -> CacheReport | None:
    """What the cache of a run did; None where it had none."""
    from ...samplers.caches.report import report

    return None if runner is None else report(runner)


def _tell_cache(report: host.Report, cache: CacheReport | None, note: dict[str, object]) -> list[str]:
    """Report what the cache did, and add it to `note`, which goes into the file; returns charts for the page."""
    if cache is None:
        return []
    note["cache"] = cache.facts()
    report.tell(*cache.words(), level=logging.INFO)
    return [json.dumps(cache.chart())]
