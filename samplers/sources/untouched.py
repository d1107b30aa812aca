"""The pictures of a video that was made under a mask: outside, those of its untouched source.

A VAE looks around. Near what was made anew pixels differ though their latents do not, and where it attends to a whole
frame, norms over it or remembers frames before, they differ everywhere. The source is therefore decoded beside the
video, and its pictures stand wherever the mask keeps its latents. The first half latent pixel inside fades from the
one to the other, so that the outside stays exact and no edge shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loaders.facts import Facts
from ...loaders.vae.tiles import Tiling
from ...loaders.video_model import VideoModel
from ..decode import Form, floats, stream_frames
from .inpaint import Inpainting

Frames = Iterator[Tensor]  # pieces [n, H, W, 3]


def with_untouched(
    model: VideoModel,
    untouched: Inpainting | None,
    made: Callable[[Form], Frames],
    seed: int = 0,
    tiling: Tiling | None = None,
    form: Form = floats,
) -> Frames:
    """The frames of a video in a form, and outside of its mask those that its source's latents decode to.

    made: form -> the frames as they are decoded. untouched: None where nothing is kept. seed, tiling: as for these.
    """
    if untouched is None or not untouched.is_part:
        yield from made(form)
        return
    own = stream_frames(model, untouched.source, seed, tiling)
    yield from map(form, pasted(model.facts, untouched.mask, made(floats), own))


def pasted(facts: Facts, mask: Tensor, made: Frames, own: Frames) -> Frames:
    """Pieces of a video, with the source's own frames where a mask [1, 1, t, h, w] keeps them."""
    shares = [_share(frame, facts.spatial_ratio) for frame in mask[0, 0]]
    done, rest = 0, torch.empty(0)
    for piece in made:
        while len(rest) < len(piece):
            rest = torch.cat([rest, next(own)]) if len(rest) else next(own)
        source, rest = rest[: len(piece)], rest[len(piece) :]
        numbers = [facts.latent_frame(done + i) for i in range(len(piece))]
        yield torch.lerp(source, piece, torch.stack([shares[number] for number in numbers]))
        done += len(piece)


def _share(mask: Tensor, ratio: int) -> Tensor:
    """How much of each pixel [H, W, 1] is the new video's: nothing where a latent frame's mask [h, w] is 0, and all
    from half a latent pixel inside on."""
    free = (mask > 0).float()[None, None].repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
    before, after = ratio // 2, (ratio - 1) // 2
    around = F.avg_pool2d(F.pad(free, (before, after, before, after), "replicate"), ratio, 1)
    return ((2 * around - 1).clamp(min=0) * free)[0, 0, :, :, None]
