"""The streamed encoders against diffusers' own `encode`: real depths, few channels, a size that is not square."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle
from typing import Any

import pytest
import torch
from reelwire.loaders.families.cogvideox import vae as cogvideox_vae
from reelwire.loaders.families.hunyuan_video import vae as hunyuan_video_vae
from reelwire.loaders.families.ltx import vae as ltx_vae
from reelwire.loaders.families.mochi import vae as mochi_vae
from reelwire.loaders.families.svd import vae as svd_vae
from reelwire.loaders.families.wan import vae as wan_vae
from reelwire.training import tiny_models
from reelwire.training.tiny_models import new, seeded
from torch import Tensor

DEPTHS = {"0.9.0": (4, 3, 3, 3, 4), "0.9.1": (4, 3, 3, 3, 4), "0.9.5": (4, 6, 6, 2, 2)}  # of the published encoders


@dataclass(frozen=True)
class Case:
    """One VAE. counts: frames of the clips that are compared; ratio: frames to a latent; ahead: the most frames that
    are read before the piece that shows them; exact: to the last bit; size: pixels."""

    module: Any
    make: Callable[[], Any]
    counts: tuple[int, ...]
    ratio: int
    ahead: int
    exact: bool = True
    size: tuple[int, int] = (32, 48)

    def same(self, made: Tensor, expected: Tensor) -> bool:
        if self.exact:
            return torch.equal(made, expected)
        return made.shape == expected.shape and (made - expected).abs().max().item() < 1e-5


def wan(**config: Any) -> Any:
    return new("AutoencoderKLWan", base_dim=4, decoder_base_dim=4, dim_mult=[1, 2, 4, 4], **config)


def ltx(release: str) -> Any:
    stages = {**tiny_models.LTX_VAES[release], "layers_per_block": DEPTHS[release]}
    return new("AutoencoderKLLTXVideo", latent_channels=8, encoder_causal=True, decoder_causal=False, **stages)


def cogvideox() -> Any:
    return new(
        "AutoencoderKLCogVideoX",
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    )


def mochi() -> Any:
    """With more heads in the last stages, and few decoder weights."""
    return new("AutoencoderKLMochi", encoder_block_out_channels=(32, 32, 64, 64), decoder_block_out_channels=(32,) * 4)


WAN_22 = dict(z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16)
CASES = {
    "wan 2.1": Case(wan_vae, wan, (1, 5, 17, 33), 4, 4),
    "wan 2.2": Case(wan_vae, partial(wan, **WAN_22), (1, 5, 17, 33), 4, 4, size=(64, 96)),
    "cogvideox": Case(cogvideox_vae, cogvideox, (1, 2, 5, 9, 15, 17, 33, 49), 4, 9),
    "hunyuan": Case(
        hunyuan_video_vae,
        lambda: new("AutoencoderKLHunyuanVideo", block_out_channels=(4, 8, 8, 8), norm_num_groups=2),
        (1, 13, 16, 17, 25, 27, 29, 33, 53),
        4,
        17,
    ),
    **{
        f"ltx {release}": Case(ltx_vae, partial(ltx, release), (1, 9, 17, 33), 8, 8, False, (64, 96))
        for release in DEPTHS
    },
    "mochi": Case(mochi_vae, mochi, (1, 7, 19, 31), 6, 6, False),
    "svd": Case(svd_vae, tiny_models.svd_vae, (1, 3), 1, 1),
}
CLIPS = [(name, count) for name, case in CASES.items() for count in case.counts]
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def vae_of(name: str) -> Any:
    return CASES[name].make()


def clip(name: str, count: int, seed: int = 0) -> Tensor:
    with seeded(seed):
        return torch.rand(1, 3, count, *CASES[name].size) * 2 - 1


def black(name: str, count: int) -> Iterator[Tensor]:
    return (torch.zeros(1, 3, 1, *CASES[name].size) for _ in range(count))


def reference(name: str, pixels: Tensor) -> Tensor:
    """The moments that diffusers gives; Stable Video Diffusion's VAE takes images."""
    vae = vae_of(name)
    if name == "svd":
        return torch.stack([vae.encode(frame).latent_dist.parameters for frame in pixels.unbind(2)], 2)
    return vae.encode(pixels).latent_dist.parameters


def stream(name: str, pieces: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    return CASES[name].module.encode_pieces(vae_of(name), pieces, count)


def uneven(pixels: Tensor) -> Iterator[Tensor]:
    at = 0
    for size in cycle((3, 1, 6, 2)):
        if at >= pixels.shape[2]:
            return
        yield pixels[:, :, at : at + size]
        at += size


@pytest.mark.parametrize(("name", "count"), CLIPS)
def test_equals_the_reference(name: str, count: int) -> None:
    """Frame by frame and in uneven pieces."""
    pixels = clip(name, count)
    expected = reference(name, pixels)
    pieces = list(stream(name, iter(pixels.split(1, 2)), count))
    assert all(piece.shape[2] for piece in pieces)
    assert CASES[name].same(torch.cat(pieces, 2), expected)
    assert CASES[name].same(torch.cat(list(stream(name, uneven(pixels), count)), 2), expected)
    assert expected.shape[2] == -(-count // CASES[name].ratio)
    assert expected.std() > 0.1


@every
def test_streams_never_see_one_another(name: str) -> None:
    """Two clips in turns, with an encode of the VAE's own between, and after one that was left in the middle."""
    count = CASES[name].counts[-1]
    first, second = clip(name, count, 1), clip(name, count, 2)
    alone = [torch.cat(list(stream(name, iter(x.split(1, 2)), count)), 2) for x in (first, second)]
    next(stream(name, iter(second.split(1, 2)), count))
    turns = []
    for pair in zip(*(stream(name, iter(x.split(1, 2)), count) for x in (first, second)), strict=True):
        reference(name, second[:, :, :1])
        turns.append(pair)
    assert len(turns) > 1
    for expected, pieces in zip(alone, zip(*turns, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces, 2), expected)


@every
@pytest.mark.parametrize("count", [25, 73])
def test_frames_are_read_when_they_are_needed(name: str, count: int) -> None:
    """Of a clip of any length, only so many frames have been read for which no moments have come yet."""
    case, read, shown, most = CASES[name], 0, 0, 0

    def source() -> Iterator[Tensor]:
        nonlocal read
        for frame in black(name, count):
            read += 1
            yield frame

    for piece in stream(name, source(), count):
        most = max(most, read - (case.ratio * (shown - 1) + 1 if shown else 0))
        shown += piece.shape[2]
    assert shown == -(-count // case.ratio)
    assert read == count
    assert most == case.ahead


def alive() -> int:
    """Bytes of all tensors that anything still holds."""
    tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor) and o.device.type == "cpu"]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def most(name: str, count: int) -> int:
    """Bytes that a stream of this many frames holds at most when it yields."""
    vae_of(name)
    gc.collect()
    gc.freeze()  # what was there before is not looked through again
    before = alive()
    try:
        return max(alive() - before for _ in stream(name, black(name, count), count))
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", [n for n in CASES if n != "mochi"])  # whose attention keeps keys and values
def test_a_longer_clip_holds_no_more(name: str) -> None:
    assert 0 < most(name, 73) <= most(name, 41)


def test_what_mochi_holds_of_the_past() -> None:
    """Keys and values of the frames so far, and nothing else that grows."""
    encoder, (height, width) = vae_of("mochi").encoder, CASES["mochi"].size

    def kept(count: int) -> int:
        numbers, area = 0, height * width
        for block in (encoder.block_in, *encoder.down_blocks, encoder.block_out):
            if hasattr(block, "conv_in"):
                area //= block.spatial_expansion**2
                count = (count - 1) // block.temporal_expansion + 1
            numbers += sum(2 * count * area * a.to_k.out_features for a in block.attentions if a is not None)
        return 4 * numbers

    assert 0 < most("mochi", 37) - most("mochi", 13) <= kept(37) - kept(13)
