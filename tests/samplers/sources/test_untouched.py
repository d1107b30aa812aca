"""Outside of a mask the pictures of a video are what its source's untouched latents decode to, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.flow import encoded_source
from reelwire.loaders.request import Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import eight_bits, stream_frames
from reelwire.samplers.sources.inpaint import Inpainting, latent_mask
from reelwire.samplers.sources.untouched import with_untouched
from reelwire.tests.support.engine.models import FIRST, frames, open_model, usual
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


def changed(model: VideoModel) -> tuple[Tensor, Inpainting]:
    """(latents that differ from their source in the left half, and on all of the last frame; what they keep)."""
    size = usual(model)
    mask = torch.zeros(size.frames, 64, 64)
    mask[:, :, :32] = 1
    mask[-1] = 1
    request = replace(size, width=64, height=64, source=frames(size.frames, 9), mask=mask)
    with torch.no_grad():
        source = encoded_source(model, request).float()
    untouched = Inpainting(source, latent_mask(model.facts, request))
    new = source + torch.randn(source.shape, generator=torch.Generator().manual_seed(2))
    return untouched.restored(new), untouched


def decoded(model: VideoModel, latents: Tensor, tiling: Tiling, **more: Any) -> Tensor:
    return torch.cat(list(stream_frames(model, latents, 4, tiling, **more)))


@pytest.mark.parametrize(("name", "size"), [*((name, 0) for name in FIRST.values()), ("tiny-wan2.1-t2v", 4)])
def test_the_outside_is_what_untouched_latents_decode_to(tiny_models: Path, name: str, size: int) -> None:
    """Whole frames and tiles: outside to the last bit, inside as it is without a mask, but for half a latent pixel."""
    model = open_model(tiny_models, name)
    latents, untouched = changed(model)
    tiling = Tiling(size) if size and max(latents.shape[3:]) > size else Tiling()
    assert untouched.is_kept_in(latents)
    plain, own = decoded(model, latents, tiling), decoded(model, untouched.source, tiling)
    made = lambda form: stream_frames(model, latents, 4, tiling, form=form)
    pieces = list(with_untouched(model, untouched, made, 4, tiling))
    found = torch.cat(pieces)
    facts, half = model.facts, model.facts.spatial_ratio // 2
    changes = [facts.latent_frame(i) == latents.shape[2] - 1 for i in range(len(found))]
    last = torch.tensor(changes)
    assert last.any()
    assert not last.all()
    assert torch.equal(found[~last][:, :, 32:], own[~last][:, :, 32:])
    assert torch.equal(found[~last][:, :, : 32 - half], plain[~last][:, :, : 32 - half])
    assert torch.equal(found[last], plain[last])
    assert (found - own)[~last][:, :, : 32 - half].abs().mean() > 1e-3
    low, high = torch.minimum(plain, own), torch.maximum(plain, own)
    assert (found >= low - 1e-6).all()
    assert (found <= high + 1e-6).all()
    assert max(map(len, pieces)) <= max(map(len, made(lambda piece: piece)))


def test_forms_seeds_and_masks_that_keep_all_or_nothing(tiny_models: Path) -> None:
    """Where nothing or all is new, the video is decoded once, as it is."""
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    latents, untouched = changed(model)
    asked: list[Any] = []

    def made(form: Any) -> Any:
        asked.append(form)
        return stream_frames(model, latents, 4, Tiling(), form=form)

    plain = decoded(model, latents, Tiling(), form=eight_bits)
    for kept in (None, replace(untouched, mask=torch.ones_like(untouched.mask))):
        found = torch.cat(list(with_untouched(model, kept, made, 4, Tiling(), eight_bits)))
        assert torch.equal(found, plain)
        assert asked.pop() is eight_bits
    found = torch.cat(list(with_untouched(model, untouched, made, 4, Tiling(), eight_bits)))
    own = decoded(model, untouched.source, Tiling(), form=eight_bits)
    assert found.dtype == torch.uint8
    assert torch.equal(found[:-4, :, 32:], own[:-4, :, 32:])
    assert not torch.equal(found[:-4, :, :32], own[:-4, :, :32])


def test_latents_that_others_changed_keep_nothing(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    latents, untouched = changed(model)
    assert untouched.is_kept_in(latents)
    for other in (latents.flip(4), latents[:, :, :-1], latents + 1e-3, latents * float("nan")):
        assert not untouched.is_kept_in(other)
    assert not replace(untouched, mask=untouched.mask[0]).is_kept_in(latents)
    odd = replace(untouched, source=untouched.source[:, :8])
    assert not odd.is_kept_in(latents)


def test_a_single_free_latent_pixel_is_new_in_its_middle(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    _, untouched = changed(model)
    mask = torch.zeros_like(untouched.mask)
    mask[..., 3, 4] = 0.5  # gray is free too
    kept = replace(untouched, mask=mask)
    new = torch.cat(list(with_untouched(model, kept, lambda form: iter([form(torch.ones(5, 64, 64, 3))]))))
    own = torch.cat(list(stream_frames(model, untouched.source)))[:5]
    differ = (new != own).any(-1)[0].nonzero()
    assert differ[:, 0].min() >= 24
    assert differ[:, 0].max() < 32
    assert differ[:, 1].min() >= 32
    assert differ[:, 1].max() < 40
    assert (new[:, 28, 36] == 1).all()
    assert own.shape == new.shape


def test_the_request_of_a_plan_holds_its_sources_latents(tiny_models: Path) -> None:
    """As sampling would encode them itself, and only under a mask."""
    from reelwire.samplers.denoise import with_source_latents
    from reelwire.samplers.plan import plan

    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    prompt, source = model.encode("a cat", ""), frames(17, 9)
    bare = plan(model, Request(source=source, frames=17, strength=0.5))
    assert with_source_latents(model, prompt, bare) is bare
    masked = plan(model, Request(source=source, frames=17, mask=torch.eye(64)[None]))
    with torch.no_grad():
        expected = encoded_source(model, masked.request).float()
    found = with_source_latents(model, prompt, masked).request.source
    assert found is not None
    assert torch.equal(found, expected)
