"""The documents for developers: what they name is there, and their examples run as they stand."""

from __future__ import annotations

import ast
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from reelwire.loaders.denoiser import NoiseSchedule
from reelwire.loaders.families import family, load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.spec import Spec, specs
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers import solvers
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.tests.support.documents import code_blocks
from reelwire.tests.support.engine.denoisers import Gaussian, PlainRun
from reelwire.tools.source import House
from torch import Tensor

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "loaders" / "bundled" / "tiny_ltx"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"\[`([\w.]+)`\]\(([^)\s]+\.py)\)")
PATHS = re.compile(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|json|md|yml))`")


def names_in(file: Path) -> set[str]:
    """What a file defines: functions, classes, methods, fields and names of modules, and parameters."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    defined = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    return defined | {n.id for n in nodes if isinstance(n, ast.Name)} | {n.arg for n in nodes if isinstance(n, ast.arg)}


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_what_a_page_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    lost = [path for path in PATHS.findall(text) if not (ROOT / path).exists() and "every_other" not in path]
    for name, link in NAMED.findall(text):
        file = (document.parent / link).resolve()
        parts = set() if name.endswith(".py") else {*name.split(".")}
        lost += [f"{part} in {link}" for part in parts - (names_in(file) if file.exists() else set())]
    assert not lost


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_a_loaders_page_names_the_samplers_that_its_models_have(spec: Spec, language: str) -> None:
    pages = (ROOT / "web" / "docs").glob(f"ReelwireLoad*/{language}.md")
    (page,) = [p for p in pages if p.parent.name.lower() == f"reelwireload{spec.name.replace('_', '')}"]
    (words,) = re.findall(r"(?:Samplers: |采样器：)([^.;。；]*)", page.read_text(encoding="utf-8"))
    assert {*re.findall("`([^`]+)`", words)} == {*solvers.TABLES[family(spec.name).solvers]}


def test_the_picture_shows_imports_that_are_there() -> None:
    """Every arrow is an import, and every room is drawn."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.S)
    rooms = dict(re.findall(r'(\w+)\["([\w/]+)<br>', picture))
    drawn = re.findall(r'(\w+)(?:\["[^"]*"\])? --> (\w+)', picture)
    deepest_first = sorted(rooms.values(), key=len, reverse=True)
    room_of = lambda module: next((r for r in deepest_first if "/".join(module).startswith(r)), "")
    arrows = {(room_of(a), room_of(b)) for a, targets in House().imports.items() for b in targets}
    assert len(drawn) > 10
    assert [(rooms[a], rooms[b]) for a, b in drawn if (rooms[a], rooms[b]) not in arrows] == []
    folders = {
        f"{top}/{f.name}"
        for top in ("nodes", "samplers", "loaders")
        for f in (ROOT / top).iterdir()
        if any(f.glob("*.py"))
    }
    assert folders - {*rooms.values()} == set()


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return load(Recipe("ltx", "", files_of(BUNDLED), "float32"), PlainMemory())


def sampled(model: VideoModel, sampler: str, steps: int) -> Tensor:
    conditioning = model.encode("a red circle moving right", "")
    return sample(model, conditioning, plan(model, Request(64, 64, 9, steps, 1.0, sampler, seed=1)))


# ---------------------------------------------------------------- a cache


def test_the_cache_computes_every_other_step(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = code_blocks("add-a-cache.md")
    assert len(code.splitlines()) <= 25
    module = ModuleType("reelwire.samplers.caches.policies.every_other")
    module.__package__ = "reelwire.samplers.caches.policies"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "every_other.py", "exec"), vars(module))
    policy = module.EveryOther()
    assert policy.count_computed("transformer", range(12), 12) == (7, 7)
    assert policy.count_computed("transformer", range(8), 8) == (8, 8), "too few for a cache"

    cached, computed = replace(model, cache=policy), sampled(model, "euler", 12)
    steps: list[bool] = []
    conditioning = model.encode("a red circle moving right", "")
    request = plan(cached, Request(64, 64, 9, 12, 1.0, "euler", seed=1))
    forecast = sample(cached, conditioning, request, lambda done, _, run: steps.append(run.cache is not None))
    assert len(steps) == 12
    assert all(steps)
    assert not torch.equal(forecast, computed)
    assert (forecast - computed).norm() < computed.norm()


# ---------------------------------------------------------------- a solver


@pytest.fixture(scope="module")
def midpoint() -> solvers.Solver:
    code, row = code_blocks("add-a-solver.md")
    assert len(code.splitlines()) <= 20
    namespace = dict(vars(solvers))
    exec(compile(code, "solvers.py", "exec"), namespace)
    table: dict[str, solvers.Solver] = eval(f"{{{row}}}", namespace)
    return table["midpoint"]


def error(solver: solvers.Solver, steps: int) -> float:
    """How far the end is from the closed form: the flow of a Gaussian carries the noise to mean + spread * noise."""
    sigmas = tuple((1 - i / steps) ** 1.5 for i in range(steps + 1))
    schedule = NoiseSchedule(None, torch.tensor(sigmas[:-1]) * 1000, sigmas)
    denoiser = Gaussian(torch.ones(1, dtype=torch.float64), schedule, 1.0, torch.Generator())
    run = PlainRun(denoiser)
    end = solver.solve(run, denoiser.latents, schedule)
    assert run.predictions == list(range(steps))
    return abs(float(end) - denoiser.mean - denoiser.spread)


def test_the_solver_is_of_second_order(midpoint: solvers.Solver) -> None:
    errors = [error(midpoint, steps) for steps in (16, 32, 64, 128)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 1.8, errors  # Euler's is 1
    assert error(midpoint, 17) < 0.1  # with an odd last step


def test_the_solver_samples_the_bundled_model(
    model: VideoModel, midpoint: solvers.Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(solvers.TABLES["distilled flow"], "midpoint", midpoint)
    fine = sampled(model, "euler", 40)
    ours, theirs = ((sampled(model, name, 8) - fine).norm() for name in ("midpoint", "euler"))
    assert ours < theirs
