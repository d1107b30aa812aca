"""Sampling by the workers that a model's `parallel` names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ...loaders.messages import Message
from ...loaders.request import Conditioning
from ...loaders.video_model import VideoModel
from .. import host
from ..live import Status

if TYPE_CHECKING:
    from ...samplers.long.plan import LongPlan
    from ...samplers.parallel.jobs import Done, Job
    from ...samplers.plan import SamplingPlan

PAUSE = 0.05  # seconds between two looks at a job


async def sampled_apart(
    model: VideoModel, conditioning: Conditioning, prepared: SamplingPlan, report: host.Report
) -> Done:
    """What came of a plan on some worker. Meanwhile ComfyUI runs other nodes, and this one for other entries of a
    list."""
    job, view, fps = submitted(model, conditioning, prepared), host.LiveView(), prepared.request.fps
    status = Status(report, None)

    def show(done: int, total: int, latents: Tensor | None) -> None:
        if done:
            status.step(done, total, None)
        view.distant(done, total, model, latents, fps)

    watch = watching(report, show)
    try:
        while not job.is_done:
            watch(job.look.done, job.look.total, job.look.preview, job)
            await asyncio.sleep(PAUSE)
        done = job.result()
        report.tell(*done.notes)
        return done
    finally:
        job.cancel()


def run_of(done: Done) -> host.Run:
    """What it has cost to sample on a worker."""
    return host.Run(sampling=done.seconds, peak=done.peak if done.device else 0, device=done.device)


def submitted(model: VideoModel, conditioning: Conditioning, prepared: SamplingPlan) -> Job:
    """A plan on its way to a worker; where there are none, that is what becomes of it."""
    from ...samplers.parallel.jobs import submit

    return submit(model, conditioning, prepared, host.opener)


Shown = Callable[[int, int, Tensor | None], None]  # (steps done, in all, latents of a preview)


def watching(report: host.Report, show: Shown) -> Callable[[int, int, Tensor | None, Job], None]:
    """Shows how far jobs are, and says where one was tried again; raises what stops the node."""
    shown = list[object]()

    def watch(done: int, total: int, preview: Tensor | None, job: Job) -> None:
        host.stop_all_if_asked()
        report.tell(*(words for words in [*job.ticket.losses] if words not in report))
        seen = done, total, id(preview)
        if total and seen not in shown:
            shown[:] = [seen]
            show(done, total, preview)

    return watch


def where_sampled(model: VideoModel, plan: LongPlan) -> tuple[Message, ...]:
    """What workers can do for a long video; nothing where the model names none."""
    from ...samplers.long.spread import spread_note

    return (spread_note(plan),) if model.does_jobs else ()
