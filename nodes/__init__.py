"""All that ComfyUI sees. A file that fails to import takes down its own nodes alone, and is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from .host import serve_answers, serve_links, serve_refusals, serve_review, speaking

MODULES = (
    # the page offers the first few that take what a wire brings: what each graph needs comes first
    *("loaders", "conditioning", "sampling", "decoding", "long_video", "lora", "modifiers", "caching", "parallel"),
    *("timeline", "reports", "compare", "review"),
)


def _serve_words() -> None:
    """Answer prompts that are refused in words, and links under unknown names."""
    serve_refusals()
    serve_links()


def _serve_review() -> None:
    """Let people decide of prompts."""
    review = import_module(".review", __package__)
    serve_review(review.listed, review.decide, review.ACTIONS)


def _serve_outlook() -> None:
    """Tell timelines the frames and windows of the model that they are for."""
    outlook = import_module(".timeline.outlook", __package__)
    serve_answers(outlook.PATH, outlook.outlook)


# what goes on without each, where the host has no such routes or a node is missing
SERVED: dict[str, Callable[[], None]] = {
    "what is refused before it runs is told in English alone": _serve_words,
    "held prompts cannot be released": _serve_review,
    "timelines show no frames and windows": _serve_outlook,
}


class ReelwireExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Serve what the page asks for, each for itself."""
        for without, serve in SERVED.items():
            try:
                serve()
            except Exception:
                logging.exception("Reelwire: %s", without)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes: list[type[io.ComfyNode]] = []
        for name in MODULES:
            try:
                nodes += map(speaking, import_module(f".{name}", __package__).NODES)
            except Exception:
                logging.exception("Reelwire: the nodes of nodes/%s.py are missing", name)
        return nodes
