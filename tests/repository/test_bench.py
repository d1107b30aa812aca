"""The measuring programs: they run on tiny networks, and the full-size ones are described without a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.tests.support.host import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import caches
import gpu
from figures.caches import rank_correlation

NETWORKS = "LTX-Video 2B distilled", "Wan 2.1 1.3B"


@pytest.mark.parametrize("name", gpu.CASES)
def test_a_full_size_network_is_described_from_its_headers(tmp_path: Path, name: str) -> None:
    from reelwire.loaders.families import load
    from reelwire.loaders.parts import PlainMemory, Recipe
    from reelwire.loaders.weights.bundle import files_of

    case = gpu.CASES[name]
    folder = gpu.hollow(tmp_path / case.variant, case)
    model = load(Recipe(case.family, case.variant, files_of(folder), "bfloat16"), PlainMemory())
    assert model.variant == case.variant
    size = sum(torch.Size(shape).numel() for shape in model.parts["transformer"].tensors.values())
    assert size > 1e9
    model.check(model.complete(case.request))
    assert sum(f.stat().st_blocks for f in folder.rglob("*.safetensors")) * 512 < 2**24, "the files are not hollow"


def test_the_card_benchmark_on_tiny_networks(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """On one network of those; --extensive: on each."""
    out, networks = tmp_path / "gpu.json", NETWORKS if pytestconfig.getoption("extensive") else NETWORKS[:1]
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "gpu.py",
            "--tiny",
            "--rounds",
            "1",
            "--out",
            str(out),
            "--networks",
            *networks,
        ],
        cwd=ROOT / "bench",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {*result} == {"device", "tiny", *networks}
    for name, case in ((name, gpu.CASES[name]) for name in networks):
        assert {"no cache", *gpu.CACHES, "nothing skipped"} <= {*result[name]}
        for cache in ("plan 2", "corrected plan 2"):
            assert result[name][cache]["computed"] == pytest.approx(0.5, abs=0.05)
        assert ("to a finished mp4" in result[name]) == case.to_file


@pytest.mark.parametrize("program", ["gpu.py", "card/engine.py", "card/host.py"])
def test_without_a_card_it_says_so(program: str) -> None:
    if torch.cuda.is_available():
        pytest.fail("this test is for machines without a card", pytrace=False)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program], cwd=ROOT / "bench", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "There is no CUDA card here" in done.stderr


def test_distances_of_the_cache_benchmark() -> None:
    frames = torch.rand(3, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    assert caches.psnr(frames, frames) == pytest.approx(100)
    assert caches.psnr(frames, frames + 0.1) == pytest.approx(20, abs=1e-3)
    assert caches.ssim(frames, frames) == pytest.approx(1, abs=1e-5)
    assert caches.ssim(frames, frames.flip(1)) < 0.5


@pytest.fixture
def published() -> dict[str, Any]:
    return json.loads((ROOT / "bench" / "caches.json").read_text(encoding="utf-8"))


def test_the_shipped_figures_are_whole(published: dict[str, Any]) -> None:
    """All methods on both models, six settings each, and some on others; the picture in the docs is drawn from them."""
    assert {"tiny_ltx", "tiny_wan"} <= {*published} <= {*caches.MODELS}
    for result in (published["tiny_ltx"], published["tiny_wan"]):
        assert result["uncached_runs_equal"]
        assert {"ours", "peer", "fewer steps"} == {m["kind"] for m in result["methods"].values()}
        assert all(len(m["rows"]) >= 6 for m in result["methods"].values())
        assert json.loads(json.dumps(dict(caches.best(result["methods"])))) == json.loads(json.dumps(result["best"]))
    assert (ROOT / "bench" / "caches.svg").read_text(encoding="utf-8") == caches.draw(published)
    estimates = (ROOT / "bench" / "caches_estimates.svg").read_text(encoding="utf-8")
    assert estimates == caches.draw_estimates(published)
    assert len(list(caches.ranks_alike(published))) == 2 + len(published) + 1


def test_ranks_of_estimates() -> None:
    assert rank_correlation([(1, 10), (2, 20), (3, 40), (4, 80)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1, 2), (2, 3), (2, 4)]) == pytest.approx(2 / 5**0.5)
