"""Configs that something is wrong with: one entry of another type, out of any range, nested, missing or unknown."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# where a checkpoint folder has JSON that decides what is built
FILES = ("config.json", "scheduler_config.json", "model_index.json", "preprocessor_config.json", "reelwire.json")
ENTRIES: tuple[Any, ...] = (
    None,
    True,
    "owner/name",
    "",
    0,
    -1,
    1,
    3,
    10**9,
    10**30,
    -(10**9),
    0.5,
    -1e308,
    1e308,
    math.nan,
    math.inf,
    [],
    [0] * 1_000_000,
    ["x"],
    [None],
    [[1]],
    {},
    {"a": {"b": [1]}},
)
# what a stranger adds so that a library asks a hub or runs code
EXTRAS: dict[str, Any] = {
    "auto_map": {"AutoModel": "owner/name--modeling.Evil", "AutoConfig": "owner/name--config.Evil"},
    "_attn_implementation": "owner/name",
    "attn_implementation": "owner/name",
    "_attn_implementation_internal": "owner/name:kernel",
    "attn_config": {"attn_impl": "owner/name"},
    "_experts_implementation": "owner/name",
    "experts_implementation": "owner/name",
    "trust_remote_code": True,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "torch_dtype": "float64",
    "dtype": "os.system",
    "_name_or_path": "owner/name",
    "pretrained_model_name_or_path": "owner/name",
    "backbone": "owner/name",
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "custom_pipelines": {"x": {"impl": "x.py"}},
    "gguf_file": "x.gguf",
    "subfolder": "../..",
    "tp_plan": "auto",
    "base_model_tp_plan": {"layers.*": "colwise"},
}
NESTED: dict[str, Any] = {
    "vision_config": {"model_type": "detr", "backbone": "owner/name", "use_timm_backbone": True},
    "text_config": {"model_type": "owner/name", "auto_map": EXTRAS["auto_map"]},
}


@dataclass(frozen=True)
class Change:
    """One entry of one file, changed. file: below the folder; place: keys from the outermost on."""

    file: str
    place: tuple[str, ...]
    value: Any = None
    missing: bool = False

    def __str__(self) -> str:
        value = "missing" if self.missing else json.dumps(self.value)[:40]
        return f"{self.file}: {'.'.join(self.place)} {value}"

    def made(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content with this change."""
        changed = copy.deepcopy(content)
        inner = changed
        for key in self.place[:-1]:
            inner = inner[key]
        if self.missing:
            inner.pop(self.place[-1], None)
        else:
            inner[self.place[-1]] = self.value
        return changed


def json_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON files of a checkpoint folder that decide what is built, by their paths in it."""
    files = (file for file in sorted(folder.rglob("*.json")) if file.name in FILES)
    return {str(file.relative_to(folder)): json.loads(file.read_text(encoding="utf-8")) for file in files}


def places(content: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of nested objects."""
    for key, value in content.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def changes(folder: Path) -> list[Change]:
    """Every change of every entry of a folder, and everything that a stranger might add."""
    every = []
    for file, content in json_files(folder).items():
        for place in places(content):
            every += [Change(file, place, value) for value in ENTRIES]
            every.append(Change(file, place, missing=True))
        every += [Change(file, (key,), value) for key, value in {**EXTRAS, **NESTED}.items()]
        for above in ("text_config", "vision_config"):
            if above in content:
                every += [Change(file, (above, key), value) for key, value in EXTRAS.items()]
                every.append(Change(file, (above, "model_type"), "detr"))
    return every


def sampled(folder: Path, count: int, seed: int) -> list[Change]:
    """Some of these changes, of each file alike many."""
    rng, by_file = random.Random(seed), dict[str, list[Change]]()
    for change in changes(folder):
        by_file.setdefault(change.file, []).append(change)
    share = -(-count // len(by_file))
    return [change for file in by_file.values() for change in rng.sample(file, min(share, len(file)))]
