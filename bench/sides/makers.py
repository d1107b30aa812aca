"""LTX-Video's presets against its makers' own program (ltx-video), configuration by configuration.

python bench/sides/makers.py    prints a table: largest difference of final latents, tiny models, all published steps
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

ROOT = Path(__file__).parents[2]
if "reelwire" not in sys.modules:  # by path, whatever the folder is called
    spec = importlib.util.spec_from_file_location("reelwire", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["reelwire"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["reelwire"])

from reelwire.loaders.request import Request
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.components import seeded
from reelwire.tests.support.engine.makers import make

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = ROOT / "tests" / "support" / "files" / "ltx_programs.json"
RELEASES = {"ltxv-2b-0.9": "0.9.0", "ltxv-2b-0.9.1": "0.9.1"}
WIDTH, HEIGHT, FRAMES, SEED, FPS = 96, 64, 17, 7, 30.0
DECODING = ("decode_timestep", "decode_noise_scale", "tone_map_compression_ratio")


def rows(folder: Path) -> Iterator[tuple[str, int, float, float]]:
    """(preset, predictions, largest difference, spread of the reference's latents) of every configuration."""
    for name, config in json.loads(CONFIGS.read_text(encoding="utf-8")).items():
        both = make(folder, "ltxv-2b-0.9.0" if name == "ltxv-2b-0.9" else name, RELEASES.get(name, "0.9.5"))
        text = both.model.encode("a red circle moving right", "a ring")
        common = {key: value for key, value in config.items() if not key.endswith("_pass")}
        for part in [key for key in config if key.endswith("_pass")] or [""]:
            preset = f"{name}, second pass" if part == "second_pass" else name
            values: dict[str, Any] = {k: v for k, v in {**common, **config.get(part, {})}.items() if k not in DECODING}
            source = None
            if part == "second_pass":
                with seeded(3):
                    source = torch.randn(both.model.facts.latent_shape(WIDTH, HEIGHT, FRAMES))
            size = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": FPS}
            theirs = both.reference(text.branches, SEED, latents=source, **size, **values)
            request = Request(WIDTH, HEIGHT, FRAMES, preset=preset, seed=SEED, source=source)
            prepared = plan(both.model, request)
            difference = (sample(both.model, text, prepared) - theirs).abs().max().item()
            yield preset, prepared.predictions, difference, theirs.std().item()


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write("| preset | predictions | largest difference | spread |\n| --- | --- | --- | --- |\n")
        for preset, predictions, difference, spread in rows(Path(folder)):
            sys.stdout.write(f"| {preset} | {predictions} | {difference:.1e} | {spread:.2f} |\n")


if __name__ == "__main__":
    main()
