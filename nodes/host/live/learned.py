"""Colours of latents for which nobody has published any: learnt when the first video of a VAE is decoded."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ....loaders.video_model import VideoModel
from .strip import chosen

LESSONS = 8  # latent frames that are learnt from
RIDGE = 1e-4  # of the latents' own spread, so that channels that hardly vary get no large numbers
MOST_KNOWN = 64  # VAEs whose colours are remembered
_known = OrderedDict[str, Tensor]()  # file of a VAE -> colours [C + 1, 3], the last row a bias; the latest at the end


def learned_colours(model: VideoModel) -> Tensor | None:
    """The colours of a model's VAE, if one of its videos was decoded since ComfyUI started."""
    return _known.get(_vae(model))


def _vae(model: VideoModel) -> str:
    files = model.recipe.files
    return str(files.get("vae") or files["checkpoint"])


class Lesson:
    """Learns from latents [1, C, t, h, w] and the frames that they are decoded to, by least squares over a few of them.

    Colours are those of -1..1, as published ones are.
    """

    def __init__(self, model: VideoModel, latents: Tensor) -> None:
        facts, self._key, self._seen = model.facts, _vae(model), 0
        numbers = chosen(latents.shape[2], LESSONS)
        # the frame in the middle of those that a latent frame stands for
        middle = lambda k: max(0, (k - 1) * facts.temporal_ratio + 1 + facts.temporal_ratio // 2 if k else 0)
        self._wanted = {max(0, middle(k) - facts.discarded_frames): latents[0, :, k].float().cpu() for k in numbers}
        self._rows, self._colours = list[Tensor](), list[Tensor]()

    def add(self, piece: Tensor) -> None:
        """Frames [n, H, W, 3] that follow, in 0..1 or in 8 bits; what was learnt is known after the last wanted one."""
        for frame in range(self._seen, self._seen + len(piece)):
            if frame in self._wanted:
                self._take(self._wanted.pop(frame), piece[frame - self._seen])
        self._seen += len(piece)
        if not self._wanted and self._rows:
            _remember(self._key, _fitted(torch.cat(self._rows), torch.cat(self._colours)))
            self._rows.clear()

    def _take(self, latent: Tensor, frame: Tensor) -> None:
        """A latent frame [C, h, w] and a frame [H, W, 3] of it."""
        pixels = rearrange(frame.cpu(), "h w c -> 1 c h w").float()
        pixels = pixels / 255 if frame.dtype == torch.uint8 else pixels
        small = F.interpolate(pixels, latent.shape[1:], mode="area")
        self._rows.append(rearrange(latent, "c h w -> (h w) c"))
        self._colours.append(rearrange(small * 2 - 1, "1 c h w -> (h w) c"))


def _remember(file: str, colours: Tensor) -> None:
    """Keep the colours of a VAE, and let those go that were learnt longest ago."""
    _known[file] = colours
    _known.move_to_end(file)
    while len(_known) > MOST_KNOWN:
        _known.popitem(last=False)


def _fitted(latents: Tensor, colours: Tensor) -> Tensor:
    """Colours [C + 1, 3] that latents [n, C] have most nearly."""
    rows = F.pad(latents, (0, 1), value=1.0)
    square = rows.T @ rows
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square, rows.T @ colours)
