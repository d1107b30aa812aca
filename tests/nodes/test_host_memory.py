"""Parts under ComfyUI's own memory manager compute the same numbers, loaded fully, partly or anew, and are freed."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.parts import Memory, PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.card import attached, seen_by_comfyui
from reelwire.tests.support.engine.cached_runs import SOME, Sampled
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.models import open_model as _open
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.files.small_weights import SMALL, stored
from reelwire.training.tiny_models import MODELS
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere

# in the process that has the pretend card: weights that wait and weights that compute lie apart there
DEVICE = "npu" if attached() else "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True, params=["here", pytest.param("card", marks=pytest.mark.on_card)])
def place(request: pytest.FixtureRequest) -> str:
    """Every test runs in this process, and in the one that has the pretend card."""
    return request.param


def plain() -> PlainMemory:
    """Everything stays where it computes, without a manager."""
    return PlainMemory(DEVICE)


def open_model(folder: Path, name: str, memory: Memory) -> VideoModel:
    return replace(_open(folder, name), memory=memory)


@pytest.fixture(scope="module")
def host_module(comfyui: Path) -> Iterator[Any]:
    """nodes/host with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = DEVICE == "cpu"
    with seen_by_comfyui():
        import reelwire.nodes.host as module

    yield module
    sys.path.remove(str(comfyui))


FILES = {"checkpoint": BUNDLED, "text_encoder": BUNDLED / "text_encoder", "tokenizer": BUNDLED / "tokenizer"}
RECIPE = Recipe("ltx", "", FILES, "float32")


def test_tied_weights_count_once(tiny_models: Path, host_module: Any) -> None:
    """T5's embedding lies in two places of its module; of UMT5-XXL's it is 2 GiB."""
    memory = host_module.HostMemory()
    model = open_model(tiny_models, "tiny-wan2.1-t2v", memory)
    with torch.no_grad():
        expected = open_model(tiny_models, "tiny-wan2.1-t2v", plain()).encode("a cat", "").branches["cond"]["text"]
        assert torch.equal(model.encode("a cat", "").branches["cond"]["text"], expected)
    (patcher,) = memory.patchers()
    once = {id(weight): weight.nbytes for weight in patcher.model.inner.parameters()}
    buffers = sum(buffer.nbytes for buffer in patcher.model.inner.buffers())
    assert sum(once.values()) <= patcher.model_size() <= sum(once.values()) + buffers
    assert patcher.loaded_size() <= patcher.model_size()


def make(model: VideoModel) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, frames) of a short run."""
    conditioning = model.encode("a red circle moving right", "")
    latents = sample(model, conditioning, Request(seed=1, steps=3, frames=9))
    return latents, torch.cat(list(stream_frames(model, latents)))


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_hosts_manager_changes_no_number(host_module: Any) -> None:
    import comfy.model_management as mm

    expected = make(LTX.load(RECIPE, plain()))
    model = host_module.load_model(RECIPE)
    assert model.get_models() == []
    assert same(make(model), expected)
    patchers = model.get_models()
    assert len(patchers) == 3
    loaded = {id(m.model) for m in mm.current_loaded_models}
    assert len(loaded & {id(p) for p in patchers}) == 2, "the text encoder gave its room to the transformer"
    mm.unload_all_models()
    assert same(make(model), expected)


def test_partial_load_changes_no_number(host_module: Any) -> None:
    """With room for a few KB, layers stay where they are and are cast when they run."""
    model = host_module.load_model(RECIPE)
    expected = make(model)
    for patcher in model.get_models():
        patcher.detach()
        patcher.partially_load(patcher.load_device, extra_memory=5000)
        assert patcher.model.model_lowvram
        assert patcher.loaded_size() < patcher.model_size() / 2
    assert same(make(model), expected)


FAMILIES = [name for name in MODELS if "upsampler" not in name]


def run_tiny(
    folder: Path, name: str, memory: Memory, devices: list[set[str]] | None = None
) -> tuple[VideoModel, torch.Tensor, torch.Tensor]:
    """(the model, latents, frames) of a short run; seen: the names of the loaded parts at each step."""
    import comfy.model_management as mm

    model = open_model(folder, name, memory)
    inputs = needed(model)
    conditioning = model.encode("a red circle", "", inputs["keyframes"])

    def on_step(*_: Any) -> None:
        loaded = [id(m.model) for m in mm.current_loaded_models]
        parts = getattr(memory, "_patchers", {})
        if devices is not None:
            devices.append({name for name, patcher in parts.items() if id(patcher) in loaded})

    latents = sample(model, conditioning, Request(seed=1, steps=4, **inputs), on_step)
    return model, latents, torch.cat(list(stream_frames(model, latents)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_under_the_hosts_manager(host_module: Any, tiny_models: Path, name: str) -> None:
    """The same numbers as without it, with all weights there, then with room for a few KB alone."""
    expected = run_tiny(tiny_models, name, plain())[1:]
    devices: list[set[str]] = []
    memory = host_module.HostMemory()
    assert same(run_tiny(tiny_models, name, memory, devices)[1:], expected)
    for parts in devices:
        assert not {part for part in parts if "encoder" in part}, "an encoder was left on the device"
        assert len({part for part in parts if part.startswith(("transformer", "unet"))}) == 1, "two experts at a time"
    for patcher in memory.patchers():
        patcher.detach()
        patcher.partially_load(patcher.load_device, extra_memory=2000)
    assert same(run_tiny(tiny_models, name, memory)[1:], expected)


def test_it_makes_way_for_ranks(host_module: Any) -> None:
    """Nothing of the host's stays on a card, and the next run brings it back; on a processor nothing is moved."""
    import comfy.model_management as mm

    on_card = DEVICE != "cpu"
    held = lambda: torch.get_device_module(DEVICE).memory_allocated() if on_card else 0
    mm.unload_all_models()
    gc.collect()
    model, before = host_module.load_model(RECIPE), held()
    made = lambda: tuple(x.cpu() for x in make(model))
    expected = made()
    loaded = lambda: [entry.model for entry in mm.current_loaded_models]
    there = loaded()
    assert there
    model.memory.make_way()
    assert loaded() == ([] if on_card else there)
    assert held() <= before
    assert not on_card or {patcher.loaded_size() for patcher in model.get_models()} == {0}
    assert same(made(), expected)


def test_a_dropped_model_is_freed(host_module: Any) -> None:
    import comfy.model_management as mm

    model = host_module.load_model(RECIPE)
    make(model)
    networks = [weakref.ref(p.model.inner) for p in model.get_models()]
    del model
    gc.collect()
    mm.cleanup_models_gc()
    assert [n() for n in networks] == [None] * 3


# ---------------------------------------------------------------- small weights, small cards


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_eight_bits(host_module: Any, tiny_models: Path, name: str) -> None:
    """int8 is nearer to the original than fp8, both are near; a partial load by the host changes no number."""
    _, whole = stored(tiny_models, name, "", plain())
    off = {}
    for storage in ("fp8", "int8"):
        _, expected = stored(tiny_models, name, storage, plain())
        off[storage] = ((expected - whole).abs().mean() / whole.std()).item()
        memory = host_module.HostMemory()
        model, latents = stored(tiny_models, name, storage, memory)
        assert torch.equal(latents, expected)
        network = next(part for part in ("transformer", "unet") if part in model.parts)
        with model.use(network) as module:
            layers = [layer for layer in module.modules() if isinstance(layer, host_module.memory.HostStored)]
            assert len(layers) > 10
            assert all(layer.weight.dtype == torch.int8 for layer in layers)
        for patcher in memory.patchers():
            patcher.detach()
            patcher.partially_load(patcher.load_device, extra_memory=2000)
            assert patcher.loaded_size() < patcher.model_size()
        inputs = needed(model)
        conditioning = model.encode("a red circle", "", inputs["keyframes"])
        assert torch.equal(sample(model, conditioning, Request(seed=1, steps=4, **inputs)), expected)
    assert 0 < off["int8"] < off["fp8"] < SMALL[name], off


@pytest.mark.parametrize("name", SMALL)
def test_most_on_card(host_module: Any, tiny_models: Path, name: str) -> None:
    """No more than that lies on the card while the network works, and the numbers are the same."""
    _, expected = stored(tiny_models, name, "", plain())
    memory = host_module.HostMemory(most_on_card=4000.0)
    model, latents = stored(tiny_models, name, "", memory)
    assert torch.equal(latents, expected)
    network = next(part for part in ("transformer", "unet") if part in model.parts)
    with model.use(network):
        patcher = memory._patchers[network]
        assert patcher.model.model_lowvram
        assert patcher.loaded_size() < patcher.model_size() / 2


# ---------------------------------------------------------------- caches


@pytest.mark.parametrize("policy", SOME)
@pytest.mark.parametrize("name", ["tiny-hunyuan-t2v", "tiny-wan2.2-t2v-a14b"])
def test_caches_under_the_hosts_manager(host_module: Any, tiny_models: Path, name: str, policy: str) -> None:
    """With all weights there, and with most of them brought in layer by layer."""
    cached = lambda memory: replace(open_model(tiny_models, name, memory), cache=SOME[policy])
    expected = Sampled(cached(plain())).latents
    memory = host_module.HostMemory()
    model = cached(memory)
    assert torch.equal(Sampled(model).latents, expected)
    for patcher in memory.patchers():
        patcher.detach()
        patcher.partially_load(patcher.load_device, extra_memory=2000)
        assert patcher.model.model_lowvram
    assert torch.equal(Sampled(model).latents, expected)


def test_a_model_that_goes_takes_no_room(host_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's list of what is loaded holds nothing alive, and an estimate looks at it from a thread of its own."""
    import comfy.model_management as mm

    device, memory = torch.device("meta"), host_module.memory.HostMemory()
    here = SimpleNamespace(device=device, model=SimpleNamespace(loaded_size=lambda: 3))
    gone, elsewhere = (
        SimpleNamespace(device=device, model=None),
        SimpleNamespace(device=torch.device("cpu"), model=None),
    )
    monkeypatch.setattr(mm, "current_loaded_models", [gone, here, elsewhere])
    monkeypatch.setattr(mm, "get_free_memory", lambda device: 40)
    monkeypatch.setattr(memory, "device", lambda part: device)
    assert memory.room("transformer") == 43


def test_a_failure_lets_go_of_what_its_functions_held(host_module: Any) -> None:
    """Of all that it came from, also where causes go in a circle."""
    held: list[weakref.ref[nn.Module]] = []

    def fail(error: Exception, cause: Exception | None = None) -> Exception:
        activations = nn.Identity()
        held.append(weakref.ref(activations))
        try:
            raise error from cause
        except (ValueError, KeyError) as caught:
            return caught

    first = fail(ValueError("first"))
    second = fail(KeyError("second"), first)
    again = fail(first, second)
    assert [each() is not None for each in held] == [True] * 3
    host_module.notes._let_go(again)
    assert [each() for each in held] == [None] * 3
