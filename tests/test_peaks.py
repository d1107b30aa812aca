"""What is asked for beside the weights against what was counted: within 15%, and never under by more than 5%.

Networks of published size without numbers run through the pack's own sampler, encoders and VAEs (fake_peak.py). Here a few
variants that differ in kind; `python bench/memory.py` takes every one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.peaks import forward_bytes
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.fake_peak import Imagined, fitted, step_peak
from reelwire.tests.support.published import published

UNDER, OVER = 0.95, 1.15
# family/variant -> sizes beside its default: a middle one, and one so small that texts count more than the video
STEPS: dict[str, tuple[dict[str, Any], ...]] = {
    "wan/2.1-t2v-1.3b": (dict(width=640, height=352, frames=49), dict(width=256, height=256, frames=9)),
    "wan/2.1-vace-1.3b": (dict(width=256, height=256, frames=9),),
    "wan/2.2-ti2v-5b": (dict(width=256, height=256, frames=9),),
    "hunyuan_video/i2v-13b-replace": (dict(width=640, height=368, frames=61),),
    "cogvideox/2b": (dict(frames=9),),
    "mochi/1-preview": (dict(width=256, height=256, frames=7),),
    "ltx/0.9.5-2b": (dict(width=1216, height=704), dict(pictured=True)),
    "svd/svd": (dict(width=512, height=320),),
}


def close(asked: int, counted: int) -> None:
    assert UNDER * counted <= asked <= OVER * counted, f"{asked / counted:.3f} of {counted / 2**20:.1f} MiB"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the published folders are made."""
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def of(sparse: Path) -> Iterator[Any]:
    made: dict[str, VideoModel] = {}
    yield lambda name: made.setdefault(name, published(name, sparse, Imagined()))


@pytest.mark.parametrize("name", STEPS)
def test_a_step(of: Any, name: str) -> None:
    model = of(name)
    for changes in ({}, *STEPS[name]):
        model.memory.peaks.clear()
        counted = step_peak(model, **changes)
        close(forward_bytes(model, model.complete(fitted(model, **changes))), counted)
