"""The trained tiny models: each is whole and small, and `run.py tiny` gives them out where they are."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reelwire.loaders.request import Request
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.host import ROOT
from reelwire.training import tiny_files, world
from reelwire.training.evaluate import held_out_pictures, score
from reelwire.training.tiny_models import MODELS

sys.path.insert(0, str(ROOT / "bench"))
import caches
import pack

LARGEST = 9_000_000  # bytes of the bundled one; the others: 8,000,000


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
@pytest.mark.parametrize("name", pack.THERE)
def test_each_makes_a_video(name: str) -> None:
    """With its own sampler and guidance, of a prompt or of a picture; its folder holds no path of where it was
    trained."""
    entry = pack.MODELS[name]
    files = [file for file in entry.folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < (LARGEST if name == "tiny_ltx" else 8_000_000)
    assert not any("_name_or_path" in file.read_text("utf-8") for file in files if file.name == "config.json")
    model = pack.open_trained(name)
    conditioning, request = caches.asked(model, world.split()[1][0])
    latents = sample(model, conditioning, replace(request, seed=1, steps=3))
    usual = model.complete(Request())
    assert latents.shape == model.facts.latent_shape(usual.width, usual.height, usual.frames)
    assert torch.isfinite(latents).all()


def test_the_trained_ones_are_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name of the one of noise; that one where there is none, and what is there stays."""
    name, weights, out = "tiny-hunyuan-t2v", tmp_path / "weights", tmp_path / "diffusers"
    out.mkdir()
    monkeypatch.setattr(tiny_files, "WEIGHTS", weights)
    monkeypatch.setattr(tiny_files.tiny, "make", lambda name, folder: folder / f"noise of {name}")
    assert tiny_files.diffusers_folder(name, out) == out / f"noise of {name}"
    (weights / tiny_files.TRAINED[name]).mkdir(parents=True)
    (weights / tiny_files.TRAINED[name] / "model_index.json").write_text("{}")
    assert tiny_files.diffusers_folder(name, out) == out / name
    assert [file.name for file in (out / name).iterdir()] == ["model_index.json"]
    (out / name / "mine").touch()
    tiny_files.diffusers_folder(name, out)
    assert tiny_files.diffusers_folder("tiny-svd-xt", out) == out / "noise of tiny-svd-xt"
    assert {*tiny_files.TRAINED} <= {*MODELS}
    assert not [each for each in out.iterdir() if each.name.startswith(".")]


def test_a_picture_tells_no_motion() -> None:
    """Of a model that is given a scene's first frame any motion is right, but not none."""
    sample = next(s for s in held_out_pictures() if s.scene.motion == "right")
    clip = lambda motion: (
        (
            world.sample_clip(sample.scene._replace(motion=motion), 14, 64, 64, random.Random(1))[0].movedim(0, -1) + 1
        ).numpy()
        / 2
    )
    moving = clip("up")
    assert all(score(sample, moving).right.values())
    still = moving[:1].repeat(14, axis=0)
    assert score(sample, still).right == {"colour": True, "shape": True, "motion": False, "background": True}
    assert not score(sample._replace(language="English"), moving).right["motion"]
