"""A LoRA file as it is -> what of it fits a network, and what a person should hear of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from ...messages import CheckpointError, Message, listed, message, reason_of, sentences
from ...parts import Part
from ..entry import Entry, describing
from ..format import CheckpointFormat
from ..json_files import MOST_BYTES, read_bytes
from ..kinds import kind_of_layers
from ..modules import read_tensors
from ..safetensors import read_file
from .delta import Deltas
from .keys import Key, grouped
from .names import Fitting, fit
from .settings import CONFIG, Settings, belongs, config_beside, digest, header_settings, read_settings

LEAST = 0.5  # of a file's layers that must fit: relatives of a model share most of them, other families next to none


@dataclass(frozen=True)
class Contents:
    """What a file gives a model. deltas: of its network; low_deltas: of the expert for low noise, if those differ;
    notes: what was left out; settings: a mark of what was read beside the tensors."""

    deltas: Deltas
    low_deltas: Deltas | None = None
    notes: tuple[Message, ...] = field(default=(), compare=False)
    settings: str = ""


def settings_file(file: Path) -> Path | None:
    """The file beside a LoRA that says something of it, if there is one."""
    config = config_beside(file)
    return config if config is not None and belongs(file) else None


def read_lora(file: Path, form: CheckpointFormat, part: Part, experts: int = 1) -> Contents:
    """What of a file fits `part`, and the other one of two experts.

    Raises CheckpointError where less than half of it does, or where a number in it is none.
    """
    with describing(file, "LoRA"):
        entries, metadata = read_file(file)
        groups = grouped(entries)
        if not groups.experts:
            cause = message("lora_text_alone") if groups.text else message("lora_empty")
            raise CheckpointError(message("lora_unusable", file=file.name, cause=cause), message("use_lora_form"))
        text, notes = _settings_text(file, metadata)
        fittings = {}
        for expert, keys in groups.experts.items():
            settings, unreadable = _settings(file, text, expert)
            fittings[expert] = fit(keys, entries, form, part, settings)
            notes += unreadable
        shared = fittings.pop("", Fitting())
        used, unused = _chosen(fittings, experts)
        _check_share(file, [shared, *used.values()], groups.experts)
        notes += (*_left_out(file, [shared, *used.values()]), *_unused(file, unused), *_text_part(file, groups.text))
        high, low = ({**shared.deltas, **_deltas(used, name)} for name in ("high", "low"))
        if experts < 2:
            high = {**low, **high}
        notes += _check_numbers(file, [high, low])
        return Contents(high, low if experts > 1 and used else None, notes, digest(text))


def _deltas(fittings: Mapping[str, Fitting], expert: str) -> Deltas:
    return fittings[expert].deltas if expert in fittings else {}


def _chosen(fittings: dict[str, Fitting], experts: int) -> tuple[dict[str, Fitting], dict[str, Fitting]]:
    """The parts of a file that a model uses and those that it has no use for: one network takes the first expert's."""
    if experts > 1 or len(fittings) < 2:
        return fittings, {}
    return {"high": fittings["high"]}, {"low": fittings["low"]}


# ---------------------------------------------------------------- what is said of a file


def _settings_text(file: Path, metadata: Mapping[str, str]) -> tuple[str, tuple[Message, ...]]:
    """The settings of a file as text, its own before those beside it; "" for none."""
    if text := header_settings(metadata):
        return text, ()
    config = config_beside(file)
    if config is None:
        return "", ()
    if not belongs(file):
        return "", (message("lora_config_unused", file=file.name, config=CONFIG),)
    try:
        return read_bytes(config, MOST_BYTES).decode("utf-8"), ()
    except ValueError as error:
        return "", (message("lora_settings_unreadable", file=file.name, error=reason_of(error)),)


def _settings(file: Path, text: str, expert: str) -> tuple[Settings, tuple[Message, ...]]:
    if not text:
        return Settings(), ()
    try:
        return read_settings(text, expert), ()
    except (ValueError, TypeError, AttributeError) as error:
        return Settings(), (message("lora_settings_unreadable", file=file.name, error=reason_of(error)),)


def _check_share(file: Path, fittings: list[Fitting], experts: Mapping[str, Mapping[str, Key]]) -> None:
    """Raise CheckpointError where less than LEAST of the layers fit."""
    fitting, wrong = sum(each.fitting for each in fittings), [name for each in fittings for name in each.wrong]
    unknown = sum(len(each.unknown) for each in fittings)
    if fitting and fitting >= LEAST * (fitting + len(wrong)):
        return
    if unknown and unknown == len(wrong) and not fitting:
        strange = sorted(name for each in fittings for name in each.unknown)
        cause = message("lora_strange", keys=_list(strange))
        raise CheckpointError(message("lora_unusable", file=file.name, cause=cause), message("use_lora_form"))
    rule = message(
        "lora_does_not_fit", file=file.name, wrong=len(wrong), count=fitting + len(wrong), names=_list(wrong)
    )
    sizes = next((each.sizes for each in fittings if each.sizes[0]), None)
    different = message("lora_sizes", theirs=_size(sizes[0]), ours=_size(sizes[1])) if sizes else ""
    kind = kind_of_layers({key.layer for keys in experts.values() for key in keys.values()})
    named = message("lora_named_as", kind=kind) if kind else ""
    raise CheckpointError(sentences(rule, named, different), message("use_lora_of_family"))


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _list(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _left_out(file: Path, fittings: list[Fitting]) -> tuple[Message, ...]:
    """What to say of layers that were left out, by the reason."""
    absent, reshaped = ([name for each in fittings for name in getattr(each, kind)] for kind in ("absent", "reshaped"))
    incomplete, unknown = ([name for each in fittings for name in getattr(each, k)] for k in ("incomplete", "unknown"))
    causes = [
        *([message("lora_absent", count=len(absent), names=_list(absent, 3))] if absent else ()),
        *([message("lora_reshaped", count=len(reshaped), names=_list(reshaped, 3))] if reshaped else ()),
        *([message("lora_incomplete", count=len(incomplete), names=_list(incomplete, 3))] if incomplete else ()),
        *([message("lora_unknown", count=len(unknown), names=_list(unknown, 3))] if unknown else ()),
    ]
    count = sum(map(len, (absent, reshaped, incomplete, unknown)))
    total = count + sum(each.fitting for each in fittings)
    left_out = message("lora_left_out", file=file.name, count=count, total=total, causes=listed(causes))
    return (left_out,) if causes else ()


def _unused(file: Path, fittings: Mapping[str, Fitting]) -> tuple[Message, ...]:
    """What to say of an expert's part that the model has no use for."""
    count = sum(len(each.deltas) for each in fittings.values())
    return (message("lora_expert_left_out", file=file.name, count=count),) if fittings else ()


def _text_part(file: Path, keys: list[str]) -> tuple[Message, ...]:
    """What to say of the part for a text encoder."""
    return (message("lora_text_left_out", file=file.name, count=len(keys), names=_list(keys, 3)),) if keys else ()


# ---------------------------------------------------------------- its numbers


def _check_numbers(file: Path, parts: list[Deltas]) -> tuple[Message, ...]:
    """What to say of a file whose numbers change nothing. Raises CheckpointError where a tensor that is used holds NaN
    or infinity."""
    used = {entry.key for deltas in parts for delta in deltas.values() for entry in delta.tensors.values()}
    state = file.stat()
    not_finite, zeros = _strange_numbers(file, state.st_mtime_ns, state.st_size)
    broken = [key for key in not_finite if key in used]
    if broken:
        rule = message("lora_not_finite", file=file.name, count=len(broken), names=_list(broken, 3))
        raise CheckpointError(rule, message("lora_not_finite_remedy"))
    if all(delta.is_nothing(zeros) for deltas in parts for delta in deltas.values()):
        return (message("lora_zero", file=file.name, count=len({name for deltas in parts for name in deltas})),)
    return ()


@lru_cache(maxsize=64)
def _strange_numbers(file: Path, modified: int, size: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """The keys of a file whose numbers are not all finite, and those of nothing but 0; read once for each state of the
    file."""
    entries: dict[str, Entry] = read_file(file)[0]
    numbers = {key: entry for key, entry in entries.items() if math.prod(entry.shape)}
    not_finite, zeros = list[str](), set[str]()
    for key, tensor in read_tensors(numbers):
        if not torch.isfinite(tensor).all():
            not_finite.append(key)
        elif not tensor.any():
            zeros.add(key)
    return tuple(not_finite), frozenset(zeros)
