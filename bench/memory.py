"""What runs need beside the weights, asked and counted:  python bench/memory.py [--card | VARIANT...]

Every shipped variant at its default preset, in bfloat16, at its published size without numbers
(tests/support/engine/fake_peak.py): the room that a step asked for before (a formula of latent positions), what it asks
now, and what was counted; the same for its text encoders, and for its VAE at encoding and decoding. --card: the tiny
models instead, whole, on the pretend card (tests/support/card). Prints tables and puts their rows into
bench/memory.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from pack import import_pack

if "reelwire" not in sys.modules:
    import_pack()
from reelwire.loaders.common.peaks import forward_bytes
from reelwire.loaders.devices import KERNELS, share
from reelwire.loaders.families import load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.request import Control, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.room import step_bytes
from reelwire.tests.support.engine.fake_peak import Imagined, coder_peaks, encoder_peaks, fitted, step_peak
from reelwire.tests.support.files.published import VARIANTS, published

OUT = Path(__file__).with_suffix(".json")
GIB, MIB = 2**30, 2**20
Row = dict[str, Any]


def asked_before(model: VideoModel, request: Request) -> int:
    """The formula that stood here: twelve times the width for each latent position of both branches."""
    return (
        math.prod(model.facts.latent_shape(request.width, request.height, request.frames)[2:])
        * 2
        * 12
        * model.facts.hidden_size
        * 2
    )


def variant_row(variant: str, folder: Path) -> Row:
    """Of one shipped variant at its default."""
    memory = Imagined()
    model = published(variant, folder, memory)
    request = model.complete(fitted(model))
    counted = step_peak(model)
    row: Row = {
        "variant": variant,
        "request": [request.width, request.height, request.frames],
        "before": asked_before(model, request),
        "asked": step_bytes(model, request),
        "estimated": forward_bytes(model, request),
        "counted": counted,
    }
    for kind, count in (("encoders", encoder_peaks), ("coders", coder_peaks)):
        key = kind, *_alike(model, kind, request)
        if key not in _counted:
            # encoders tell what was asked of the manager
            bare = partial(without_kernels, kind="meta") if kind == "encoders" else int
            _counted[key] = {name: [bare(expected), most] for name, (expected, most) in count(model).items()}
        row[kind] = _counted[key]
    return row


_counted: dict[Any, dict[str, list[int]]] = {}


def _alike(model: VideoModel, kind: str, request: Request) -> tuple[str, ...]:
    """What tells that other variants need the same: their configs, and sizes for a VAE."""
    parts = {"encoders": "encoder", "coders": "vae"}
    configs = (
        json.dumps(dict(part.config), sort_keys=True) for name, part in model.parts.items() if parts[kind] in name
    )
    size = (
        (request.width, request.height)
        if kind == "coders"
        else (model.facts.prompt_tokens, len((model.facts.pictures or ((),))[0]))
    )
    return *configs, str(size)


def published_rows(variants: list[str]) -> list[Row]:
    numbers = f"{'before':>8}{'asked':>8}{'estimate':>9}{'counted':>9}{'ratio':>7}"
    print(f"{'variant':<32}{'size':>14} |{numbers} | encoders MiB (estimate for counted) | VAE GiB")
    rows = list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            rows.append(variant_row(variant, Path(folder)))
            print(_line(rows[-1]), flush=True)
            write({"published": rows[-1:]})
    return rows


def _line(row: Row) -> str:
    size = "x".join(map(str, row["request"]))
    gib = "".join(
        f"{row[key] / GIB:>{width}.2f}"
        for key, width in (("before", 8), ("asked", 8), ("estimated", 9), ("counted", 9))
    )
    encoders = ", ".join(f"{a / MIB:.0f} for {b / MIB:.0f}" for a, b in row["encoders"].values())
    vae = ", ".join(f"{direction} {a / GIB:.2f} for {b / GIB:.2f}" for direction, (a, b) in row["coders"].items())
    return f"{row['variant']:<32}{size:>14} |{gib}{row['estimated'] / row['counted']:>7.3f} | {encoders} | {vae}"


# ---------------------------------------------------------------- tiny models on the pretend card


# sizes at which tiny networks hold more of the video than of anything else; of some, their one size
CARD_SIZES: dict[str, dict[str, int]] = {
    "wan": dict(width=256, height=256, frames=17),
    "hunyuan_video": dict(width=256, height=256, frames=17),
    "cogvideox": dict(width=256, height=256, frames=17),
    "mochi": dict(width=256, height=256, frames=19),
    "ltx": dict(width=512, height=512, frames=33),
    "svd": dict(width=128, height=128),
    "tiny-cogvideox-5b-i2v": {},
    "tiny-cogvideox-fun-control": {},
}


class Watched(PlainMemory):
    """A memory that hears how much is held on the card beside the weights. peaks: part -> the most of it."""

    def __init__(self, device: str, card: Any) -> None:
        super().__init__(device)
        self.asked: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self._card = card

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        self.asked[part.name] = max(self.asked.get(part.name, 0), activations)
        with super().use(part, activations) as module:
            gc.collect()  # modules refer to themselves: those that went away are still there
            weights = sum(_blocks(t) for used in self._modules.values() for t in (*used.parameters(), *used.buffers()))
            before = weights if part.name.startswith(("transformer", "unet")) else self._card.allocated()
            self._card.reset_peak()
            yield module
        self.peaks[part.name] = max(self.peaks.get(part.name, 0), self._card.peak() - before)


def _blocks(tensor: torch.Tensor) -> int:
    """Bytes that the card counts for a tensor."""
    return -(-tensor.nbytes // 512) * 512


def on_card(folder: Path, name: str, card: Any) -> Watched:
    """The memory of a tiny model of `folder` after a run on the card, in bfloat16."""
    from reelwire.tests.support.engine.models import MODELS, run

    memory = Watched("npu", card)
    model = load(Recipe(MODELS[name], "", files_of(folder / name), "bfloat16"), memory)
    size = CARD_SIZES.get(name, CARD_SIZES[MODELS[name]])
    if getattr(model.facts, "control", False) and size:
        run(model, **size, control=Control(torch.zeros(size["frames"], 64, 64, 3)))
    else:
        run(model, **size)
    return memory


def card_rows(folder: Path, size: int = 8 << 30) -> list[Row]:
    """Each tiny model of `folder` once through its own steps on the card."""
    from reelwire.tests.support.card import attach

    card, rows = attach(size), list[Row]()
    from reelwire.tests.support.engine.models import MODELS

    for name in MODELS:
        memory = on_card(folder, name, card)
        for part, peak in memory.peaks.items():
            rows.append({"model": name, "part": part, "estimated": without_kernels(memory.asked[part]), "peak": peak})
            print(
                "{model:<28}{part:<16}".format(**rows[-1]),
                f"estimated {rows[-1]['estimated'] / MIB:8.2f} MiB, peak {peak / MIB:8.2f}",
                flush=True,
            )
    return rows


def without_kernels(asked: int, kind: str = "npu") -> int:
    """What `devices.with_kernels` was given for a device of this type."""
    return int((asked - KERNELS) / (1 + share(kind)))


def write(tables: dict[str, list[Row]]) -> None:
    """Put the rows into bench/memory.json in place of those of the same variants, or the same parts of tiny models."""
    rows = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for kind, fresh in tables.items():
        by_name = {_name(row): row for row in (*rows.get(kind, []), *fresh)}
        rows[kind] = [by_name[name] for name in sorted(by_name)]
    lines = (f'"{kind}": [\n  ' + ",\n  ".join(map(json.dumps, of_kind)) + "\n ]" for kind, of_kind in rows.items())
    OUT.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")


def _name(row: Row) -> str:
    return str(row.get("variant") or f"{row['model']} {row['part']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help="family/variant; all if none is named")
    parser.add_argument("--card", action="store_true", help="only the tiny models, on the pretend card")
    options = parser.parse_args()
    if not options.card:
        published_rows(options.variants or VARIANTS)
        return
    from reelwire.training.tiny_models import MODELS, make

    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            make(name, Path(folder))
        write({"card": card_rows(Path(folder))})


if __name__ == "__main__":
    main()
