"""The bar, the picture and the interrupt of the node that runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args

PREVIEW_SIZE = 512
PREVIEWS_EVERY = 0.25  # seconds at least between two previews of a node
Interrupted = mm.InterruptProcessingException


def progress() -> Callable[..., None]:
    """A function (done, in all, picture or None) that moves the running node's bar and stops when asked to.

    picture: makes one, and is called where somebody sees it, a few times a second, and at the end: each waits for the card.
    """
    bar, shown = comfy.utils.ProgressBar(1), float("-inf")

    def update(done: int, total: int, picture: Callable[[], Any] | None = None) -> None:
        nonlocal shown
        mm.throw_exception_if_processing_interrupted()
        now, preview = time.monotonic(), None
        if picture is not None and (done >= total or now - shown >= PREVIEWS_EVERY) and _previews_are_seen():
            shown, preview = now, ("JPEG", picture(), args.preview_size)
        bar.update_absolute(done, total, preview)

    return update


def _previews_are_seen() -> bool:
    """Whether the host shows previews (`--preview-method`, or the page's setting, which comes with each prompt), and the
    one who queued this prompt is connected."""
    from server import PromptServer

    server = PromptServer.instance
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return False
    return server.client_id in server.sockets if server.client_id else bool(server.sockets)
