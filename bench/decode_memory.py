"""Peak memory against length of Decode Video to File and of Long Video on the real host: python bench/decode_memory.py

COMFYUI_DIR names the host's folder. The bundled model; for the decoder random latents of --size pixels come in through
the stock Load Latent node, so that nothing else works; the long video is rendered with --steps steps in windows of 97
frames. Each length has a fresh host, whose process' VmHWM is the peak (Linux; freed pages go back at once, see MALLOC).
Writes bench/decode_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from pack import import_pack
from safetensors.torch import save_file

MIB = 1024
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
LOAD = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
TIMELINE = '{"prompts": [{"at": 0, "text": "a red circle moves right on black"}]}'


def memory(pid: int, key: str) -> int:
    """A line of /proc/PID/status in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // MIB for line in lines if line.startswith(key))


def decode(frames: int, size: int, steps: int, folder: Path) -> dict[str, dict[str, Any]]:
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, size // 8, size // 8)
    save_file({"latent_tensor": latents, "latent_format_version_0": torch.tensor([])}, folder / "l.latent")
    return {
        "1": {"class_type": "ReelwireLoadLTX", "inputs": LOAD},
        "2": {"class_type": "LoadLatent", "inputs": {"latent": "l.latent"}},
        "3": {
            "class_type": "ReelwireDecodeToVideo",
            "inputs": {"model": ["1", 0], "latent": ["2", 0], "fps": 0.0, "filename_prefix": "made", "crf": 17},
        },
    }


def long_video(frames: int, size: int, steps: int, folder: Path) -> dict[str, dict[str, Any]]:
    inputs = {
        "model": ["1", 0],
        "timeline": TIMELINE,
        "frames": frames,
        "width": size,
        "height": size,
        "window": 97,
        "overlap": 25,
        "steps": steps,
        "guidance": 1.0,
        "sampler": "default",
        "seed": 1,
        "preset": "default",
        "filename_prefix": "made",
    }
    return {
        "1": {"class_type": "ReelwireLoadLTX", "inputs": LOAD},
        "3": {"class_type": "ReelwireLongVideo", "inputs": inputs},
    }


def measured(graph: Any, frames: int, size: int, steps: int) -> dict[str, Any]:
    from reelwire.tests.support.host import Host, boot

    with (
        tempfile.TemporaryDirectory() as folder,
        boot(Path(os.environ["COMFYUI_DIR"]), Path(folder), kind=Host) as host,
    ):
        prompt = graph(frames, size, steps, Path(folder) / "input")
        before = memory(host.pid, "VmRSS")
        host.post(prompt)
        peak = memory(host.pid, "VmHWM")
    frames_mib = frames * size**2 * 12 // 2**20
    return {
        "node": graph.__name__,
        "frames": frames,
        "size": size,
        "before_mib": before,
        "peak_mib": peak,
        "all_frames_as_float_mib": frames_mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels of the decoded latents, a multiple of 8")
    parser.add_argument("--long-size", type=int, default=64, help="pixels of the long video")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--frames", type=int, nargs="+", default=[97, 961, 2881])
    arguments = parser.parse_args()
    import_pack()
    os.environ.update(MALLOC)
    rows, ratios = [], {}
    for graph, size in ((decode, arguments.size), (long_video, arguments.long_size)):
        mine = []
        for frames in arguments.frames:
            mine.append(measured(graph, frames, size, arguments.steps))
            print(json.dumps(mine[-1]), flush=True)
        peaks = [row["peak_mib"] for row in mine]
        ratios[graph.__name__] = round(max(peaks) / min(peaks), 3)
        rows += mine
    print(json.dumps(ratios))
    summary = {"largest_peak_over_smallest": ratios, "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
