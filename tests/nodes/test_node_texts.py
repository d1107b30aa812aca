"""The texts of the nodes: English is made from the schemas, other languages have the same places and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.support.host import ROOT

LOCALES = ROOT / "locales"
OTHERS = sorted(path.parent.name for path in LOCALES.glob("*/nodeDefs.json") if path.parent.name != "en")


def texts(language: str) -> dict[str, str]:
    """Place -> text, as "ReelwireLoRA.inputs.lora.tooltip"."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield place, value
            return
        for name, inner in value.items():
            yield from walk(inner, f"{place}.{name}" if place else name)

    return dict(walk(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")), ""))


def test_english_is_made_from_the_schemas(comfyui: Path) -> None:
    command = [sys.executable, "-m", "tools.node_texts", "--check"]
    environment = {**os.environ, "COMFYUI_DIR": str(comfyui)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\nRun python -m tools.node_texts, and translate what changed."
    )


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_every_text(language: str) -> None:
    english, translated = texts("en"), texts(language)
    optional = {"ReelwireSpeed.inputs.attention.tooltip"}  # names what this machine has, in English
    assert sorted(english.keys() - translated.keys()) == [], "not translated yet"
    assert sorted(translated.keys() - english.keys() - optional) == [], "translations of texts that are gone"
    assert sorted(place for place, text in translated.items() if not text.strip()) == []
