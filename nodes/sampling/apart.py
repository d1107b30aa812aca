"""Sampling by the workers that a model's `parallel` names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...loaders.request import Conditioning
from ...loaders.video_model import VideoModel
from .. import host

if TYPE_CHECKING:
    from ...samplers.parallel.jobs import Done, Job
    from ...samplers.plan import SamplingPlan

PAUSE = 0.05  # seconds between two looks at a job


async def sampled_apart(
    model: VideoModel, conditioning: Conditioning, prepared: SamplingPlan, report: host.Report
) -> Done:
    """What came of a plan on some worker. Meanwhile ComfyUI runs other nodes, and this one for other entries of a
    list."""
    job, watch = submitted(model, conditioning, prepared), watching(model, report)
    try:
        while not job.is_done:
            watch(job)
            await asyncio.sleep(PAUSE)
        watch(job)
        done = job.result()
        report.tell(*done.notes)
        return done
    finally:
        job.cancel()


def submitted(model: VideoModel, conditioning: Conditioning, prepared: SamplingPlan) -> Job:
    """A plan on its way to a worker. Raises InputError where there are none."""
    from ...samplers.parallel.cluster import import_ray
    from ...samplers.parallel.jobs import submit

    assert model.parallel is not None
    import_ray(model.parallel.address)
    return submit(model, conditioning, prepared, host.opener())


def watching(model: VideoModel, report: host.Report) -> Callable[[Job], None]:
    """Shows how far a job is, and says where it was tried again; raises what stops the node."""
    update, seen = host.progress(), list[object]()

    def watch(job: Job) -> None:
        host.stop_if_asked()
        report.tell(*(words for words in [*job.ticket.losses] if words not in report))
        look = job.look
        if look.total and look not in seen:
            seen[:] = [look]
            preview = look.preview
            picture = None if preview is None else lambda: host.latent_preview(model, preview)
            update(look.done, look.total, picture)

    return watch
