"""Moving pictures: small, with the first and the last frame, and near to what the frames will be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.spec import specs
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.sampling import sample

SHAPES = {  # frames, height and width of the latents of a common video
    "Wan 2.1, 81 frames of 832x480": (21, 60, 104),
    "Wan 2.2 5B, 121 frames of 1280x704": (31, 44, 80),
    "LTX-Video, 161 frames of 1216x704": (21, 22, 38),
    "SVD, 25 frames of 1024x576": (25, 72, 128),
    "decoded frames": (30, 352, 640),
}


@pytest.fixture(scope="module")
def live(comfyui: Path) -> Iterator[Any]:
    """nodes/host/live with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    modules = ("colours", "film", "learned", "strip", "view")
    yield SimpleNamespace(**{name: importlib.import_module(f"reelwire.nodes.host.live.{name}") for name in modules})
    sys.path.remove(str(comfyui))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_strip_is_small_though_it_shows_noise(live: Any, shape: tuple[int, int, int]) -> None:
    count, height, width = shape
    strip = live.strip.strip_of(torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0)))
    assert len(strip.jpeg) <= live.strip.MOST_BYTES
    assert strip.frames == min(count, live.strip.MOST_FRAMES)
    assert strip.ratio == pytest.approx(width / height)
    with Image.open(BytesIO(strip.jpeg)) as image:
        assert image.height % strip.frames == 0
        assert live.strip.LEAST_SIDE <= max(image.width, image.height // strip.frames) <= live.strip.MOST_SIDE


def test_frames_of_a_strip_do_not_run_into_each_other(live: Any) -> None:
    frames = torch.zeros(4, 60, 100, 3)
    frames[1::2] = 1
    with Image.open(BytesIO(live.strip.strip_of(frames).jpeg)) as image:
        rows = np.asarray(image.convert("L")).reshape(4, -1)
    assert rows[::2].max() <= 8
    assert rows[1::2].min() >= 247


def test_a_film_has_evenly_chosen_frames_of_all_that_came(live: Any) -> None:
    film = live.film.Film()
    for first in range(0, 500, 8):
        film.add(torch.arange(first, min(first + 8, 500)).view(-1, 1, 1, 1).expand(-1, 4, 4, 3))
    kept = film.frames[:, 0, 0, 0].tolist()
    assert film.count == 500
    assert kept == list(range(0, 500, 16))
    assert live.strip.MOST_FRAMES < len(kept) <= 2 * live.strip.MOST_FRAMES


def test_marks_count_what_is_shown_on_each_side_of_a_join(live: Any) -> None:
    before = torch.arange(10.0).view(1, 1, 10, 1, 1)
    place = live.view.Place(2, 3, shared=3, following=2, before=before)
    assert live.view._before(place).flatten().tolist() == [3, 4, 5, 6]
    assert live.view._marks(4 + 12, 4, place) == [4, 3, 7, 2]
    many = live.view._marks(4 + 60, 4, place)
    assert sum(many) == live.strip.MOST_FRAMES
    assert many[2] > 18
    assert live.view._marks(12, 0, live.view.Place()) == [0, 0, 12, 0]


# ---------------------------------------------------------------- colours


@pytest.fixture(scope="module")
def sampled() -> tuple[VideoModel, torch.Tensor, torch.Tensor]:
    """(the bundled model, latents that it has sampled, their frames [n, H, W, 3])."""
    files = {"checkpoint": BUNDLED, "text_encoder": BUNDLED / "text_encoder", "tokenizer": BUNDLED / "tokenizer"}
    model = LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())
    latents = sample(model, model.encode("a yellow triangle moves right on gray", ""), Request(seed=5, steps=10))
    return model, latents, torch.cat(list(stream_frames(model, latents)))


def likeness(shown: torch.Tensor, frames: torch.Tensor) -> float:
    """Correlation of pictures [t, h, w, 3] with the frames that they stand for."""
    clip = rearrange(frames, "n h w c -> 1 c n h w")
    count, height, width = shown.shape[:3]
    whole = torch.cat([clip[:, :, :1].expand(-1, -1, 3, -1, -1), clip], 2)
    small = F.adaptive_avg_pool3d(whole, (count, height, width))
    wanted = rearrange(small, "1 c t h w -> t h w c")
    return float(torch.corrcoef(torch.stack([shown.flatten(), wanted.flatten()]))[0, 1])


def test_the_picture_is_like_the_decoded_frames(
    live: Any, sampled: tuple[VideoModel, torch.Tensor, torch.Tensor]
) -> None:
    model, latents, frames = sampled
    shown = live.colours.coloured(model, latents)
    assert shown.shape[:3] == latents.shape[2:]
    assert likeness(shown, frames) > 0.9
    assert likeness(shown.flip(2), frames) < 0.8


def test_colours_that_nobody_has_published_are_learned_where_a_video_is_decoded(
    live: Any, sampled: tuple[VideoModel, torch.Tensor, torch.Tensor]
) -> None:
    model, latents, frames = sampled
    unknown = replace(model, facts=replace(model.facts, rgb=()))
    assert live.colours.published(unknown) is None
    before = live.colours.coloured(unknown, latents)
    lesson = live.learned.Lesson(unknown, latents)
    for piece in (frames * 255).round().to(torch.uint8).split(3):
        lesson.add(piece)
    assert likeness(live.colours.coloured(unknown, latents), frames) > max(0.9, likeness(before, frames))


def test_the_host_has_colours_of_every_family_that_names_them(live: Any) -> None:
    """Only CogVideoX's are learned."""
    formats = live.colours.comfy.latent_formats
    named = {spec.title: [getattr(formats, name)() for name in spec.preview_formats] for spec in specs()}
    assert [title for title, forms in named.items() if not forms] == ["CogVideoX"]
    channels = {title: [len(form.latent_rgb_factors) for form in forms] for title, forms in named.items()}
    assert {title: counts for title, counts in channels.items() if counts} == {
        "HunyuanVideo": [16],
        "LTX-Video": [128],
        "Mochi 1": [12],
        "Stable Video Diffusion": [4],
        "Wan": [16, 48],
    }
