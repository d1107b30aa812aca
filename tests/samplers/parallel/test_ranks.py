"""One clip on two ranks is the clip of one process, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reelwire.loaders.parallel import Parallel
from reelwire.samplers.parallel.local import LocalLauncher
from reelwire.samplers.parallel.ranks import Group
from reelwire.tests.support.engine.ranks import Case, Tiny


@pytest.fixture(scope="session")
def group(tiny_models: Path) -> Iterator[Group]:
    """Two ranks on the CPU, which build what each case names."""
    pair = Group(LocalLauncher(60), Tiny(tiny_models, "tiny-wan2.1-t2v"), Parallel("context", 2), ["cpu", "cpu"])
    yield pair
    pair.close()


def test_wan(group: Group, tiny_models: Path) -> None:
    case = Case(Tiny(tiny_models, "tiny-wan2.1-t2v"), "context")
    (latents, _), _ = group.run(lambda: case)
    assert torch.equal(latents, case.alone())
