"""What each rank of one clip holds at most on its card, beside one card that does it all:  python bench/ranks/peaks.py

Tiny models on two pretend cards of tests/support/card, which count tensors.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

if "reelwire" not in sys.modules:
    import_pack()
from reelwire.loaders.request import Guidance
from reelwire.tests.support.parallel.cards import Peaked, ranks_on_cards
from reelwire.tests.support.parallel.ranks import Case, Tiny
from reelwire.training.tiny_models import make

CASES = {
    "tiny-wan2.1-t2v": ("context", "branches"),
    "tiny-ltx-0.9.5": ("context", "branches"),
    "tiny-hunyuan-t2v": ("context", "branches"),
    "tiny-cogvideox-2b": ("context", "branches"),
    "tiny-mochi": ("branches",),
    "tiny-svd-xt": ("branches",),
    "tiny-wan2.2-t2v-a14b": ("context", "branches", "experts"),
}
SIZE = {"width": 256, "height": 256, "frames": 25, "steps": 2}
OPTIONS = {"tiny-hunyuan-t2v": {"guidance": Guidance(true_scale=3.0)}}
MIB = 2**20


def task(tiny: Tiny, mode: str, alone: bool = False) -> Callable[[], Peaked]:
    """What ranks are given."""
    return lambda: Peaked(Case(tiny, mode, SIZE), alone)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in CASES:
            make(model, folder)
        print("| model | mode | one card | rank 0 | rank 1 |\n|---|---|---|---|---|")
        with ranks_on_cards(Tiny(folder, "tiny-wan2.1-t2v")) as group:
            for model, modes in CASES.items():
                tiny = Tiny(folder, model, OPTIONS.get(model, {}))
                (_, whole), _ = group.run(task(tiny, modes[0], alone=True))
                for mode in modes:
                    both = group.run(task(tiny, mode))
                    row = model, mode, *(f"{peak / MIB:.2f} MiB" for peak in (whole, *(peak for _, peak in both)))
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
