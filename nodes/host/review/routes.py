"""Routes for people who decide of prompts. The host's guard against other sites stands before all routes; what changes
something takes JSON alone, which a page of another site cannot send without being asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from ....loaders.files import HeldError
from ....loaders.messages import data, either, message, message_of
from ....loaders.parts import JsonObject
from ....loaders.weights.json_files import parse_object

if TYPE_CHECKING:
    from aiohttp import web

ROUTE = "/reelwire/review"
MOST_BYTES = 1024  # of what is sent
ID_LENGTH = 32
Listed = Callable[[], JsonObject]
Decide = Callable[[str, str, str, str], JsonObject]


def tell_all(event: str, content: Mapping[str, object]) -> None:
    """Send an event to every page; "own" tells the one whose prompt runs."""
    from server import PromptServer

    server = PromptServer.instance
    for client in list(server.sockets):
        server.send_sync(event, {**content, "own": client == server.client_id}, client)


def serve_review(listed: Listed, decide: Decide, actions: Collection[str]) -> None:
    """GET /reelwire/review: what waits and what was decided; POST with {"id", "action"}: decide of one."""
    from server import PromptServer

    server = PromptServer.instance

    @server.routes.get(ROUTE)
    async def show(request: web.Request) -> web.Response:
        return await _answer(listed)

    @server.routes.post(ROUTE)
    async def change(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _refusal(message("review_send_json"), 415)
        try:
            user = str(server.user_manager.get_request_user_id(request))
            case, action = await _asked(request, actions)
        except KeyError:
            return _refusal(message("review_unknown_user"), 403)
        except ValueError as error:
            return _refusal(message_of(error), 400)
        answer = await _answer(lambda: decide(case, action, user, str(request.remote or "")))
        if answer.status == 200:
            tell_all("reelwire.review", {"held": False})
        return answer


async def _asked(request: web.Request, actions: Collection[str]) -> tuple[str, str]:
    """(id, action) of a request; raises ValueError for anything else."""
    if not 0 < (request.content_length or 0) <= MOST_BYTES:
        raise ValueError(message("review_send_bytes", most=MOST_BYTES))
    asked = parse_object(await request.read(), MOST_BYTES)
    case, action = asked.get("id"), asked.get("action")
    if not isinstance(case, str) or len(case) != ID_LENGTH or action not in actions:
        raise ValueError(message("review_send", actions=either(*actions)))
    return case, str(action)


async def _answer(act: Callable[[], JsonObject]) -> web.Response:
    """What a function answers, or why it cannot, in words."""
    from aiohttp import web

    try:
        return web.json_response(await asyncio.to_thread(act))
    except LookupError:
        return _refusal(message("review_no_prompt"), 404)
    except (ValueError, OSError) as error:
        status = 503 if isinstance(error, HeldError) else 500
        logging.warning("Reelwire: %s", message_of(error))
        return _refusal(message_of(error), status)


def _refusal(said: str, status: int) -> web.Response:
    """Why not, in English, and for the page."""
    from aiohttp import web

    return web.json_response({"error": said, "message": data(said)}, status=status)
