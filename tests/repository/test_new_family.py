"""A new family is a folder and a row: one that is copied under another name works with no other edit."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.support.documents import code_blocks
from reelwire.tests.support.host import ROOT

ROOMS = ("loaders", "samplers", "nodes", "locales", "web")
# registers the pack of the first folder in ComfyUI, then samples with the bundled model as each of these families
TRY = """
import asyncio, importlib.util, json, sys
from pathlib import Path
comfyui, pack, *families = sys.argv[1:]
sys.path.insert(0, comfyui)
import comfy.cli_args
comfy.cli_args.args.cpu = True
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
async def nodes():
    return await (await module.comfy_entrypoint()).get_node_list()
schemas = [node.GET_SCHEMA() for node in asyncio.run(nodes())]
import torch
from pack.loaders.families import load
from pack.loaders.parts import PlainMemory, Recipe
from pack.loaders.request import Request
from pack.loaders.weights.bundle import files_of
from pack.samplers.denoise import sample
from pack.samplers.plan import plan
files, sampled = files_of(Path(pack) / "loaders" / "bundled" / "tiny_ltx"), {}
for family in families:
    model = load(Recipe(family, "", files, "float32"), PlainMemory())
    with torch.no_grad():
        latents = sample(model, model.encode("a red circle", ""), plan(model, Request(steps=2, frames=9, seed=1)))
    sampled[model.name] = float(latents.double().sum())
print(json.dumps({
    "titles": {schema.node_id: schema.display_name for schema in schemas},
    "sampled": sampled,
    "frames": next(i.tooltip for s in schemas if s.node_id == "ReelwireSampler" for i in s.inputs if i.id == "frames"),
}))
"""


def run(comfyui: Path, pack: Path, *families: str) -> dict[str, Any]:
    command = [sys.executable, "-c", TRY, str(comfyui), str(pack), *families]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def with_copied_family(pack: Path) -> None:
    """A copy of the pack in which LTX-Video's folder and its row are there a second time, as `copied`."""
    pack.mkdir()
    shutil.copy(ROOT / "__init__.py", pack)
    for room in ROOMS:
        # with what Python has compiled, but for what it writes just now
        shutil.copytree(ROOT / room, pack / room, ignore=shutil.ignore_patterns("*.pyc.*"))
    (code,) = code_blocks("add-a-family.md")
    exec(compile(code, "add-a-family.md", "exec"), {"PACK": pack})
    table = pack / "nodes" / "loaders.py"
    table.write_text(with_copied_row(table.read_text(encoding="utf-8")), encoding="utf-8")


def with_copied_row(table: str) -> str:
    """nodes/loaders.py with the row of LTX-Video a second time, whether rows are classes or calls in a tuple."""
    for statement in ast.walk(ast.parse(table)):
        if isinstance(statement, (ast.Call, ast.ClassDef)):
            row = ast.get_source_segment(table, statement)
            if row is not None and re.search(r'family ?= ?"ltx"', row):
                copied = row.replace("LoadLTX", "LoadCopied").replace('"ltx"', '"copied"', 1).replace("LTXV", "Copied")
                if isinstance(statement, ast.Call):
                    return table.replace(row, f"{row},\n    {copied}")
                return table.replace(row, f"{row}\n\n\n{copied}").replace("LoadLTX,", "LoadLTX, LoadCopied,")
    raise AssertionError("there is no row of LTX-Video")


@pytest.mark.host
def test_a_copied_family_registers_loads_and_samples(comfyui: Path, tmp_path: Path) -> None:
    with_copied_family(tmp_path / "pack")
    there = run(comfyui, tmp_path / "pack", "copied", "ltx")
    titles = there["titles"]
    assert "ReelwireLoadCopied" in titles
    assert len({*titles.values()}) == len(titles), "two nodes of one title"
    assert {*there["sampled"]} == {"copied", "ltx"}
    assert there["sampled"]["copied"] == there["sampled"]["ltx"] != 0
    (eights,) = re.findall(r"([\w, -]+?) make 8n\+1 frames", there["frames"])
    assert sorted(re.split(", | and ", eights.strip())) == ["CogVideoX", "Copied", "LTX-Video"]
