"""What cannot be shared out is refused in words before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import Guidance, Parallel, Request, SpatioTemporal
from reelwire.samplers.caches.policies import external
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.models import needed, open_model, used_by

# what is refused: model, parallel, options, the request's changes, the input that is named
REFUSED: dict[str, tuple[str, Parallel, dict[str, Any], dict[str, Any], str]] = {
    "unknown mode": ("tiny-wan2.1-t2v", Parallel(mode="rings"), {}, {}, "mode"),  # type: ignore[arg-type]
    "one worker": ("tiny-wan2.1-t2v", Parallel(workers=1, mode="context"), {}, {}, "workers"),
    "more ranks than heads": ("tiny-wan2.1-t2v", Parallel(workers=3, mode="context"), {}, {}, "workers"),
    "tokens": (
        "tiny-ltx-0.9.5",
        Parallel(workers=2, mode="context"),
        {},
        dict(width=96, height=96, frames=1),
        "workers",
    ),
    "no tokens": ("tiny-mochi", Parallel(workers=2, mode="context"), {}, {}, "mode"),
    "one branch": ("tiny-wan2.1-t2v", Parallel(workers=2, mode="branches"), {}, dict(guidance=1.0), "mode"),
    "fewer branches": ("tiny-wan2.1-t2v", Parallel(workers=3, mode="branches"), {}, {}, "workers"),
    "one expert": ("tiny-wan2.1-t2v", Parallel(mode="experts"), {}, {}, "mode"),
    "three experts": ("tiny-wan2.2-t2v-a14b", Parallel(workers=3, mode="experts"), {}, {}, "workers"),
    "a cluster": ("tiny-wan2.1-t2v", Parallel("10.0.0.5:6379", 2, "context"), {}, {}, "address"),
    "a cache that decides for all branches": (
        "tiny-ltx-0.9.5",
        Parallel(workers=3, mode="branches"),
        {"cache": EasyCache(), "guidance": Guidance("skip-layer", layers=(1,), layer_start=0.0, layer_end=1.0)},
        dict(steps=12),
        "workers",
    ),
    "foreign cache": (
        "tiny-ltx-0.9.5",
        Parallel(workers=2, mode="context"),
        {"cache": external.DiffusersFirstBlock()},
        dict(steps=12),
        "policy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(tiny_models: Path, name: str) -> None:
    which, parallel, options, changes, named = REFUSED[name]
    model = replace(open_model(tiny_models, which), parallel=parallel, **options)
    with pytest.raises(InputError) as refused:
        plan(model, Request(**needed(model), **changes))
    assert refused.value.name == named
    assert refused.value.remedy
    assert not used_by(model)


class Elsewhere(PlainMemory):
    """Parts on a device that this machine may not have, or with a limit."""

    def __init__(self, kind: str = "cpu", most: int = 0) -> None:
        super().__init__()
        self.kind, self.most_on_card = kind, most

    def device(self, part: str) -> torch.device:
        return torch.device(self.kind)


PLACES = {
    "a limit that ranks would not keep": (Elsewhere(most=2**30), "most_on_card", "ranks_hold_all"),
    "cards that cannot": (Elsewhere("mps"), "mode", "ranks_kinds"),
    "fewer cards than ranks": (Elsewhere("cuda"), "workers", "fewer_cards"),
}


@pytest.mark.parametrize("name", PLACES)
def test_where_it_cannot_be(tiny_models: Path, name: str) -> None:
    memory, named, rule = PLACES[name]
    if memory.kind == "cuda" and torch.cuda.device_count() > 1:
        pytest.skip("has the cards")
    model = replace(open_model(tiny_models, "tiny-wan2.1-t2v"), parallel=Parallel("", 2, "branches"), memory=memory)
    with pytest.raises(InputError) as refused:
        plan(model, Request(**needed(model)))
    assert (refused.value.name, refused.value.rule.key) == (named, rule)  # type: ignore[attr-defined]


TAKEN: dict[str, tuple[str, Parallel, dict[str, Any]]] = {
    "jobs": ("tiny-mochi", Parallel(), {}),
    "context": ("tiny-wan2.1-i2v", Parallel(workers=2, mode="context"), {}),
    "context among a prompt's tokens": ("tiny-hunyuan-i2v-replace", Parallel(workers=2, mode="context"), {}),
    "context behind a prompt's tokens": ("tiny-cogvideox1.5-5b-i2v", Parallel(workers=2, mode="context"), {}),
    "three passes": (
        "tiny-ltx-0.9.5",
        Parallel(workers=3, mode="branches"),
        {"guidance": Guidance("skip-layer", layers=(1,), layer_start=0.0, layer_end=1.0)},
    ),
    "three passes in every step, and a cache that decides for all": (
        "tiny-ltx-0.9.5",
        Parallel(workers=3, mode="branches"),
        {"guidance": Guidance("stg", stg=SpatioTemporal(blocks=((1,),))), "cache": EasyCache()},
    ),
    "experts": ("tiny-wan2.2-t2v-a14b", Parallel(mode="experts"), {}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_it_is_taken(tiny_models: Path, name: str) -> None:
    which, parallel, options = TAKEN[name]
    model = replace(open_model(tiny_models, which), parallel=parallel, **options)
    assert plan(model, Request(**needed(model))).predictions > 0
