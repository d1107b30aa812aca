"""Reelwire for ComfyUI: every open video model on one wire. Nothing is imported until the host asks for the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension that lists the nodes."""
    from .nodes import ReelwireExtension

    return ReelwireExtension()
