"""A pack of custom nodes without a node, for a ComfyUI whose tests run hundreds of prompts.

ComfyUI collects garbage every ten seconds of runs and with each POST /free, which takes a third of a second, nearly all
of it for modules that stay. After POST /reelwire_freeze no collection looks at what was there by then.
"""

from __future__ import annotations

import gc
from typing import Any

import comfy.model_management as mm
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
_collect = gc.collect


@PromptServer.instance.routes.post("/reelwire_freeze")
async def freeze(request: web.Request) -> web.Response:
    gc.collect()
    gc.freeze()
    return web.json_response(None)


@PromptServer.instance.routes.post("/reelwire_garbage")
async def garbage(request: web.Request) -> web.Response:
    """Collect garbage from now on, or none; the kinds of the parts in ComfyUI's list of what is loaded."""
    if await request.json():
        gc.collect = _collect
        gc.enable()
    else:
        gc.collect = lambda *_: 0
        gc.disable()
    return web.json_response([type(each.model.model.inner).__name__ for each in mm.current_loaded_models])


@PromptServer.instance.routes.post("/reelwire_fail")
async def fail(request: web.Request) -> web.Response:
    """An error in the node that runs, the next time that it looks whether it was interrupted."""
    look = mm.throw_exception_if_processing_interrupted

    def failing() -> None:
        mm.throw_exception_if_processing_interrupted = look
        raise RuntimeError("as the test wants it")

    mm.throw_exception_if_processing_interrupted = failing
    return web.json_response(None)
