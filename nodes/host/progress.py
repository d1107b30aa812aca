"""The bar, the picture and the interrupt of the node that runs."""

from __future__ import annotations

import logging
import sys
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_management as mm
import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.utils import get_executing_context

from ...loaders.messages import message

if TYPE_CHECKING:
    from PIL.Image import Image
    from server import PromptServer

PREVIEWS_EVERY = 0.25  # seconds at least between two previews of a node
Interrupted = mm.InterruptProcessingException
ENDS = (Interrupted, KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)  # of a run, that are meant to


class PanicError(ValueError):
    """A library has given up in a way that Python does not expect."""

    def __init__(self, kind: str, error: object) -> None:
        super().__init__(message("library_panic", kind=kind, error=str(error)))


@contextmanager
def contained() -> Iterator[None]:
    """What is no Exception, as a panic of a library in Rust, as a PanicError: it would end the thread in which the host
    runs the prompts of all people."""
    try:
        yield
    except (Exception, *ENDS):
        raise
    except BaseException as error:
        raise PanicError(type(error).__name__, error) from error


_stopped = ""  # the prompt that was stopped last


def stop_all_if_asked() -> None:
    """As `stop_if_asked`, for each of a node's runs that wait beside each other: the host tells one of them alone."""
    global _stopped
    context = get_executing_context()
    prompt = context.prompt_id if context is not None else ""
    if prompt and prompt == _stopped:
        raise Interrupted
    try:
        stop_if_asked()
    except Interrupted:
        _stopped = prompt
        raise


def stop_if_asked() -> None:
    """Raise Interrupted where a person wants the running prompt to stop."""
    mm.throw_exception_if_processing_interrupted()


def progress() -> Callable[..., None]:
    """A function (done, in all, picture or None) that moves the running node's bar and stops when asked to.

    picture: makes one, and is called where somebody sees it, a few times a second and at the end, as it waits for the
    card. The server scales it to ComfyUI's --preview-size, beside the run.
    """
    bar, last = comfy.utils.ProgressBar(1), float("-inf")

    def update(done: int, total: int, picture: Callable[[], Image] | None = None) -> None:
        nonlocal last
        stop_if_asked()
        now, preview = time.monotonic(), None
        if picture is not None and (done >= total or now - last >= PREVIEWS_EVERY) and _previews_are_seen():
            last, preview = now, _preview(picture)
        bar.update_absolute(done, total, preview)

    return update


def _preview(picture: Callable[[], Image]) -> tuple[str, Image, int] | None:
    """A preview as ComfyUI takes it; None, and logged, where it cannot be made: no run ends for it."""
    try:
        return "JPEG", picture(), args.preview_size
    except Exception:
        logging.warning("Reelwire: %s", message("no_preview"), exc_info=True)
        return None


def _previews_are_seen() -> bool:
    """Whether the one who queued this prompt is connected, and nobody has chosen that there be no previews."""
    from server import PromptServer

    server = PromptServer.instance
    if args.preview_method == LatentPreviewMethod.NoPreviews and _none_are_wanted(server):
        return False
    return server.client_id in server.sockets if server.client_id else bool(server.sockets)


def _none_are_wanted(server: PromptServer) -> bool:
    """Whether "none" was chosen, on the command line or in the page's settings, which come with each prompt. It is also
    what ComfyUI starts with, as its own previews need decoders that a new installation lacks; ours need none."""
    on_command_line = any(argument.startswith("--preview-method") for argument in sys.argv)
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return on_command_line or any(entry[3].get("preview_method") == "none" for entry in running)
