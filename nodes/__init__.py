"""All that ComfyUI sees. A file that fails to import takes down its own nodes alone, and is logged."""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from .host import serve_links, serve_refusals, speaking

MODULES = (
    "loaders",
    "modifiers",
    "parallel",
    "lora",
    "conditioning",
    "sampling",
    "long_video",
    "caching",
    "decoding",
    "reports",
)


class ReelwireExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Serve refusals, where the host has routes."""
        try:
            serve_refusals()
            serve_links()
        except AttributeError:
            logging.exception("Reelwire: what is refused before it runs is told in English alone")

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes: list[type[io.ComfyNode]] = []
        for name in MODULES:
            try:
                nodes += map(speaking, import_module(f".{name}", __package__).NODES)
            except Exception:
                logging.exception("Reelwire: the nodes of nodes/%s.py are missing", name)
        return nodes
