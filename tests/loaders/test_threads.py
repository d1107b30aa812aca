"""Models that are read by several threads at once: nothing of one gets into another, nothing stays behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.request import Request
from reelwire.loaders.weights.modules import fitting
from reelwire.samplers.estimate import flops
from reelwire.tests.support.engine.models import open_plain
from torch import nn


class Slow(nn.Module):
    """A module that is made in two halves, with a meeting between them."""

    def __init__(self, between: Callable[[], object]) -> None:
        super().__init__()
        self.before = nn.Linear(2, 2)
        between()
        self.after = nn.Linear(2, 2)


def test_modules_of_other_threads_are_theirs() -> None:
    """Which another pack makes while a model of ours is read."""
    register, inside, made = nn.Module.register_parameter, threading.Event(), threading.Event()

    def meet() -> None:
        inside.set()
        made.wait(20)

    def ours() -> nn.Module:
        return fitting(lambda: Slow(meet), {})

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(ours)
        assert inside.wait(20)
        theirs = nn.Linear(3, 3)
        made.set()
        with pytest.raises(CheckpointError):  # it has no weights, which is told when it was made
            reading.result(20)
    assert not theirs.weight.is_meta
    assert theirs.weight.requires_grad
    assert nn.Module.register_parameter is register


def test_many_at_once(tiny_models: Path) -> None:
    """The order in which they end is another one than that in which they began."""
    register, autocast = nn.Module.register_parameter, torch.autocast

    def read(name: str) -> set[str]:
        model = open_plain(tiny_models, name)
        flops.forward_flops(model, model.complete(Request(width=64, height=64, frames=5, steps=2)))
        with model.memory.use(model.parts["transformer"]) as network:
            return {parameter.device.type for parameter in network.parameters()}

    with ThreadPoolExecutor(4) as pool:
        devices = [*pool.map(read, ["tiny-ltx-0.9.5", "tiny-wan2.1-t2v"] * 6)]
    assert devices == [{"cpu"}] * 12
    assert nn.Module.register_parameter is register
    assert torch.autocast is autocast
