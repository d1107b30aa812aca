"""Imports the repository as the package `reelwire`, whatever its folder is called; and opens the trained models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from reelwire.loaders.video_model import VideoModel

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "training" / "weights"


class Trained(NamedTuple):
    """published: the family and variant whose published coefficients it is measured with, where there are any."""

    family: str
    folder: Path
    published: tuple[str, str]


MODELS = {
    "tiny_ltx": Trained("ltx", ROOT / "loaders" / "bundled" / "tiny_ltx", ("ltx", "0.9.1-2b")),
    "tiny_wan": Trained("wan", ROOT / "bench" / "tiny_wan", ("wan", "2.1-t2v-1.3b")),
    "tiny_hunyuan": Trained("hunyuan_video", WEIGHTS / "tiny_hunyuan", ("hunyuan_video", "t2v-13b")),
    "tiny_cogvideox": Trained("cogvideox", WEIGHTS / "tiny_cogvideox", ("cogvideox", "2b")),
    "tiny_mochi": Trained("mochi", WEIGHTS / "tiny_mochi", ("mochi", "1-preview")),
    "tiny_svd": Trained("svd", WEIGHTS / "tiny_svd", ("svd", "svd")),
}
THERE = [name for name, entry in MODELS.items() if entry.folder.exists()]


def import_pack() -> None:
    """Makes `import reelwire` work, where it does not yet."""
    if "reelwire" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "reelwire", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{ROOT} is not a package")
    sys.modules["reelwire"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["reelwire"])


def open_trained(name: str) -> VideoModel:
    """One of MODELS, in float32 where it computes."""
    import_pack()
    from reelwire.loaders.families import load
    from reelwire.loaders.parts import PlainMemory, Recipe
    from reelwire.loaders.weights.bundle import files_of

    entry = MODELS[name]
    return load(Recipe(entry.family, "", files_of(entry.folder), "float32"), PlainMemory())
