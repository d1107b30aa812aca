"""What an unfinished render keeps."""

from __future__ import annotations

from reelwire.samplers.long.job import Job
from torch import Tensor


def kept(job: Job, window: int) -> Tensor:
    """The latents of a window, which is there."""
    latents = job.read(window)
    assert latents is not None
    return latents
