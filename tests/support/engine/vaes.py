"""The tiny VAEs of all families, and one that finds no memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reelwire.loaders.facts import Facts
from reelwire.loaders.families import family
from reelwire.loaders.families.ltx import vae as ltx_vae
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import stream_frames
from reelwire.training import tiny_models
from reelwire.training.tiny_models import seeded
from torch import Tensor, nn

HEIGHT, WIDTH = 8, 12  # latent pixels: halves of 6, and no smaller


@dataclass(frozen=True)
class Case:
    """A tiny VAE.

    ratio, step: pixels and frames to a latent; latents: of the clips; apart: by how much of the deviation tiles may
    differ from the whole frame in the mean (random weights make their edges loud; 1.1 is another picture altogether).
    """

    family: str
    make: Callable[[], Any]
    ratio: int = 8
    step: int = 4
    latents: int = 5
    apart: float = 0.5


CASES = {
    "wan 2.1": Case("wan", tiny_models.wan_vae),
    "wan 2.2": Case("wan", tiny_models.wan_vae_22, 16),
    "hunyuan": Case("hunyuan_video", tiny_models.hunyuan_vae, latents=8, apart=0.65),
    "cogvideox": Case("cogvideox", tiny_models.cog_vae, apart=0.55),
    "mochi": Case("mochi", tiny_models.mochi_vae, step=6, apart=0.6),
    **{
        f"ltx {r}": Case("ltx", partial(tiny_models.ltx_vae, r), 32, 8, 12 if r == "0.9.0" else 9, 0.35)
        for r in tiny_models.LTX_VAES
    },
    "svd": Case("svd", tiny_models.svd_vae, step=1, latents=6, apart=0.8),
}
every = pytest.mark.parametrize("name", CASES)


@cache
def vae_of(name: str) -> Any:
    return CASES[name].make()


class Memory(PlainMemory):
    """Of so many bytes."""

    def __init__(self, room: int = sys.maxsize) -> None:
        super().__init__()
        self._room = room

    def room(self, part: str) -> int:
        return self._room


def model_of(name: str, room: int = sys.maxsize) -> VideoModel:
    case, vae = CASES[name], vae_of(name)
    channels = vae.config.get("latent_channels") or vae.config.z_dim
    facts = Facts(
        spatial_ratio=case.ratio,
        temporal_ratio=case.step,
        channels=channels,
        size_multiple=case.ratio,
        fps=8,
        hidden_size=0,
        text_width=0,
        prompt_tokens=0,
        presets={},
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    parts = {"vae": Part("vae", lambda progress: vae)}
    return family(case.family)("tiny", facts, parts, Recipe(case.family, "", {}, "float32"), Memory(room))


def latents_of(name: str) -> Tensor:
    """Smooth ones."""
    channels = model_of(name).facts.channels
    with seeded(4):
        few = torch.randn(1, channels, 3, 3, 4)
    return F.interpolate(few, (CASES[name].latents, HEIGHT, WIDTH), mode="trilinear", align_corners=True)


def clip_of(name: str) -> Tensor:
    """Frames [T, H, W, 3] as long as the latents."""
    case = CASES[name]
    count = (case.latents - 1) * case.step + 1
    with seeded(5):
        few = torch.rand(1, 3, 2, 3, 4)
    size = (count, HEIGHT * case.ratio, WIDTH * case.ratio)
    return F.interpolate(few, size, mode="trilinear", align_corners=True)[0].movedim(0, -1)


@cache
def decoded(name: str, tiling: Tiling = Tiling(), most: int = ltx_vae.MOST) -> Tensor:  # noqa: B008
    """Frames [T, H, W, 3]. most: elements of LTX-Video's pieces, 0 as on a card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ltx_vae, "MOST", most)
        return torch.cat(list(stream_frames(model_of(name), latents_of(name), tiling=tiling)))


class Short:
    """A network whose first convolution finds no memory for more than `share` of the pixels that it was first given.

    after: how many times it does so all the same.
    """

    def __init__(self, network: Any, share: float, after: int = 0) -> None:
        self.share, self.after, self.calls, self.first = share, after, 0, 0
        conv = next(m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
        self.handle = conv.register_forward_pre_hook(self._ask)

    def _ask(self, conv: Any, inputs: tuple[Any, ...]) -> None:
        size = inputs[0].shape[-1] * inputs[0].shape[-2]
        self.first = self.first or size
        self.calls += 1
        if size > self.share * self.first and self.calls > self.after:
            raise torch.OutOfMemoryError("out of memory, on purpose")

    def __enter__(self) -> Short:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()
