"""Reelwire for ComfyUI: every open video model on one wire. Nothing is imported until the host asks for the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import ReelwireExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ReelwireExtension:
    """The extension that lists the nodes."""
    from .nodes import ReelwireExtension

    return ReelwireExtension()
