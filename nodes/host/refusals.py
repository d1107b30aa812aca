"""What is refused before a prompt is queued: one error at each input that is wrong, in the page's language.

ComfyUI repeats what `validate_inputs` answers at every input that it was asked about.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from comfy_execution.graph_utils import is_link

from ...loaders.messages import Message, data, message_of, quoted, sentences
from ...loaders.parts import Argument, JsonObject
from ...loaders.weights.json_files import parse_object
from .progress import contained

if TYPE_CHECKING:
    from typing import NotRequired  # of Python 3.11

    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

Check = tuple[Any, ...]  # (function, its arguments ...); only Python 3.11 has a type for that
MOST_KNOWN = 300  # refusals that are remembered: the answer goes to the page a moment later
MOST_BYTES = 1 << 20  # of what is asked about
PATHS = ("/prompt", "/api/prompt")
REFUSED = "custom_validation_failed"  # the host's type of an error that `validate_inputs` has answered


class HostError(TypedDict):
    """What ComfyUI says of one input, or of a prompt."""

    type: str
    message: str
    details: str
    extra_info: dict[str, object]


class Blamed(TypedDict):
    """The errors of one node."""

    errors: list[HostError]


class Answered(TypedDict):
    """What ComfyUI answers to a prompt; error: none for one that it queues a part of."""

    error: NotRequired[HostError | None]
    node_errors: dict[str, Blamed]


class Refusal(NamedTuple):
    """What is wrong with one input, "" where none is known."""

    name: str
    said: str


_known: OrderedDict[str, tuple[Refusal, ...]] = OrderedDict()  # what was answered -> what it is made of


def valid(*checks: Check) -> bool | str:
    """What `validate_inputs` answers for checks (function, values ...), which raise what the node would raise later.

    What a link will bring is None, not known yet: the check is left to the node.
    """
    refusals = []
    for check, *values in checks:
        try:
            if all(value is not None for value in values):
                with contained():
                    check(*values)
        except ValueError as error:
            said = message_of(error)
            name = str(getattr(error, "name", "")).partition(",")[0]  # of those that are wrong together, the first
            refusals.append(Refusal(name, said if isinstance(said, Message) else quoted(said)))
    return _answer(refusals)


def joined(*answers: bool | str) -> bool | str:
    """One answer of several; of an input that more than one refuses, what the first says. An answer that is not of
    `valid` stands for itself."""
    refused = [answer for answer in answers if answer is not True]
    unknown = [(Refusal("", str(answer)),) for answer in refused]
    return _answer([each for a, other in zip(refused, unknown, strict=True) for each in _known.get(str(a), other)])


def _answer(refusals: list[Refusal]) -> bool | str:
    """True, or one text with all that is refused, each input once."""
    each = tuple({refusal.name: refusal for refusal in reversed(refusals)}.values())[::-1]
    if not each:
        return True
    text = sentences(*(refusal.said for refusal in each))
    for said, parts in ((text, each), *((refusal.said, (refusal,)) for refusal in each)):
        _known[said] = parts
        _known.move_to_end(said)
    while len(_known) > MOST_KNOWN:
        _known.popitem(last=False)
    return text


# ---------------------------------------------------------------- what the page is told


def serve_refusals() -> None:
    """POST /reelwire/refusal with {"text"}: that refusal as a message, null where it is none of the last ones; and one
    error at each wrong input in what ComfyUI answers to a prompt, in English alone."""
    from aiohttp import web
    from server import PromptServer

    @PromptServer.instance.routes.post("/reelwire/refusal")
    async def refusal(request: web.Request) -> web.Response:
        if not 0 < (request.content_length or 0) <= MOST_BYTES:
            return web.json_response(None, status=400)
        try:
            text = parse_object(await request.read(), MOST_BYTES).get("text")
        except ValueError:
            return web.json_response(None, status=400)
        known = next((said for said in _known if said == text), None)
        return web.json_response(None if known is None else data(known))

    try:
        PromptServer.instance.app.middlewares.append(_at_their_inputs())
    except (AttributeError, RuntimeError):  # of a server that is running already
        logging.info("Reelwire: ComfyUI shows what is refused at all inputs of a node", exc_info=True)


def _at_their_inputs() -> Middleware:
    """A middleware that lets the answers to prompts blame what is wrong alone."""
    from aiohttp import web

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.method == "POST" and request.path in PATHS and isinstance(response, web.Response):
            try:
                answer = json.loads(response.text or "{}")
                if answer.get("node_errors") and blame(answer):
                    response.text = json.dumps(answer)
            except Exception:
                logging.warning("Reelwire: what is refused is shown as ComfyUI says it", exc_info=True)
        return response

    return middleware


def blame(answer: Answered) -> bool:
    """Leave one error at each input that is wrong in what ComfyUI answers; whether there were more."""
    error = answer.get("error")
    summary = error["details"].split("\n") if error else []
    changed = False
    for node in answer["node_errors"].values():
        errors = _each_once(node["errors"])
        old, new = ([f"{error['message']}: {error['details']}" for error in each] for each in (node["errors"], errors))
        if old != new:
            changed, node["errors"] = True, errors
            more = [line for line in new if line not in summary] if old[0] in summary else []
            summary = [line for line in summary if line not in old or line in new] + more
    if error:
        error["details"] = "\n".join(summary)
    return changed


def _each_once(errors: list[HostError]) -> list[HostError]:
    """The errors of a node; in the place of the first of those that repeat one answer of ours, one for each wrong
    input."""
    asked = {_name(error): error for error in errors if error["type"] == REFUSED}
    result, seen = list[HostError](), set[str]()
    for error in errors:
        text = error["details"].removeprefix(f"{_name(error)} - ")
        if error["type"] != REFUSED or text not in _known:
            result.append(error)
        elif text not in seen:
            seen.add(text)
            result += [_about(asked.get(refusal.name, error), refusal) for refusal in _known[text]]
    return result


def _name(error: HostError) -> str:
    return str(error["extra_info"].get("input_name", ""))


def _about(error: HostError, refusal: Refusal) -> HostError:
    """The host's error at an input, with what is wrong there alone."""
    return {**error, "details": f"{_name(error)} - {refusal.said}"}


# ---------------------------------------------------------------- links that the host cannot follow


def serve_links() -> None:
    """Let no prompt reach the host with a link of ours that it does not check and cannot follow, see `followed`."""
    from server import PromptServer

    import nodes

    try:
        PromptServer.instance.add_on_prompt_handler(partial(followed, nodes.NODE_CLASS_MAPPINGS))
    except AttributeError:
        logging.info("Reelwire: links to outputs that are not there are left to ComfyUI", exc_info=True)


def followed(kinds: Mapping[str, type], request: JsonObject) -> JsonObject:
    """A request of /prompt in which links under names that none of our inputs has lead to outputs that there are, so
    that the node itself refuses the name; without those that lead to no node.

    The host checks the inputs alone that it knows, and follows all links: where there is no such output the thread
    ends in which it runs everybody's prompts. kinds: its nodes by their types.
    """
    prompt = request.get("prompt")
    prompt = prompt if isinstance(prompt, dict) else {}
    for entry in prompt.values():
        kind, inputs = (entry.get("class_type"), entry.get("inputs")) if isinstance(entry, dict) else (None, None)
        if str(kind).startswith("Reelwire") and isinstance(inputs, dict):
            known = _names(kinds.get(str(kind)))
            for name in [name for name, value in inputs.items() if name not in known and is_link(value)]:
                source, index = inputs[name]
                count = _outputs(kinds, prompt.get(source))
                inputs[name] = [source, index if type(index) is int and 0 <= index < count else 0]
                if not count:
                    del inputs[name]
    return request


def _names(kind: Argument) -> set[str]:
    """The inputs of a node of the host."""
    return set() if kind is None else {name for group in kind.INPUT_TYPES().values() for name in group}


def _outputs(kinds: Mapping[str, type], entry: object) -> int:
    """How many outputs an entry of a prompt has."""
    kind = kinds.get(str(entry.get("class_type"))) if isinstance(entry, dict) else None
    return len(getattr(kind, "RETURN_TYPES", None) or ())
