"""What the page can ask the server for: an answer in JSON, worked out beside the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ....loaders.parts import JsonObject
from ....loaders.weights.json_files import parse_object
from ..progress import contained

MOST_BYTES = 1 << 20  # of a question


def serve_answers(path: str, answer: Callable[[JsonObject], JsonObject]) -> None:
    """POST `path` with a JSON object: what a function answers to it, one question at a time."""
    from aiohttp import web
    from server import PromptServer

    turn = asyncio.Lock()

    def answered(asked: JsonObject) -> JsonObject:
        with contained():
            return answer(asked)

    @PromptServer.instance.routes.post(path)
    async def respond(request: web.Request) -> web.Response:
        if not 0 < (request.content_length or 0) <= MOST_BYTES:
            return web.json_response({}, status=400)
        try:
            asked = parse_object(await request.read(), MOST_BYTES)
        except ValueError:
            return web.json_response({}, status=400)
        try:
            async with turn:
                return web.json_response(await asyncio.to_thread(answered, asked))
        except Exception:
            logging.warning("Reelwire: %s has no answer", path, exc_info=True)
            return web.json_response({}, status=500)
