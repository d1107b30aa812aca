"""Which inputs count under which choice: the page hides those that do nothing, and the node reports those that were
changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from comfy_api.latest import io

from ..loaders.families import FAMILIES, family
from ..loaders.messages import Message, inputs_named, message
from ..loaders.video_model import VideoModel

KEY = "reelwire"  # what the page finds beside an input's default and tooltip
FAMILY = "family"
# input -> the conditions under which it counts: another input -> the values that it must have, or True where something
# must be connected to it, or {"not": those that it must not have}; "family" -> the families of which the model must be
Wanted = tuple[str, ...] | Literal[True] | Mapping[str, tuple[str, ...]]
Conditions = Mapping[str, Mapping[str, Wanted]]


def counted(inputs: list[io.Input], conditions: Conditions) -> list[io.Input]:
    """The inputs of a node, those of the table with the conditions under which they count."""
    named = {field.id: field for field in inputs}
    for name, needed in conditions.items():
        families = needed.get(FAMILY, ())
        strange = needed.keys() - named.keys() - {FAMILY}
        strange |= {*families} - {*FAMILIES} if isinstance(families, tuple) else set()
        if strange:
            raise LookupError(
                f"{name} cannot depend on {', '.join(sorted(strange))}: there is no such input or family."
            )
        named[name].extra_dict = {KEY: {"when": dict(needed)}}
    return inputs


def of_family(checkpoint: io.Input, name: str) -> io.Input:
    """A loader's input, by which the page knows the family of the loader's models."""
    checkpoint.extra_dict = {KEY: {FAMILY: name}}
    return checkpoint


def idle(cls: type[io.ComfyNode], inputs: Mapping[str, object], model: VideoModel | None = None) -> tuple[Message, ...]:
    """What to say of inputs that were changed and do nothing, by the conditions in the node's schema."""
    lines = []
    for field in (cls.SCHEMA or cls.define_schema()).inputs:
        needed = field.extra_dict.get(KEY, {}).get("when", {})
        if not needed or inputs.get(field.id) in (None, field.default):
            continue
        failed = next((name for name in needed if not _holds(name, needed[name], inputs, model)), None)
        if failed is not None:
            lines.append(_line(field.id, failed, needed[failed], inputs, model))
    return tuple(lines)


def _holds(name: str, wanted: Wanted, inputs: Mapping[str, object], model: VideoModel | None) -> bool:
    """Whether a condition of an input is met."""
    if wanted is True:
        return inputs.get(name) is not None
    if isinstance(wanted, Mapping):
        return inputs.get(name) not in wanted["not"]
    if name == FAMILY:
        return model is None or model.name in wanted
    return inputs.get(name) in wanted


def _line(name: str, failed: str, wanted: Wanted, inputs: Mapping[str, object], model: VideoModel | None) -> Message:
    """What to say of an input whose condition is not met."""
    values = {"input": inputs_named(name), "value": inputs[name]}
    if wanted is True:
        return message("idle_unconnected", other=inputs_named(failed), **values)
    if isinstance(wanted, Mapping):
        return message("idle_unless", other=inputs_named(failed), choice=inputs[failed], **values)
    if failed == FAMILY and model is not None:
        titles = ", ".join(family(known).title for known in wanted)
        return message("idle_family", title=model.title, titles=titles, **values)
    return message("idle_choice", other=inputs_named(failed), choice=inputs[failed], wanted=", ".join(wanted), **values)
