"""The packages that only one thing needs do it; the script that tries both ends of their ranges reads them rightly."""

from __future__ import annotations

import ast
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.weights.modules import build
from reelwire.loaders.weights.safetensors import read_file
from reelwire.tests.support.files.files import gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranges() -> Any:
    sys.path.insert(0, str(ROOT / "bench"))
    import ranges

    yield ranges
    sys.path.remove(str(ROOT / "bench"))


def test_av_writes_what_it_reads_with_metadata(tmp_path: Path) -> None:
    """As nodes/decoding.py does it, without loss: gray frames come back, and so does the metadata."""
    import av

    file, levels = tmp_path / "x.mp4", range(40, 220, 20)
    with av.open(str(file), "w", options={"movflags": "use_metadata_tags+faststart"}) as container:
        container.metadata.update({"reelwire": "words"})
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.options = {"crf": "0", "x264-params": "mbtree=0"}
        for level in levels:
            frame = np.full((32, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.metadata["reelwire"] == "words"
    assert [abs(int(f.mean()) - level) <= 2 for f, level in zip(frames, levels, strict=True)] == [True] * len(levels)


def test_gguf_blocks_are_the_librarys_own(tmp_path: Path) -> None:
    weights = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    numbers = gguf(tmp_path / "x.gguf", {"weight": weights})
    entries, _ = read_file(tmp_path / "x.gguf")
    made: Any = build(lambda: torch.nn.Linear(256, 64, bias=False), entries, torch.float32, lambda *_: None)
    assert torch.equal(made.weight, numbers["weight"])


def test_every_line_is_a_range_and_pyproject_says_the_same(ranges: Any) -> None:
    lines = [line for line in ranges.requirements().splitlines() if line]
    read = ranges.read_ranges(ranges.requirements())
    assert [r.name for r in read] == [line.partition(">=")[0] for line in lines]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.split("dependencies = [", 1)[1].split("]", 1)[0]
    assert [line.strip().strip('",') for line in listed.strip().splitlines()] == lines


# what ComfyUI and torch bring along, and what is looked for before it is used
FROM_THE_HOST = {"aiohttp", "comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server"}
FROM_THE_HOST |= {"torch", "numpy", "PIL"}
OPTIONAL = {"cache_dit", "comfy_kitchen", "ray"}
NAMED_OTHERWISE = {"google": "protobuf"}  # package -> what it is required as


def imported(file: Path) -> set[str]:
    """The packages that a file of ours imports, but for those of Python itself."""
    found = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in found if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names} - {*sys.stdlib_module_names}


def test_all_that_is_imported_is_required(ranges: Any) -> None:
    files = [file for folder in ("loaders", "samplers", "nodes") for file in (ROOT / folder).rglob("*.py")]
    names = set[str]().union(*map(imported, files))
    assert {"diffusers", "comfy"} < names
    required = {r.name for r in ranges.read_ranges(ranges.requirements())}
    assert {NAMED_OTHERWISE.get(name, name) for name in names - FROM_THE_HOST - OPTIONAL} <= required


LOWEST = [
    ("4.0", "", ["3.20.3", "4.21.1", "5.26.0"], "4.21.1"),
    ("5.6", "6", ["5.5.4", "5.10.1", "5.6.0", "5.6.2", "6.0"], "5.6.0"),
    ("16.0", "", ["16.0.0", "16.0.1", "9.0"], "16.0.0"),
    ("1.0", "", ["1.0rc1", "1.2"], "1.2"),
]


@pytest.mark.parametrize(("low", "below", "offered", "expected"), LOWEST)
def test_the_lowest_release_of_a_range(ranges: Any, low: str, below: str, offered: list[str], expected: str) -> None:
    assert ranges.lowest(ranges.Range("x", low, below), offered) == expected


@pytest.mark.parametrize("line", ["x", "x==1", "x>=1,!=2", "x[y]>=1"])
def test_a_line_of_another_form_is_no_range(ranges: Any, line: str) -> None:
    with pytest.raises(ValueError, match="is not name>=low"):
        ranges.read_ranges(line)


def test_the_page_is_of_these_ranges(ranges: Any) -> None:
    """docs/dependencies.md lists what requirements.txt says now, and both ends passed."""
    text = ranges.PAGE.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    table = {name: cells for name, *cells in rows[2:-1]}
    read = {r.name: r for r in ranges.read_ranges(ranges.requirements())}
    assert {*table} == {*read} == {*ranges.WHAT_FOR}
    for name, (allowed, low, high, _) in table.items():
        below = f", < {read[name].below}" if read[name].below else ""
        assert allowed == f">= {read[name].low}{below}"
        assert read[name].holds(low)
        assert read[name].holds(high)
    assert all("passed" in words and "failed" not in words for words in rows[-1][2:4])
