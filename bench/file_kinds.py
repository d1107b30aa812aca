"""How far one forward is from that of the host's own class for each kind of file, and a run with smaller weights from
one without.

python bench/file_kinds.py     prints its tables and writes file_kinds.json beside this file; COMFYUI_DIR names the host

The files are written from random weights in the published names by tests/support/files/files.py; both compute in
float32 on the CPU. Quantised files are written by ComfyUI's own quantiser: beside the host's class with the same
numbers, beside it with the weights before ("float weights"), and for Wan beside the host's own layers that load the
same file ("host").
Smaller weights: the mean difference of the latents after four steps of a tiny model, as a share of their spread.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pack import import_pack

import_pack()
from reelwire.loaders.parts import PlainMemory
from reelwire.tests.support.files import native_hunyuan_mochi, native_networks, native_wan
from reelwire.tests.support.files.files import KINDS, QUANTISED, quantised
from reelwire.tests.support.files.native_quantised import beside_the_host
from reelwire.tests.support.files.small_weights import SMALL, stored
from reelwire.training.tiny_models import make

NETWORKS = {
    "Wan T2V": (native_wan, "t2v"),
    "Wan I2V": (native_wan, "i2v"),
    "Wan VACE": (native_wan, "vace"),
    "HunyuanVideo T2V": (native_hunyuan_mochi, "t2v"),
    "HunyuanVideo I2V, concat": (native_hunyuan_mochi, "concat"),
    "HunyuanVideo I2V, replace": (native_hunyuan_mochi, "replace"),
    "Mochi 1": (native_hunyuan_mochi, "mochi"),
    "CogVideoX 1.5": (native_networks, "cogvideox"),
    "LTX-Video": (native_networks, "ltx"),
    "SVD": (native_networks, "svd"),
}


def kinds(folder: Path, columns: dict[str, str]) -> dict[str, dict[str, float]]:
    """Network -> column -> largest difference. columns: what is shown -> the kind of file."""
    table: dict[str, dict[str, float]] = {}
    print(" " * 26 + " | ".join(columns))
    for name, (module, kind) in NETWORKS.items():
        stem = "hunyuan_video_v2_replace_image_to_video" if kind == "replace" else "network"  # tells the variant
        file = folder / f"{stem}.safetensors"
        table[name] = {column: module.differ(file, kind, of)[0] for column, of in columns.items()}
        print(f"{name:<26}" + "".join(f"{value:>10.1e}" for value in table[name].values()), flush=True)
    return table


def before(kind: str) -> Any:
    """Writes a quantised file, and gives the weights that it was made of."""

    def write(file: Path, state: Any) -> Any:
        quantised(file, state, kind)
        return state

    return write


def float_weights(folder: Path) -> dict[str, dict[str, float]]:
    names = {kind: f"{kind}, float weights" for kind in QUANTISED}
    KINDS.update({name: before(kind) for kind, name in names.items()})
    return kinds(folder, names)


def host(folder: Path) -> dict[str, dict[str, float]]:
    table = {kind: beside_the_host(folder / "wan.safetensors", kind) for kind in QUANTISED}
    for kind, row in table.items():
        print(f"{kind:<14}" + "  ".join(f"{name} {value:.1e}" for name, value in row.items()), flush=True)
    return table


def weights(folder: Path) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for name in SMALL:
        make(name, folder)
        _, whole = stored(folder, name, "", PlainMemory())
        smaller = {kind: stored(folder, name, kind, PlainMemory())[1] for kind in ("fp8", "int8")}
        table[name] = {kind: ((latents - whole).abs().mean() / whole.std()).item() for kind, latents in smaller.items()}
        print(f"{name:<26}" + "".join(f"{kind:>6} {value:.2%}" for kind, value in table[name].items()), flush=True)
    return table


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = {
            "files": kinds(Path(folder), {kind: kind for kind in KINDS}),
            "float weights": float_weights(Path(folder)),
            "host": host(Path(folder)),
            "weights": weights(Path(folder)),
        }
    Path(__file__).with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
