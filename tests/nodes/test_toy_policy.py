"""A cache policy is one file: dropped into a copy of the pack it is offered and runs, and a broken one takes out itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from reelwire.tests.support.host import PACK, ROOT, Host, boot, node, workflow

TOY = '''
"""Every other step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..policy import Policy
from ..state import BranchState, StepContext


@dataclass(frozen=True, kw_only=True)
class EveryOther(Policy):
    title: ClassVar[str] = "Every Other"
    tooltip: ClassVar[str] = "a toy"

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        return context.index % 2 == 1
'''
LEFT_OUT = (".*", "__pycache__", "tests", "training", "bench", "docs")


@pytest.fixture(scope="module")
def toy_host(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI with a copy of the pack that has two more files in its folder of policies."""
    pack = tmp_path_factory.mktemp("pack") / PACK
    shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(*LEFT_OUT))
    policies = pack / "samplers" / "caches" / "policies"
    (policies / "every_other.py").write_text(TOY, encoding="utf-8")
    (policies / "broken.py").write_text("from nowhere import nothing\n", encoding="utf-8")
    with boot(comfyui, tmp_path_factory.mktemp("comfyui"), packs={PACK: pack}) as running:
        yield running


def test_a_policy_is_one_file(toy_host: Host) -> None:
    inputs = toy_host.get("/object_info/ReelwireCache")["ReelwireCache"]["input"]
    kind, options = inputs["required"]["policy"]
    offered = options["options"]
    assert kind == "COMBO"
    assert offered[0] == "plan"
    assert offered[-1] == "every other"
    assert "every other: a toy" in options["tooltip"]
    assert "every other" in inputs["optional"]["order"][1]["reelwire"]["when"]["policy"]
    assert "every other" not in inputs["optional"]["threshold"][1]["reelwire"]["when"]["policy"]

    toy = node("ReelwireCache", model=["1", 0], policy="every other", speed=2.0)
    entry = toy_host.post(workflow("any_cached", {"2": toy, "4.steps": 12, "5.filename_prefix": "toy/video"}))
    (row,) = json.loads(*entry["outputs"]["4"]["reelwire_chart"])["rows"]
    assert row["computed"] == [i % 2 == 0 or i == 11 for i in range(12)]


def test_a_broken_policy_takes_out_itself(toy_host: Host) -> None:
    assert "broken.py is missing" in toy_host.log.decode(errors="replace")
    inputs = toy_host.get("/object_info/ReelwireCache")["ReelwireCache"]["input"]
    assert len(inputs["required"]["policy"][1]["options"]) == 9
