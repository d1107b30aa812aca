"""The bar, the picture and the interrupt of the node that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import comfy.utils

PREVIEW_SIZE = 512
Interrupted = mm.InterruptProcessingException


def progress() -> Callable[..., None]:
    """A function (done, in all, picture or None) that moves the running node's bar, shows the picture and stops when asked to."""
    bar = comfy.utils.ProgressBar(1)

    def update(done: int, total: int, picture: Any = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total, None if picture is None else ("JPEG", picture, PREVIEW_SIZE))

    return update
