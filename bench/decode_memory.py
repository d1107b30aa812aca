"""Peak memory of ReelwireDecodeToVideo against length, on the real host:  python bench/decode_memory.py [--size 256]

COMFYUI_DIR names the host's folder. Random latents of the bundled model come in through the stock Load Latent node, so
that only the decoder works; the peak is the host process's VmHWM, reset before each run (Linux). Writes
bench/decode_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from pack import import_pack
from safetensors.torch import save_file

MIB = 1024


def memory(pid: int, key: str) -> int:
    """A line of /proc/PID/status in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // MIB for line in lines if line.startswith(key))


def prompt(frames: int) -> dict[str, dict[str, object]]:
    load = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
    return {
        "1": {"class_type": "ReelwireLoadLTX", "inputs": load},
        "2": {"class_type": "LoadLatent", "inputs": {"latent": f"{frames}.latent"}},
        "3": {"class_type": "ReelwireDecodeToVideo", "inputs": {"model": ["1", 0], "latent": ["2", 0], "fps": 0.0, "filename_prefix": f"decode/{frames}", "crf": 17}},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels, a multiple of 8")
    parser.add_argument("--frames", type=int, nargs="+", default=[17, 97, 961])
    arguments = parser.parse_args()
    import_pack()
    from reelwire.tests.host import boot

    rows = []
    with tempfile.TemporaryDirectory() as folder, boot(Path(os.environ["COMFYUI_DIR"]), Path(folder)) as host:
        inputs = Path(folder) / "input"
        inputs.mkdir(exist_ok=True)
        for frames in arguments.frames:
            shape = 1, 16, (frames - 1) // 4 + 1, arguments.size // 8, arguments.size // 8
            save_file(
                {"latent_tensor": torch.randn(shape), "latent_format_version_0": torch.tensor([])},
                inputs / f"{frames}.latent",
            )
        for frames in arguments.frames:
            Path(f"/proc/{host.pid}/clear_refs").write_text("5")
            before = memory(host.pid, "VmRSS")
            host.post(prompt(frames))
            peak = memory(host.pid, "VmHWM")
            rows.append(
                {
                    "frames": frames,
                    "before_mib": before,
                    "peak_mib": peak,
                    "all_frames_as_float_mib": frames * arguments.size**2 * 12 // 2**20,
                }
            )
            print(json.dumps(rows[-1]))
    Path(__file__).with_suffix(".json").write_text(json.dumps({"size": arguments.size, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
