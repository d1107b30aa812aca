"""The shipped twins on tiny files, by the table tiny_files.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...bench.templates.notes import STOCK

Prompt = dict[str, dict[str, Any]]


@cache
def table() -> Mapping[str, Any]:
    """The table, as read."""
    return json.loads(Path(__file__).with_suffix("").with_name("tiny_files.json").read_text(encoding="utf-8"))


def on_tiny_files(name: str, prompt: Prompt) -> Prompt:
    """A twin with each published file replaced by its tiny one, in sizes that those make."""
    for node in prompt.values():
        folder = f"{STOCK[node['class_type']]}/" if node["class_type"] in STOCK else ""
        tiny = lambda value, folder=folder: table()["files"].get(f"{folder}{value}", value).removeprefix(folder)
        node["inputs"] = {k: tiny(v) if isinstance(v, str) else v for k, v in node["inputs"].items()}
    return changed(prompt, table()["inputs"].get(name, {}))


def changed(prompt: Prompt, changes: Mapping[str, Any]) -> Prompt:
    """A prompt with {"3.steps": 2} set as inputs and {"9": node} put in."""
    for place, value in changes.items():
        at, _, entry = place.partition(".")
        if entry:
            prompt[at]["inputs"][entry] = value
        else:
            prompt[at] = value
    return prompt
