"""Reading a single file of 2.8 GB: peak memory over the model's size, and time to the first step, beside diffusers'.

python bench/load_memory.py [FOLDER]     prints a table and writes load_memory.json beside this file

The network has Wan 2.1-1.3B's sizes and random weights, stored as fp16 in the published names, computed in bfloat16
where the file says nothing else. Each reading is a process of its own; they alternate, and the file is in the page
cache.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pack import import_pack

import_pack()
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.spec import FOLDER, shipped_config
from reelwire.loaders.weights.safetensors import read_file
from reelwire.training.tiny_files import WAN

ROUNDS = 3
WAYS = ("ours, bfloat16", "diffusers, bfloat16", "ours, float16 as stored", "ours, fp8 storage")


def make(file: Path, config: dict[str, Any], names: dict[str, str]) -> None:
    """Random weights of a config, under the published names."""
    import diffusers
    from safetensors.torch import save_file

    with torch.device("meta"):
        network = diffusers.WanTransformer3DModel.from_config(config)
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        key = re.sub(r"scale_shift_table$", "modulation", key)
        state["head.modulation" if key == "modulation" else key] = torch.randn(value.shape).mul_(0.02).half()
    save_file(state, file)


def step(network: Any, dtype: torch.dtype) -> None:
    with torch.no_grad():
        network(
            hidden_states=torch.zeros(1, 16, 1, 8, 8, dtype=dtype),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.zeros(1, 512, 4096, dtype=dtype),
            return_dict=False,
        )


def read(file: Path, method: str) -> None:
    """Read the file once in this process; prints JSON."""
    import diffusers

    dtype = torch.float16 if "float16 as" in method else torch.bfloat16
    status = Path("/proc/self/status")  # getrusage tells the peak of the process that started this one
    peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
    before, start = peak(), time.perf_counter()
    if method.startswith("ours"):
        entries, metadata = read_file(file)
        weights = wan_files.transformer(entries, metadata)
        assert weights is not None, "the file is not Wan's"
        network = weights.build(dtype, True, "fp8" if "fp8" in method else "", lambda *_: None)
    else:
        config = FOLDER / "wan" / "variants" / "2.1-t2v-1.3b"
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_bytes((config / "transformer.json").read_bytes())
            network = diffusers.WanTransformer3DModel.from_single_file(
                str(file), config=folder, torch_dtype=dtype, local_files_only=True
            )
    taken = peak() - before
    if dtype != torch.float16:  # half precision computes on few processors
        step(network, dtype)
    size = sum(p.nbytes for p in network.parameters())
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": taken / size, "size": size}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the file goes; a temporary folder if none is named")
    parser.add_argument("--read", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(Path(options.read[0]), options.read[1])
        return
    results: dict[str, list[dict[str, float]]] = {method: [] for method in WAYS}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder, "wan2.1_t2v_1.3B_fp16.safetensors")
        make(file, shipped_config("wan", "2.1-t2v-1.3b", "transformer"), WAN)
        for _ in range(ROUNDS):
            for method in WAYS:
                done = subprocess.run(
                    [sys.executable, __file__, "--read", str(file), method], capture_output=True, text=True, check=True
                )
                results[method].append(json.loads(done.stdout.splitlines()[-1]))
    table = {
        method: {key: sorted(r[key] for r in rounds)[ROUNDS // 2] for key in rounds[0]}
        for method, rounds in results.items()
    }
    for method, row in table.items():
        memory = f"{row['size'] / 1e9:5.2f} GB in memory, peak {row['peak']:5.2f} of it"
        print(f"{method:<26} {memory}, {row['seconds']:6.2f} s to the first step")
    Path(__file__).with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
