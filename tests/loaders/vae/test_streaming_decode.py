"""Pieces of any size through chains of layers make the frames that the whole clip at once would."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.families.ltx import vae as ltx_vae
from reelwire.loaders.vae.streaming import Delay, Level, Pieces, convolve, mark_last, portions
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.decode import eight_bits, stream_frames
from reelwire.tests.support.models.vaes import CASES, decoded, every, latents_of, model_of
from torch import Tensor

LTX = [name for name in CASES if name.startswith("ltx")]
WEIGHTS = (0.25, 0.5, 1.0)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def blur(window: Tensor) -> Tensor:
    """A convolution over three frames without padding."""
    count = window.shape[2] - 2
    return torch.stack([w * window[:, :, i : i + count] for i, w in enumerate(WEIGHTS)]).sum(0)


def whole(clip: Tensor, layers: int, doublings: int) -> Tensor:
    """What the chain below computes, all frames at once."""
    for level in range(doublings + 1):
        if level:
            clip = clip.repeat_interleave(2, 2)
        for _ in range(layers):
            clip = clip + blur(torch.cat([clip[:, :, :1], clip, clip[:, :, -1:]], 2))
    return clip


def layer(pieces: Pieces, level: Level) -> Pieces:
    skip = Delay()

    def enter(piece: Tensor) -> Tensor:
        skip.put(piece)
        return piece

    return map(skip.add_to, convolve(blur, 3, False, map(enter, pieces), level))


def chain(clip: Tensor, layers: int, doublings: int, new: Callable[[], Level], units: int) -> tuple[Pieces, Level]:
    """A stream of the frames, and its last level."""
    start, level = Level(), new()
    pieces = portions(mark_last(iter(clip.split(1, 2)), start), start, level, 1, units)
    for number in range(doublings + 1):
        if number:
            before, level = level, new()
            pieces = portions((x.repeat_interleave(2, 2) for x in pieces), before, level, 2**number, units)
        for _ in range(layers):
            pieces = layer(pieces, level)
    return pieces, level


@settings(deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(0, 2), st.sampled_from([0, 1, 7, 24, 10**6]), st.integers(1, 9)
)
def test_a_chain_of_layers(frames: int, layers: int, doublings: int, most: int, units: int) -> None:
    """Every frame comes once; the last piece, and no other, is known as the last."""
    clip = torch.arange(float(frames * 4)).view(1, 2, frames, 1, 2).sin()
    pieces, level = chain(clip, layers, doublings, lambda: Level(most), units)
    frames_out, last = list[Tensor](), list[bool]()
    for piece in pieces:
        frames_out.append(piece)
        last.append(level.last)
    assert last == [False] * (len(frames_out) - 1) + [True]
    torch.testing.assert_close(torch.cat(frames_out, 2), whole(clip, layers, doublings))


@pytest.mark.parametrize(("most", "longest"), [(0, 1), (40, 10), (10**6, 16)])
def test_pieces_are_as_large_as_a_level_may_take(most: int, longest: int) -> None:
    start, level = Level(), Level(most)
    clip = torch.rand(1, 2, 37, 1, 2)
    sizes = [x.shape[2] for x in portions(mark_last(iter(clip.split(1, 2)), start), start, level, 1, 16)]
    assert sum(sizes) == 37
    assert max(sizes) == longest


def test_the_end_is_made_with_the_last_piece() -> None:
    """Where there is room for it: else every layer would make its last frame alone."""
    pieces, _ = chain(torch.rand(1, 2, 9, 1, 2), 10, 0, lambda: Level(10**6), 16)
    assert len(list(pieces)) == 1
    pieces, _ = chain(torch.rand(1, 2, 9, 1, 2), 10, 0, Level, 16)
    assert len(list(pieces)) == 9


@pytest.mark.parametrize("name", LTX)
@pytest.mark.parametrize(("most", "latents"), [(0, 1), (2**12, 3), (2**15, 8), (2**40, 4), (2**40, 99)])
def test_the_size_of_pieces_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int, latents: int
) -> None:
    monkeypatch.setattr(ltx_vae, "MOST", most)
    monkeypatch.setattr(ltx_vae, "LATENTS", latents)
    pieces = list(stream_frames(model_of(name), latents_of(name), tiling=Tiling()))
    assert max(map(len, pieces)) <= CASES[name].step
    torch.testing.assert_close(torch.cat(pieces), decoded(name), rtol=0, atol=2e-5)


@every
def test_eight_bits_are_rounded_as_before(name: str) -> None:
    frames = torch.cat(list(stream_frames(model_of(name), latents_of(name), form=eight_bits)))
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, (decoded(name) * 255).round().to(torch.uint8))


def test_every_value_is_rounded_to_the_nearest() -> None:
    values = torch.linspace(0, 1, 2**20).view(1, 1024, 1024, 1)
    before = values.clone()
    assert torch.equal(eight_bits(values), (values * 255).round().to(torch.uint8))
    assert torch.equal(values, before), "it was changed in place"
