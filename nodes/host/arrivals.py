"""What arrives at a node's inputs: ComfyUI hands on whatever an API prompt holds, and whatever a node of another pack
has sent under the same name of a type."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...loaders.messages import InputError, Message, message
from ...loaders.request import Conditioning, Control, Keyframe
from ...loaders.video_model import VideoModel


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
    return isinstance(value, Real) and math.isfinite(value)


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
_NUMBER = Arrival(_is_number, message("takes_a_number"), message("set_a_number"))
WIDGETS = {
    "INT": _NUMBER,
    "FLOAT": _NUMBER,
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
    for field in (node.SCHEMA or node.define_schema()).inputs:
        value = values.get(field.id)
        if value is None and (field.optional or not (whole and field.id in values)):
            continue
        kinds = field.get_io_type().split(",")
        known = [(LINKED | WIDGETS)[kind] for kind in kinds if kind in LINKED or kind in WIDGETS]
        if known and not any(arrival.fits(value) for arrival in known):
            raise InputError(field.id, _shown(value), known[0].rule, known[0].remedy)


def _shown(value: object) -> Message:
    """A value and its Python type, or that there is none."""
    if value is None:
        return message("nothing")
    short = f"{{...}} {list(map(str, value))[:4]}" if isinstance(value, Mapping) and value else repr(value)[:40]
    return message("value_of_type", shown=short, kind=type(value).__name__)


def bound(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a node's class method by their names."""
    names = [*inspect.signature(function).parameters][1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def validated(node: type[io.ComfyNode], check: Callable[..., bool | str]) -> None:
    """Let ComfyUI ask this node, before a prompt is queued, about literals where links belong too.

    ComfyUI hands `validate_inputs` the inputs that its signature names, and leaves its own checks of these to it; of
    those that take a link it has none. check: answers for (function, its arguments ...), as `valid` does.
    """
    plain = node.validate_inputs.__func__ is io.ComfyNode.validate_inputs.__func__
    own = None if plain else node.validate_inputs
    asked = [] if own is None else [*inspect.signature(own).parameters.values()]
    names = {parameter.name for parameter in asked}
    sockets = [
        f.id for f in node.define_schema().inputs if f.id not in names and {*f.get_io_type().split(",")} & {*LINKED}
    ]

    def validate_inputs(cls: type[io.ComfyNode], **values: object) -> bool | str:
        answer = check((check_arrivals, node, values, False))
        if answer is not True or own is None:
            return answer
        return own.__func__(cls, **{name: value for name, value in values.items() if name in names})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    more = [inspect.Parameter(name, kind, default=None) for name in sockets]
    first = inspect.Parameter("cls", kind)
    validate_inputs.__signature__ = inspect.Signature([first, *asked, *more])  # type: ignore[attr-defined]
    node.validate_inputs = classmethod(validate_inputs)
