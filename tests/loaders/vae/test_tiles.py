"""Tiles of space, memory that runs out, and what waits in RAM; tiny VAEs of every family, the host left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.devices import out_of_memory
from reelwire.loaders.families import family
from reelwire.loaders.families.ltx import vae as ltx_vae
from reelwire.loaders.families.ltx.vae import Noise
from reelwire.loaders.messages import InputError
from reelwire.loaders.notices import heard_by
from reelwire.loaders.vae.tiles import FEWEST, OVERLAP, Pieces, Tile, Tiling, tiled
from reelwire.samplers.decode import frame_count, stream_frames, tiling_of
from reelwire.tests.support.host import ROOT
from torch import Tensor

sys.path.insert(0, str(ROOT / "bench"))
import vae as bench
from reelwire.tests.support.engine.vaes import (
    CASES,
    HEIGHT,
    WIDTH,
    Short,
    clip_of,
    decoded,
    every,
    latents_of,
    model_of,
    vae_of,
)

Told = list[str]


PARKED = [name for name, case in CASES.items() if case.family in ("wan", "cogvideox", "mochi", "ltx")]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# ---------------------------------------------------------------- how a frame is cut


@given(st.integers(1, 200), st.integers(1, 200), st.just(0) | st.integers(FEWEST, 64))
def test_tiles_cover_the_frame(height: int, width: int, size: int) -> None:
    """All are equally large, and each shares a quarter or more with its neighbours."""
    rows = Tiling(size).rows(height, width)
    assert len({(t.height, t.width) for row in rows for t in row}) == 1
    assert {t.whole for row in rows for t in row} == {(height, width)}
    tops, lefts = [row[0].top for row in rows], [t.left for t in rows[0]]
    assert all(
        [t.left for t in row] == lefts and {t.top for t in row} == {top} for row, top in zip(rows, tops, strict=True)
    )
    for starts, length, whole in ((tops, rows[0][0].height, height), (lefts, rows[0][0].width, width)):
        assert length == (min(size, whole) if size else whole)
        assert starts[0] == 0
        assert starts[-1] + length == whole
        assert all(a < b <= a + length * (1 - OVERLAP) for a, b in pairwise(starts))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(FEWEST, 16), st.integers(1, 3))
def test_tiles_of_what_stays_the_same_are_seamless(height: int, width: int, size: int, up: int) -> None:
    """Of a stage that only enlarges, in pieces of two frames."""
    frames = torch.rand(1, 2, 4, height, width, generator=torch.Generator().manual_seed(0))
    enlarge = lambda x: x.repeat_interleave(up, -1).repeat_interleave(up, -2)
    stage = lambda pieces, tile: map(enlarge, pieces)
    result = torch.cat(list(tiled(stage, iter(frames.split(2, 2)), Tiling(size).rows(height, width))), 2)
    assert result.shape == (1, 2, 4, height * up, width * up)
    assert (result - enlarge(frames)).abs().max() < 1e-6


@given(st.integers(1, 300), st.integers(1, 300))
def test_every_next_tiling_is_smaller(height: int, width: int) -> None:
    tiling, tilings = Tiling(), list[Tiling]()
    while (less := tiling.smaller(height, width)) is not None:
        assert less.offload_state
        assert less.size == (0 if not tiling.offload_state else (tiling.size or max(height, width)) // 2)
        assert less.size == 0 or less.size >= FEWEST
        tiling = less
        tilings.append(less)
    assert (tiling.size or max(height, width)) < 2 * FEWEST
    assert len(tilings) < 10


def test_streams_of_unequal_length_are_an_error() -> None:
    """One tile's stage that loses a frame must not shorten the video in silence."""

    def stage(pieces: Pieces, tile: Tile) -> Pieces:
        yield from list(pieces)[: 2 if tile.left else 3]

    with pytest.raises(ValueError, match="shorter"):
        list(tiled(stage, iter(torch.zeros(1, 1, 3, 8, 8).split(1, 2)), Tiling(4).rows(8, 8)))


# ---------------------------------------------------------------- the families' decoders in tiles


@every
def test_decode_in_tiles(name: str) -> None:
    whole, parts = decoded(name), decoded(name, Tiling(6, True))
    case = CASES[name]
    assert whole.shape == (frame_count(model_of(name), latents_of(name)), HEIGHT * case.ratio, WIDTH * case.ratio, 3)
    assert parts.shape == whole.shape
    assert whole.std() > 1e-3
    assert not torch.equal(parts, whole)
    assert (parts - whole).abs().mean() < case.apart * whole.std()


@pytest.mark.parametrize("name", bench.TRAINED)
def test_tiles_of_trained_decoders(name: str) -> None:
    """Of a picture of 104 x 144 pixels in tiles of 64: streaming changes nothing, tiles nothing that one sees."""
    row = bench.decode_row(name, 3, *bench.CASES[name].sizes[0])
    assert row["made"] == row["expected"] == 9
    assert row["streamed"]["max"] < 1e-4
    assert row["tiled"]["mean"] < 0.02
    assert row["tiled"]["mean"] < 1.2 * row["diffusers_tiled"]["mean"]


@every
def test_a_tile_as_large_as_the_frame_changes_nothing(name: str) -> None:
    assert torch.equal(decoded(name, Tiling(max(HEIGHT, WIDTH))), decoded(name))


def test_injected_noise_is_the_same_in_all_tiles() -> None:
    """LTX 0.9.1: a tile sees its part of the whole frame's pattern, at every layer's resolution."""
    whole = Tiling().rows(HEIGHT, WIDTH)[0][0]
    draw = lambda: torch.Generator().manual_seed(3)
    for row in Tiling(6).rows(HEIGHT, WIDTH):
        for tile in row:
            mine, full = Noise(draw(), tile), Noise(draw(), whole)
            for up in (1, 1, 2, 4, 8):
                expected = full.like(torch.zeros(1, 1, 1, HEIGHT * up, WIDTH * up))
                noise = mine.like(torch.zeros(1, 1, 1, 6 * up, 6 * up))
                assert torch.equal(noise, tile.cut(expected))


def test_noise_follows_the_seed_alone() -> None:
    model, latents, tiles = model_of("ltx 0.9.1"), latents_of("ltx 0.9.1"), Tiling(6, True)
    assert torch.equal(torch.cat(list(stream_frames(model, latents, 0, tiles))), decoded("ltx 0.9.1", tiles))
    assert not torch.equal(next(stream_frames(model, latents, 1, tiles))[0], decoded("ltx 0.9.1", tiles)[0])


@every
@pytest.mark.parametrize("pieces", [1, 99])
def test_a_decode_leaves_the_shared_vae_as_it_was(name: str, pieces: int) -> None:
    """Whether it was finished or broken off: another run, or a comparison with diffusers, gets the same VAE."""
    case, vae = CASES[name], CASES[name].make()
    modules = list(vae.modules())
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, (str, int, float, tuple))} for m in modules]
    changed = lambda: [k for m, before in zip(modules, plain, strict=True) for k in before if vars(m)[k] != before[k]]
    z = torch.zeros(1, model_of(name).facts.channels, case.latents, HEIGHT, WIDTH)
    tile = Tile(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH))
    stream = family(case.family).decode_pieces(vae, iter(z.split(1, 2)), tile, 0)
    for _ in zip(range(pieces), stream, strict=False):
        assert not changed()
    del stream
    assert not changed()


# ---------------------------------------------------------------- what waits in RAM


@pytest.mark.parametrize("name", PARKED)
def test_an_offloaded_state_is_equal(name: str) -> None:
    assert torch.equal(decoded(name, Tiling(0, True)), decoded(name, most=0))


@pytest.mark.parametrize("name", PARKED)
def test_an_offloaded_state_leaves_nothing_on_the_card(name: str) -> None:
    """Between two pieces the past is not on the card (at most the piece itself), and it comes back from RAM.

    The meta device stands in for the card.
    """
    case, vae, shown = CASES[name], CASES[name].make().to("meta"), 0
    peaks = {}
    for offload_state in (False, True):
        with bench.Live() as live, bench.Fused():
            z = torch.zeros(1, model_of(name).facts.channels, case.latents, HEIGHT, WIDTH, device="meta")
            before, tile, waits = live.now, Tile(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH), offload_state), list[int]()
            for piece in family(case.family).decode_pieces(vae, iter(z.split(1, 2)), tile, 0):
                assert piece.is_meta
                shown = max(shown, piece.nbytes)
                del piece
                waits.append(live.now - before)
        peaks[offload_state] = waits[len(waits) // 2]
    assert peaks[True] <= shown + z.nbytes
    assert peaks[False] > 3 * peaks[True]


@pytest.mark.parametrize("name", bench.PUBLISHED)
@pytest.mark.parametrize("offload_state", [False, True])
def test_the_room_that_is_asked_for(name: str, offload_state: bool) -> None:
    """It is what the published decoder holds at most, and not much more."""
    row = bench.bytes_row(name, *bench.FRAMES[0], offload_state)
    assert row["peak"] <= row["assumed"] <= 1.15 * row["peak"]


# ---------------------------------------------------------------- memory that runs out


def changes(name: str) -> Told:
    start = "Memory ran out while decoding; it goes on with"
    return [f"{start} the whole frame, in parts.", f"{start} tiles of {6 * CASES[name].ratio} pixels."]


@every
def test_decoding_goes_on_in_tiles(name: str) -> None:
    notes: Told = []
    with Short(vae_of(name).decoder, 0.6):
        result = torch.cat(list(stream_frames(model_of(name), latents_of(name), tell=notes.append)))
    assert notes == changes(name)
    assert torch.equal(result, decoded(name, Tiling(6, True)))


@pytest.mark.parametrize("name", [n for n in CASES if n != "svd"])  # which decodes all at once
def test_decoding_goes_on_in_tiles_in_the_middle(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No frame is lost or comes twice."""
    monkeypatch.setattr(ltx_vae, "MOST", 0)  # as on a card
    notes: Told = []
    pieces, before = list[Tensor](), 0
    latents = latents_of(name)
    many = {"hunyuan": 1, "cogvideox": 1}.get(name, latents.shape[2] - 1)  # these take several frames at a time
    with Short(vae_of(name).decoder, 0.6, many):
        for piece in stream_frames(model_of(name), latents, tell=notes.append):
            before += 0 if notes else len(piece)
            pieces.append(piece)
    result = torch.cat(pieces)
    assert notes == changes(name)
    assert 0 < before < len(result) == frame_count(model_of(name), latents)
    assert torch.equal(result[:before], decoded(name, most=0)[:before])
    assert torch.equal(result[before:], decoded(name, Tiling(6, True))[before:])


@every
def test_no_memory_even_for_the_smallest_tile(name: str) -> None:
    notes: Told = []
    with Short(vae_of(name).decoder, 0.01), pytest.raises(torch.OutOfMemoryError, match="even for the smallest tiles"):
        list(stream_frames(model_of(name), latents_of(name), tell=notes.append))
    assert notes == changes(name)


def test_other_errors_are_not_retried() -> None:
    notes: Told = []
    latents = latents_of("wan 2.1")[:, :3]
    with pytest.raises(RuntimeError) as caught:
        list(stream_frames(model_of("wan 2.1"), latents, tell=notes.append))
    assert not out_of_memory(caught.value)
    assert notes == []


@every
def test_encoding_goes_on_in_tiles(name: str) -> None:
    model, frames = model_of(name), clip_of(name)
    encode = partial(model.encode_video, vae_of(name), frames)
    whole = encode()
    with Short(vae_of(name).encoder, 0.6) as short:
        encoded = encode()
    assert short.calls > 1
    assert encoded.shape == whole.shape == (1, model.facts.channels, CASES[name].latents, HEIGHT, WIDTH)
    assert not torch.equal(encoded, whole)
    assert (encoded - whole).abs().mean() < CASES[name].apart * whole.std()
    with Short(vae_of(name).encoder, 0.01), pytest.raises(torch.OutOfMemoryError, match="even for the smallest tiles"):
        encode()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        torch.OutOfMemoryError("x"),
    ],
)
def test_errors_of_memory(error: Exception) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# ---------------------------------------------------------------- the choice of tiles


@every
def test_tiles_follow_the_room(name: str) -> None:
    whole = model_of(name).vae_bytes(Tiling(), 60, 100)
    assert model_of(name, 2 * whole).tiling(60, 100) == Tiling()
    least = model_of(name, 1000).tiling(60, 100)
    assert least == Tiling(6, True)  # 50, 25, 12, 6
    sizes = [model_of(name, whole // part).tiling(60, 100).size or 100 for part in (1, 2, 4, 8, 16, 32)]
    assert sizes == sorted(sizes, reverse=True)
    for part in (1, 2, 4, 8):
        model = model_of(name, whole // part)
        assert model.vae_bytes(model.tiling(60, 100), 60, 100) <= 0.8 * whole / part


@every
def test_tiles_that_are_asked_for(name: str) -> None:
    model, ratio = model_of(name), CASES[name].ratio
    assert tiling_of(model, 60, 100, 32 * ratio) == Tiling(32, True)
    assert tiling_of(model, 60, 100, 100 * ratio) == tiling_of(model, 60, 100) == Tiling()
    rule = f"multiple of {ratio} pixels, and at least {FEWEST * ratio}"
    nearest = f"{9 * ratio} or {10 * ratio}"
    for wrong, remedy in ((1, FEWEST * ratio), (FEWEST * ratio - ratio, FEWEST * ratio), (9 * ratio + 1, nearest)):
        with pytest.raises(InputError, match=rf"tile = {wrong}: .*{rule}\. Use {remedy}, or 0"):
            tiling_of(model, 60, 100, wrong)


def test_an_encode_in_tiles_is_said() -> None:
    """Tiles change what is encoded; a frame in parts that together are the whole does not, and needs no word."""
    name = "wan 2.1"
    said: list[str] = []
    for room in (sys.maxsize, 1):
        model = model_of(name, room)
        with heard_by(said.append):
            model.encode_video(vae_of(name), clip_of(name))
    assert len(said) == 1
    assert "given frames are encoded in tiles of" in said[0]
