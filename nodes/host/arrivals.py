"""What arrives at a node's inputs: ComfyUI hands on whatever an API prompt holds, and whatever a node of another pack
has sent under the same name of a type."""

from __future__ import annotations

import inspect
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps
from io import BytesIO
from itertools import islice
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import InputImpl, io
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...loaders.common.video_files import OPTIONS, check_frames_of, check_sound_of
from ...loaders.common.video_files import picture_notes as notes_of_pictures
from ...loaders.messages import LONGEST_NUMBER, InputError, Message, message, quoted, series
from ...loaders.request import Conditioning, Control, Keyframe
from ...loaders.video_model import VideoModel
from .memory import whole_ram
from .progress import stop_if_asked
from .sound.once import once

if TYPE_CHECKING:
    from av.container import InputContainer


@dataclass(frozen=True)
class Arrival:
    """What may arrive at an input of one type.

    fits: whether a value is of it. rule, remedy: where it is not.
    """

    fits: Callable[[Any], bool]
    rule: Message
    remedy: Message


def _link(kind: type, remedy: Message) -> Arrival:
    return Arrival(lambda value: isinstance(value, kind), message("takes_a_link"), remedy)


def _is_keyframes(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(keyframe, Keyframe) for keyframe in value)


def _is_latent(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), Tensor)


def _is_sound(value: object) -> bool:
    return isinstance(value, Mapping) and "waveform" in value and "sample_rate" in value


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; true and false are none, nor is a tensor with one in it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return int(value).bit_length() <= LONGEST_NUMBER if isinstance(value, Integral) else math.isfinite(value)


def _is_whole(value: object) -> bool:
    return _is_number(value) and value % 1 == 0  # type: ignore[operator]


LINKED = {
    "VIDEO_MODEL": _link(VideoModel, message("connect_loader")),
    "VIDEO_CONDITIONING": _link(Conditioning, message("connect_prompt")),
    "VIDEO_CONTROL": _link(Control, message("connect_control_video")),
    "KEYFRAMES": Arrival(_is_keyframes, message("takes_a_link"), message("connect_keyframes")),
    "LATENT": Arrival(_is_latent, message("takes_a_link"), message("connect_latents")),
    "IMAGE": _link(Tensor, message("connect_images")),
    "MASK": _link(Tensor, message("connect_mask")),
    "AUDIO": Arrival(_is_sound, message("takes_a_link"), message("connect_sound")),
    "VIDEO": Arrival(lambda value: hasattr(value, "get_components"), message("takes_a_link"), message("connect_video")),
}
HALF = re.compile(r"[\ud800-\udfff]")  # of a character beyond 16 bits, alone
NUMBERS: Mapping[str, type[int | float]] = {"INT": int, "FLOAT": float}
came_empty: ContextVar[tuple[str, ...]] = ContextVar("came_empty", default=())  # inputs of the node that runs
WIDGETS = {
    "INT": Arrival(_is_whole, message("takes_a_whole_number"), message("set_a_number")),
    "FLOAT": Arrival(_is_number, message("takes_a_number"), message("set_a_number")),
    "BOOLEAN": Arrival(
        lambda value: isinstance(value, (bool, int)), message("takes_yes_or_no"), message("set_yes_or_no")
    ),
    "STRING": Arrival(lambda value: isinstance(value, str), message("takes_a_text"), message("set_a_text")),
    "COMBO": Arrival(lambda value: isinstance(value, str), message("takes_a_choice"), message("set_a_choice")),
}


def check_arrivals(node: type[io.ComfyNode], values: Mapping[str, object], whole: bool) -> None:
    """Raise InputError for a value that is not of its input's type.

    whole: whether all that the node needs is there, so that None is an input without a value.
    """
    for field in _inputs(node):
        value, kinds = values.get(field.id), field.get_io_type().split(",")
        may_lack = field.optional and kinds[0] not in WIDGETS  # a widget always has a value: null is none
        if value is None and (may_lack or not (whole and field.id in values)):
            continue
        known = [(LINKED | WIDGETS)[kind] for kind in kinds if kind in LINKED or kind in WIDGETS]
        if known and not any(arrival.fits(value) for arrival in known):
            raise InputError(field.id, _shown(value), known[0].rule, known[0].remedy)
        if known and not all(map(_has_values, _tensors_in(value))):
            raise InputError(field.id, _shown(value), message("tensor_unreadable"), message("check_maker"))
        if isinstance(value, str) and HALF.search(value):  # an escape of JSON can write it, and no encoder can read it
            raise InputError(field.id, _shown(value), message("text_halves"), message("set_a_text"))


def _tensors_in(value: object) -> list[Tensor]:
    """The tensors of an IMAGE, MASK, LATENT or AUDIO."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    return [part for part in parts if isinstance(part, Tensor)]


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor is an array of numbers: none that is sparse, nested, quantised, or has a shape alone."""
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)


def lacking(node: type[io.ComfyNode], values: Mapping[str, object]) -> tuple[str, ...]:
    """The inputs that a node can do without and that are there without a value, as of a silent video's sound."""
    kinds = {field.id: field.get_io_type().split(",")[0] for field in _inputs(node) if field.optional}
    return tuple(name for name, kind in kinds.items() if kind not in WIDGETS and values.get(name, 0) is None)


def check_names(node: type[io.ComfyNode], values: Mapping[str, object]) -> None:
    """Raise InputError for a value under a name that is none of the node's inputs: ComfyUI hands on what comes there
    by a link, as of a graph that was saved for another version."""
    names = [field.id for field in _inputs(node)]
    for name, value in values.items():
        if name not in names:
            near = get_close_matches(name, names, 1)
            remedy = message("did_you_mean", key=near[0]) if near else message("remove_link")
            raise InputError(quoted(name, 60), _shown(value), message("no_such_input", names=series(names)), remedy)


def check_videos(node: type[io.ComfyNode], values: Mapping[str, object]) -> None:
    """Raise InputError for a VIDEO from a file that cannot be decoded, or not in RAM: ComfyUI decodes all of its frames
    at once."""
    for field in _inputs(node):
        kinds, video = field.get_io_type().split(","), values.get(field.id)
        if "VIDEO" not in kinds or not isinstance(video, InputImpl.VideoFromFile):
            continue
        once(video, "sound is checked", partial(_check_sound, field.id, video))
        if "IMAGE" in kinds:
            once(video, "frames are checked", partial(_check_frames, field.id, video))


def _check_sound(name: str, video: InputImpl.VideoFromFile) -> None:
    with opened_video(video, name) as file:
        check_sound_of(name, file, stop_if_asked)


def _check_frames(name: str, video: InputImpl.VideoFromFile) -> None:
    with opened_video(video, name) as file:
        check_frames_of(name, file, video.get_active_trim_window(), whole_ram(), stop_if_asked)


def picture_notes(name: str, video: object) -> tuple[Message, ...]:
    """What is to be said of the frames of a VIDEO from a file, under its input's name; nothing of anything else."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return ()

    def notes() -> tuple[Message, ...]:
        with opened_video(video, name) as file:
            return notes_of_pictures(name, file, stop_if_asked)

    return once(video, ("pictures", name), notes)


@contextmanager
def opened_video(video: InputImpl.VideoFromFile, name: str) -> Iterator[InputContainer]:
    """The file of a VIDEO; raises InputError, under this name, where it cannot be opened."""
    import av
    from av.error import FFmpegError

    source = video.get_stream_source()
    try:
        inner = BytesIO(source.getbuffer()) if isinstance(source, BytesIO) else source
        file = av.open(inner, "r", options=dict(OPTIONS))
    except (FFmpegError, OSError, ValueError, LookupError) as error:
        rule = message("video_unreadable", error=getattr(error, "strerror", None) or error)
        raise InputError(name, message("a_video"), rule, message("another_video")) from error
    with file:
        yield file


def check_widgets(node: type[io.ComfyNode], values: Mapping[str, object]) -> None:
    """Raise InputError for a number out of its widget's range, and for a choice that is not in its list: what ComfyUI
    checks of literals alone, and of none that `validate_inputs` is asked about."""
    own = own_validation(node)
    checked = set() if own is None else {*inspect.signature(own).parameters}
    for field in _inputs(node):
        value = values.get(field.id)
        if isinstance(field, (io.Int.Input, io.Float.Input)) and isinstance(value, Real):
            _check_range(field, value)
        elif isinstance(field, io.Combo.Input) and isinstance(value, str) and field.id not in checked:
            _check_choice(node, field, value)


def plain_numbers(node: type[io.ComfyNode], values: Mapping[str, object]) -> dict[str, object]:
    """The values of a node, numbers of other kinds (of NumPy, fractions) as Python's own. All have been checked."""
    result = dict(values)
    for field in _inputs(node):
        kind, value = NUMBERS.get(field.get_io_type()), values.get(field.id)
        if kind is not None and isinstance(value, Real) and type(value) not in (int, kind):
            result[field.id] = kind(value)  # type: ignore[call-overload]
    return result


def _inputs(node: type[io.ComfyNode]) -> list[io.Input]:
    return list((node.SCHEMA or node.define_schema()).inputs)


def check_again(validate: Callable[..., bool | str] | None, values: Mapping[str, object]) -> None:
    """Raise InputError for what a node's own `validate_inputs` could not know: values that came by links."""
    if validate is None:
        return
    names = {*inspect.signature(validate).parameters}
    known = {name: value if isinstance(value, (str, Real)) else None for name, value in values.items()}
    answer = validate(**{name: value for name, value in known.items() if name in names})
    if isinstance(answer, str):
        raise InputError("", "", answer)  # which names its input


def _check_range(field: io.Int.Input | io.Float.Input, value: Real) -> None:
    """Raise InputError for a number out of its widget's range, and for what is none."""
    least, most = field.min, field.max
    if not _is_number(value):
        raise InputError(field.id, _shown(value), message("takes_a_number"), message("set_a_number"))
    if (least is not None and value < least) or (most is not None and value > most):
        rule = message("takes_a_range", least=least, most=most)
        raise InputError(field.id, value, rule, message("set_a_number"))


def _check_choice(node: type[io.ComfyNode], field: io.Combo.Input, value: str) -> None:
    """Raise InputError for what is not in a list, nor in the one that is made anew, as files come and go."""
    if value in field.options:
        return
    fresh = next(each for each in node.define_schema().inputs if each.id == field.id)
    if value not in fresh.options:
        raise InputError(field.id, value, message("takes_a_choice"), message("set_a_choice"))


def _shown(value: object) -> Message:
    """A value and its Python type, or that there is none."""
    if value is None:
        return message("nothing")
    if isinstance(value, Mapping) and value:
        short: object = f"{{...}} {[str(name)[:40] for name in islice(value, 4)]}"
    else:
        short = value if isinstance(value, int) else _SHORT.repr(value)
    return message("value_of_type", shown=short, kind=type(value).__name__)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def bound(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a node's class method by their names."""
    names = [*inspect.signature(function).parameters][1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def own_validation(node: type[io.ComfyNode]) -> Callable[..., bool | str] | None:
    """A node's `validate_inputs` as it was written; None where it has none."""
    plain = node.validate_inputs.__func__ is io.ComfyNode.validate_inputs.__func__
    return None if plain else node.validate_inputs


Answer = Callable[..., "bool | str"]  # what `validate_inputs` answers, of checks or of other answers


def validated(node: type[io.ComfyNode], check: Answer, joined: Answer) -> None:
    """Let ComfyUI ask this node, before a prompt is queued, about literals where links belong too.

    ComfyUI hands `validate_inputs` the inputs that its signature names, and leaves its own checks of these to it; of
    those that take a link it has none, and of numbers one that lets NaN pass. check: answers for each (function, its
    arguments ...), as `valid` does. joined: makes one answer of several.
    """
    own = own_validation(node)
    asked = [] if own is None else [*inspect.signature(own).parameters.values()]
    names = {parameter.name for parameter in asked}
    asked_here = LINKED.keys() | NUMBERS.keys()
    more_names = [
        f.id for f in node.define_schema().inputs if f.id not in names and {*f.get_io_type().split(",")} & asked_here
    ]

    def validate_inputs(cls: type[io.ComfyNode], **values: object) -> bool | str:
        answers = {name: check((check_arrivals, node, {name: value}, False)) for name, value in values.items()}
        fit = {name: value if answers[name] is True else None for name, value in values.items()}
        # it says more of what cannot be than a widget's range
        said = True if own is None else own(**{name: value for name, value in fit.items() if name in names})
        widgets = (check((check_widgets, node, {name: value})) for name, value in fit.items())
        return joined(*answers.values(), said, *widgets)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    more = [inspect.Parameter(name, kind, default=None) for name in more_names]
    first = inspect.Parameter("cls", kind)
    validate_inputs.__signature__ = inspect.Signature([first, *asked, *more])  # type: ignore[attr-defined]
    node.validate_inputs = classmethod(validate_inputs)


# ---------------------------------------------------------------- before what takes hours


def wait_for_latents(node: type[io.ComfyNode]) -> None:
    """Let ComfyUI sample the latents that a node takes after the node has seen all its other inputs."""
    own = node.define_schema.__func__

    def define_schema(cls: type[io.ComfyNode]) -> io.Schema:
        schema: io.Schema = own(cls)
        for field in schema.inputs:
            if "LATENT" in field.get_io_type().split(","):
                field.lazy = True
        return schema

    node.define_schema = classmethod(define_schema)


def pending(node: type[io.ComfyNode], inputs: Mapping[str, object]) -> list[str]:
    """The lazy inputs of a node that are connected and not there yet."""
    fields, links = (node.SCHEMA or node.define_schema()).inputs, links_of_running()
    lazy = [field.id for field in fields if field.lazy and field.id in inputs and inputs[field.id] is None]
    if links is None:
        return lazy
    there = {links.get(field.id) for field in fields if not field.lazy}
    return [name for name in lazy if name in links and links[name] not in there]


def in_turn(stages: Iterable[Sequence[str]]) -> list[str]:
    """Of stages of inputs, all `pending`, those to ask ComfyUI for next. What was asked for in this run and still is
    pending has come without a value, as of a switch that leaves something out."""
    context, links = get_executing_context(), links_of_running() or {}
    asked = set[str]() if context is None else _asked_by(context.prompt_id, (context.node_id, context.list_index))
    there = {links.get(name, name) for name in asked}
    left = ([name for name in stage if name not in asked and links.get(name, name) not in there] for stage in stages)
    wanted = next(filter(None, left), [])
    asked.update(wanted)
    return wanted


def links_of_running() -> dict[str, str] | None:
    """Input -> the node that its link leads to, of the node that ComfyUI runs; None where it runs none."""
    context = get_executing_context()
    if context is None:
        return None
    inputs = get_progress_state().dynprompt.get_node(context.node_id)["inputs"]
    return {name: value[0] for name, value in inputs.items() if is_link(value)}


_asked: dict[str, dict[tuple[str, int | None], set[str]]] = {}  # prompt -> node, and its place in a list -> inputs


def _asked_by(prompt: str, node: tuple[str, int | None]) -> set[str]:
    """What a node of the running prompt has asked for; of other prompts nothing is kept."""
    for other in _asked.keys() - {prompt}:
        _asked.pop(other, None)
    return _asked.setdefault(prompt, {}).setdefault(node, set())


def lazy_status(node: type[io.ComfyNode]) -> Callable[..., list[str]]:
    """The `check_lazy_status` of a node; where it has none of its own, all that is lazy is asked for."""
    own, plain = (c.check_lazy_status.__func__ for c in (node, io.ComfyNode))

    @wraps(own)
    def check_lazy_status(cls: type[io.ComfyNode], *args: object, **inputs: object) -> list[str]:
        result: list[str] = pending(cls, inputs) if own is plain else own(cls, *args, **inputs)
        return result

    return check_lazy_status
