"""What nodes say: notes and errors go to the page as messages in its language, with their node."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from inspect import iscoroutinefunction
from traceback import walk_tb
from types import FrameType
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakSet

from comfy_api.latest import io
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ...loaders.devices import OutOfMemory, out_of_memory
from ...loaders.messages import Message, Origin, RefusedError, data, message_of, sentences, with_remedy
from ...loaders.notices import stopped_by
from .arrivals import (
    bound,
    came_empty,
    check_again,
    check_arrivals,
    check_names,
    check_videos,
    check_widgets,
    lacking,
    lazy_status,
    links_of_running,
    own_validation,
    plain_numbers,
    validated,
    wait_for_latents,
)
from .pictures import forget_pictures
from .progress import ENDS, contained, stop_if_asked
from .refusals import joined, valid
from .sound import forget_video

if TYPE_CHECKING:
    from server import PromptServer

T = TypeVar("T")


def extended(error: Exception, words: str) -> Exception:
    """An error with more words, of a kind that the host knows: after one of memory it makes room."""
    if isinstance(error, RefusedError):
        return with_remedy(error, words)
    return (OutOfMemory if out_of_memory(error) else RuntimeError)(sentences(message_of(error), words))


def send(event: str, content: Mapping[str, object]) -> None:
    """Send an event to the page that queued the running prompt, if it was a page, with what it was queued from."""
    from server import PromptServer

    server = PromptServer.instance
    if server.client_id is not None:
        server.send_sync(event, {**_running(server), **content}, server.client_id)


def has_page() -> bool:
    """Whether whoever queued the running prompt is connected, and hears what `send` sends."""
    from server import PromptServer

    server = PromptServer.instance
    return server.client_id is not None and server.client_id in server.sockets


def _running(server: PromptServer) -> dict[str, object]:
    """The prompt that runs, and the id of its workflow, by which the page knows its tabs; None where that has none."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, _, extra, *_ in running:
        info = extra.get("extra_pnginfo")
        workflow = info.get("workflow") if isinstance(info, dict) else None
        return {"prompt_id": prompt_id, "workflow": workflow.get("id") if isinstance(workflow, dict) else None}
    return {}


def displayed(node_id: str) -> str:
    """The id of the node that the page shows: of one that another node has expanded to, that node's."""
    return str(get_progress_state().dynprompt.get_display_node_id(node_id))


# ---------------------------------------------------------------- around every node


def speaking(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """A node whose errors are told to the page, whose results know that it has made them, and whose inputs hold what
    they are for."""
    wait_for_latents(node)
    check = own_validation(node)
    node.execute = classmethod(_reported(_contained(node.execute.__func__), check))
    if any(field.lazy for field in node.define_schema().inputs):
        node.check_lazy_status = classmethod(_reported(_contained(lazy_status(node)), check))
    if node.fingerprint_inputs.__func__ is not io.ComfyNode.fingerprint_inputs.__func__:
        node.fingerprint_inputs = classmethod(_contained(node.fingerprint_inputs.__func__))
    validated(node, valid, joined)
    return node


def _contained(function: Callable[..., T]) -> Callable[..., T]:
    @wraps(function)
    def run(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> T:
        _watch_prompt()
        with contained():
            return function(cls, *args, **kwargs)

    @wraps(function)
    async def run_later(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> object:
        with contained():
            return await cast(Awaitable[object], function(cls, *args, **kwargs))

    return cast(Callable[..., T], run_later) if iscoroutinefunction(function) else run


def _reported(function: Callable[..., T], check: Callable[..., bool | str] | None) -> Callable[..., T]:
    """The function, with its inputs checked, its errors sent to the page, and its results marked with the node.

    check: the node's own `validate_inputs`, which is asked again about what came by links.
    """

    runs = function.__name__ == "execute"

    def run_checked(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> T:
        values = bound(function, args, kwargs)
        check_names(cls, values)
        check_arrivals(cls, values, runs)
        linked = links_of_running() or {}  # null in an API prompt is nothing on purpose
        came_empty.set(tuple(name for name in lacking(cls, values) if runs and name in linked))
        check_again(check, values)
        check_widgets(cls, values)
        check_videos(cls, values)
        return function(cls, **plain_numbers(cls, values))

    @wraps(function)
    def run(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> T:
        with _spoken(cls) as marked:
            return marked(run_checked(cls, *args, **kwargs))

    @wraps(function)
    async def run_later(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> object:
        with _spoken(cls) as marked:
            return marked(await cast(Awaitable[object], run_checked(cls, *args, **kwargs)))

    return cast(Callable[..., T], run_later) if iscoroutinefunction(function) else run


@contextmanager
def _spoken(cls: type[io.ComfyNode]) -> Iterator[Callable[[T], T]]:
    """Around a node that runs: its errors are told to the page. Gives what marks its results with the node."""
    _watch_prompt()
    context = get_executing_context()
    if context is None:
        yield lambda result: result
        return
    if cls.hidden is not None and not isinstance(cls.hidden.extra_pnginfo, dict):
        cls.hidden.extra_pnginfo = {}  # whatever was sent along with a prompt that no page has made

    def marked(result: T) -> T:
        if isinstance(result, io.NodeOutput):
            origin = _kind(context.node_id), context.node_id
            result.args = tuple(_made_by(origin, thing) for thing in result.args)
        return result

    with _telling(context.node_id), stopped_by(stop_if_asked):
        yield marked


@contextmanager
def _telling(node_id: str) -> Iterator[None]:
    """Tell the page of an error of ours, and which node has caused it, before the host tells where it was noticed."""
    try:
        yield
    except ENDS:
        _forget()
        raise
    except Exception as error:
        _forget()
        try:
            said = message_of(error)
            if isinstance(said, Message):
                send("reelwire.error", {"node": displayed(_cause(error, node_id)), "message": data(said)})
        finally:
            _let_go(error)
        raise


def _forget() -> None:
    """Free what was decoded for a run that will not be."""
    forget_video()
    forget_pictures()


def _let_go(error: BaseException) -> None:
    """Drop what the functions that an error has left still hold, such as the activations of a run short of memory."""
    for each in _with_causes(error):
        for frame, _ in walk_tb(each.__traceback__):
            with suppress(RuntimeError):  # it runs still
                frame.clear()


def _with_causes(error: BaseException) -> list[BaseException]:
    """An error and all that it came from, which may go in a circle."""
    waiting, found = list[BaseException | None]([error]), dict[int, BaseException]()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            waiting += [each.__cause__, each.__context__]
    return [*found.values()]


# ---------------------------------------------------------------- at the end of a prompt

_watched = WeakSet[asyncio.Task[object]]()


def _watch_prompt() -> None:
    """Have the host's own functions let go of what they hold once a prompt has ended by an error, and is told.

    They keep themselves in circles, by the traceback, or by the task of an async node that has ended with the error. A
    model in such a circle goes when garbage is collected, at any moment and in any thread. It leaves ComfyUI's list of
    what is loaded then, also while ComfyUI goes through that list, and the thread that runs the prompts would end.
    """
    try:
        tasks = asyncio.all_tasks()  # of the prompt, which has a loop of its own
    except RuntimeError:  # in a thread, of which no host of today makes one for a node
        return
    for task in tasks:
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and task not in _watched:
            _watched.add(task)
            task.add_done_callback(partial(_ended, frame))


def _ended(frame: FrameType, task: asyncio.Task[object]) -> None:
    """Let go of the errors that a coroutine which is over still holds, and of a cancellation that nobody has fetched.
    From Python 3.12 on a frame also holds the one that it was called from, so that it is not enough to clear those of
    the traceback."""
    errors = [value for value in frame.f_locals.values() if isinstance(value, BaseException)]
    if task.cancelled():
        try:
            task.result()
        except CancelledError as end:
            errors.append(end)
    for error in errors:
        _let_go(error)
        for each in _with_causes(error):
            each.__traceback__ = None


# ---------------------------------------------------------------- which node an error is about


def _cause(error: BaseException, running: str) -> str:
    """The id of the node that an error is about, among those that the running one rests on; else the running one's.

    The host keeps results from graph to graph, so that a thing may know a node by the id that it had in another.
    """
    kind, node_id = _origin(error)
    above = _above(running)
    if above.get(node_id) == kind:
        return node_id
    alike = [other for other, its_kind in above.items() if its_kind == kind]
    return alike[0] if len(alike) == 1 else running


def _origin(error: BaseException | None) -> Origin:
    """The node that an error, or what it came from, is about."""
    while error is not None:
        if origin := getattr(error, "node", None):
            return origin
        error = error.__cause__
    return "", ""


def _above(running: str) -> dict[str, str]:
    """Id -> kind of the nodes that a node rests on."""
    kinds, waiting = dict[str, str](), [running]
    while waiting:
        for value in get_progress_state().dynprompt.get_node(waiting.pop())["inputs"].values():
            if is_link(value) and value[0] not in kinds:
                kinds[value[0]] = _kind(value[0])
                waiting.append(value[0])
    return kinds


def _kind(node_id: str) -> str:
    """The class type of a node of the running prompt."""
    return str(get_progress_state().dynprompt.get_node(node_id)["class_type"])


def _made_by(origin: Origin, thing: object) -> object:
    """A thing whose own and whose parts' `node` is this one where they do not know theirs; itself where all do."""
    if isinstance(thing, tuple):
        parts = tuple(_made_by(origin, part) for part in thing)
        return thing if all(new is old for new, old in zip(parts, thing, strict=True)) else parts
    if not is_dataclass(thing) or isinstance(thing, type) or not hasattr(thing, "node"):
        return thing
    known = {"node": thing.node or origin}
    for field in fields(thing):
        if field.init and field.name != "node":
            known[field.name] = _made_by(origin, getattr(thing, field.name))
    return thing if all(getattr(thing, name) is part for name, part in known.items()) else replace(thing, **known)
