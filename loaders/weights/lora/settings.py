"""What a file's trainer says of its ranks and alphas: peft's config, in a safetensors header or beside the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from ...parts import JsonObject
from ..json_files import excerpt, parse_json, parse_object

MOST_RANK = 10**6  # and alpha; those of published files stay under 1,000
MOST_PATTERNS = 4096  # one for each layer of the largest published networks
MOST_SIGNS, MOST_REPEATS = 300, 3  # of a pattern
_REPEATS = re.compile(r"[*+{]")
_NESTED = re.compile(r"\)[*+?{]|\(\?|\\[1-9]")  # a group that is repeated or looks around takes exponential time
T = TypeVar("T", int, float)
METADATA = "lora_adapter_metadata"  # diffusers, loaders/lora_base.py, LORA_ADAPTER_METADATA_KEY
CONFIG = "adapter_config.json"  # peft, utils/constants.py, CONFIG_NAME
# single values that trainers write into headers -> peft's names of them
_NAMES = {
    "lora_alpha": "lora_alpha",
    "network_alpha": "lora_alpha",
    "r": "r",
    "rank": "r",
    "network_dim": "r",
    "use_rslora": "use_rslora",
    "alpha_pattern": "alpha_pattern",
    "rank_pattern": "rank_pattern",
}
_PREFIXES = {"low": ("transformer_2.", "transformer.", "unet.", ""), "": ("transformer.", "unet.", "")}


@dataclass(frozen=True)
class Settings:
    """peft's LoraConfig, LoHaConfig or LoKrConfig, as far as it decides about a layer's scale.

    alpha, rank: of all layers; None: not said.
    alphas, ranks: patterns of layers' names -> theirs.
    root: alpha / sqrt(rank) in place of alpha / rank (rank-stabilised; Kalajdzievski 2023).
    """

    alpha: float | None = None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    root: bool = False

    def of(self, layer: str) -> tuple[float | None, int | None]:
        """(alpha, rank) of a layer; the first pattern counts that its name, or the end of it behind a dot, matches."""
        return _first(self.alphas, layer, self.alpha), _first(self.ranks, layer, self.rank)


def _first(patterns: Mapping[str, T], layer: str, otherwise: T | None) -> T | None:
    """peft, utils/other.py, get_pattern_key."""
    matching = (value for pattern, value in patterns.items() if _compiled(pattern).match(layer))
    return next(matching, otherwise)


@lru_cache(MOST_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def config_beside(file: Path) -> Path | None:
    """The adapter_config.json that belongs to a file, if there is one in its folder."""
    config = file.with_name(CONFIG)
    return config if config.is_file() else None


def belongs(file: Path) -> bool:
    """Whether a config beside a file is its: peft's own name says so, and so does a folder with one LoRA."""
    return file.stem.startswith("adapter_model") or len([*file.parent.glob("*.safetensors")]) == 1


def header_settings(metadata: Mapping[str, str]) -> str:
    """The settings in a safetensors header as JSON: diffusers' text, or trainers' single values; "" for none."""
    if METADATA in metadata:
        return metadata[METADATA]
    named = {key: _NAMES[name] for key in metadata if (name := key.rpartition(".")[2]) in _NAMES}
    places = {key: key[: len(key) - len(key.rpartition(".")[2])] + name for key, name in named.items()}
    values = {places[key]: _value(metadata[key]) for key in named}
    return json.dumps(values) if any(key.endswith("alpha") for key in values) else ""


def _value(text: str) -> object:
    """What a text in a header stands for; the text itself where it is no JSON."""
    try:
        return parse_json(text.lower() if text in ("True", "False", "None") else text)
    except ValueError:
        return text


def read_settings(text: str, expert: str) -> Settings:
    """The settings of one expert in a JSON text; raises ValueError, TypeError or AttributeError for
    one that says something else."""
    values = parse_object(text)
    prefixes = _PREFIXES.get(expert, _PREFIXES[""])
    return _settings(next((inner for prefix in prefixes if (inner := _under(values, prefix))), {}))


def _under(values: JsonObject, prefix: str) -> JsonObject:
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    return own if {"r", "lora_alpha", "alpha"} & own.keys() else {}


def _settings(values: JsonObject) -> Settings:
    """Raises ValueError for values of other types, TypeError or AttributeError for other structures."""
    alpha, rank = values.get("lora_alpha", values.get("alpha")), values.get("r")
    ranks = {_checked(pattern): int(_bounded(value)) for pattern, value in (values.get("rank_pattern") or {}).items()}
    alphas = {_checked(pattern): _bounded(value) for pattern, value in (values.get("alpha_pattern") or {}).items()}
    if len(ranks) + len(alphas) > MOST_PATTERNS:
        raise ValueError(len(ranks) + len(alphas))
    numbers = None if alpha is None else _bounded(alpha), None if rank is None else int(_bounded(rank))
    if any(count < 1 for count in (*ranks.values(), *([] if numbers[1] is None else [numbers[1]]))):
        raise ValueError(f"r < 1: {ranks or numbers[1]}")
    return Settings(*numbers, alphas, ranks, bool(values.get("use_rslora")))


def _bounded(value: float | str) -> float:
    """A rank or an alpha as a number; raises ValueError for one that no LoRA has."""
    number = float(value)
    if isinstance(value, bool) or not abs(number) <= MOST_RANK:
        raise ValueError(excerpt(value))
    return number


def _checked(pattern: str) -> str:
    """A pattern that is matched in no time: peft's are names, or names with a group, `.*` or `\\d+` in them."""
    if len(pattern) > MOST_SIGNS or len(_REPEATS.findall(pattern)) > MOST_REPEATS or _NESTED.search(pattern):
        raise ValueError(excerpt(pattern))
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{excerpt(pattern)}: {error}") from error
    return pattern


def digest(text: str) -> str:
    """A short mark of settings, for what must not be mixed up."""
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""
