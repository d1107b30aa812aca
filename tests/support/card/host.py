"""A real ComfyUI on the pretend card, and the card as a test sees it from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host import Host, boot
from . import USUAL_SIZE
from .build import library

HERE = Path(__file__).resolve().parent
# a result that the prompt does not need goes when a node has run, however much RAM the machine has (GB)
ALWAYS = ("--cache-ram", "2", "4096")
DYNAMIC = ("--enable-dynamic-vram", "--disable-pinned-memory")
FREEING_SECONDS = 20


@dataclass(frozen=True)
class HostCard:
    """A card of a running ComfyUI; all numbers are bytes, or counts of allocations."""

    host: Host
    index: int = 0

    def state(self, **orders: Any) -> dict[str, Any]:
        """What probe/ tells of it, after orders: set_cap, fail_after, reset_peak, collect, freeze, unload, rooms.

        weights=True, tensors=True: of these too, which takes a look at every object of the host.
        """
        status, state = self.host.send(f"/reelwire_card/{self.index}", orders)
        assert status == 200, self.host.tail()
        return state

    def allocated(self) -> int:
        """What is left when garbage was collected."""
        return self.state(collect=True)["allocated"]

    def peak(self) -> int:
        return self.state()["peak"]

    def reset_peak(self) -> None:
        self.state(reset_peak=True)

    def set_cap(self, size: int) -> None:
        self.state(set_cap=size)

    def fail_after(self, allocations: int) -> None:
        """The allocation after that many fails once; -1: none does."""
        self.state(fail_after=allocations)

    def allocations(self) -> int:
        return self.state()["allocations"]


@dataclass(frozen=True)
class CardHost(Host):
    """A running ComfyUI with a card."""

    @property
    def card(self) -> HostCard:
        return HostCard(self)

    def freed(self, expected: int = 0) -> int:
        """Bytes on the card after POST /free; the host frees when its worker comes to it, so they are waited for."""
        self.free()
        end = time.monotonic() + FREEING_SECONDS
        while (left := self.card.allocated()) > expected and time.monotonic() < end:
            time.sleep(0.05)
        return left


@contextmanager
def boot_on_card(
    comfyui: Path, base: Path, dynamic: bool = False, size: int = USUAL_SIZE, count: int = 1
) -> Iterator[CardHost]:
    """ComfyUI with `count` cards of `size` bytes each.

    dynamic: with DynamicVRAM, as on NVIDIA cards; else with the legacy manager.
    Raises build.NoCompilerError where the card cannot be built.
    """
    library()
    paths = [str(HERE / "host_path"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "REELWIRE_CARD_BYTES": str(size),
        "REELWIRE_CARD_COUNT": str(count),
        "REELWIRE_CARD_DYNAMIC": str(int(dynamic)),
    }
    packs = {"reelwire_card": HERE / "probe"}
    with boot(comfyui, base, (*ALWAYS, *(DYNAMIC if dynamic else ())), environment, packs, CardHost) as host:
        yield host
