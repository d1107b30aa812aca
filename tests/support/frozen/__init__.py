"""A pack of custom nodes without a node, for a ComfyUI whose tests run hundreds of prompts.

ComfyUI collects garbage every ten seconds of runs and with each POST /free, which takes a third of a second, nearly all
of it for modules that stay. After POST /reelwire_freeze no collection looks at what was there by then.
"""

from __future__ import annotations

import gc
from typing import Any

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


@PromptServer.instance.routes.post("/reelwire_freeze")
async def freeze(request: web.Request) -> web.Response:
    gc.collect()
    gc.freeze()
    return web.json_response(None)
