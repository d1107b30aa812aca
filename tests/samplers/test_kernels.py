"""Kernels for attention are offered where packages, card, types and masks allow it; else words say why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers import kernels
from reelwire.samplers import kitchen as kitchens
from reelwire.samplers.kernels import (
    CACHE_DIT,
    FLASH,
    KERNELS,
    SAGE,
    TRITON,
    XFORMERS,
    Package,
    absent,
    attention_notes,
    check_offered,
    diffusers_floors,
    torch_triton,
    unfit,
)
from reelwire.samplers.kitchen import Sparse
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.cached_runs import Sampled
from reelwire.tests.support.engine.models import MODELS
from reelwire.tests.support.host import Host, boot, node, workflow

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
ROOT = Path(__file__).parents[2]


def install(folder: Path, module: str, name: str, version: str, source: str = "") -> Path:
    """A package as pip leaves it in a folder for `sys.path`; without a version, as a copied folder leaves it."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(source)
    if version:
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


PACKAGES = [
    (SAGE, "1.0.6", "sageattention 1.0.6 is installed; diffusers wants 2.1.1 or newer."),
    (SAGE, "2.1.1", ""),
    (SAGE, "2.2.0.post3", ""),
    (SAGE, "", ""),
    (FLASH, "2.6.2", "flash-attn 2.6.2 is installed; diffusers wants 2.6.3 or newer."),
    (FLASH, "2.8.3+cu128torch2.9", ""),
    (XFORMERS, "0.0.28.post3", "xformers 0.0.28.post3 is installed; diffusers wants 0.0.29 or newer."),
    (XFORMERS, "0.0.35", ""),
    (CACHE_DIT, "1.4.9", "cache-dit 1.4.9 is installed; Reelwire wants 1.5 or newer."),
    (CACHE_DIT, "1.10.0", ""),
    (TRITON, "2.1.0", "triton 2.1.0 is installed; torch.compile wants"),
    (TRITON, "99.0", ""),
]


@pytest.mark.parametrize(("package", "version", "words"), PACKAGES, ids=lambda v: getattr(v, "module", v))
def test_versions_count_not_presence(
    package: Package, version: str, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path, package.module, package.names[0], version)))
    assert package.lack().startswith(words) if words else not package.lack()


@pytest.mark.parametrize("package", [SAGE, FLASH, XFORMERS], ids=lambda p: p.module)
def test_what_is_missing_is_named_with_its_source(package: Package) -> None:
    assert (
        f"The package {package.names[0]} is not installed; diffusers wants {package.floor()} or newer."
        == package.lack()
    )
    assert "github.com" in package.source
    assert absent()[next(name for name, kernel in KERNELS.items() if kernel.package is package)] == package.lack()


def test_lowest_versions_are_the_libraries_own() -> None:
    from diffusers.models import attention_dispatch

    floors = diffusers_floors()
    assert {"_REQUIRED_SAGE_VERSION", "_REQUIRED_FLASH_VERSION", "_REQUIRED_XFORMERS_VERSION"} <= {*floors}
    assert all(getattr(attention_dispatch, name) == version for name, version in floors.items())
    backends = {backend.value for backend in attention_dispatch.AttentionBackendName}
    assert {kernel.backend for kernel in KERNELS.values() if kernel.backend} <= backends
    assert f'cache-dit = ["cache-dit>={CACHE_DIT.floor()}"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert TRITON.installed.startswith(torch_triton())


def test_nobody_else_asks_whether_a_package_is_there() -> None:
    """A check of presence alone offers what then fails: all go by `Package`, which knows versions; quantised.py asks
    comfy-kitchen for the very layout that it will use, and what needs Ray says so in words."""
    files = [file for folder in ("loaders", "samplers", "nodes") for file in (ROOT / folder).rglob("*.py")]
    asking = re.compile(r"find_spec\(|except \(?(ImportError|ModuleNotFoundError)")
    assert {f.name for f in files if asking.search(f.read_text(encoding="utf-8"))} == {
        *("kernels.py", "quantised.py"),
        *("address.py", "worker.py"),
    }


CARDS = [
    ("sage", "cuda", (7, 5), "compute capability 8.0; this card has 7.5"),
    ("sage", "cuda", (8, 0), ""),
    ("sage", "cuda", (12, 0), ""),
    ("sage", "rocm", (0, 0), "made for NVIDIA cards; the model computes on rocm"),
    ("sage", "cpu", (0, 0), "made for NVIDIA cards"),
    ("flash", "cuda", (7, 5), "compute capability 8.0"),
    ("flash", "rocm", (0, 0), ""),
    ("flash", "mps", (0, 0), "NVIDIA cards and AMD cards"),
    ("xformers", "cuda", (6, 1), ""),
    ("xformers", "xpu", (0, 0), "the model computes on xpu"),
    ("native cudnn", "rocm", (0, 0), "made for NVIDIA cards"),
    ("native cudnn", "cuda", (7, 5), "compute capability 8.0"),
    ("native efficient", "cuda", (7, 5), ""),
    ("native efficient", "cpu", (0, 0), "the model computes on cpu"),
    ("native flash", "cpu", (0, 0), ""),
    ("native", "mps", (0, 0), ""),
    ("auto", "privateuseone", (0, 0), ""),
]


@pytest.mark.parametrize(("kernel", "kind", "capability", "words"), CARDS)
def test_cards(kernel: str, kind: str, capability: tuple[int, int], words: str) -> None:
    said = unfit(KERNELS[kernel], kind, capability)
    assert words in said if words else not said


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    def open_model(name: str, dtype: str = "float32") -> VideoModel:
        return load(Recipe(MODELS[name], "", files_of(tiny_models / name), dtype), PlainMemory())

    return open_model


def sampled(model: VideoModel) -> torch.Tensor:
    return Sampled(model, steps=2).latents


def notes(model: VideoModel, width: int = 0, height: int = 0, frames: int = 0) -> tuple[str, ...]:
    """What is said of attention, of a run of 10 predictions."""
    return attention_notes(model, model.complete(Request(width, height, frames)), 10)


@pytest.fixture
def backends(opened: Any) -> Iterator[list[tuple[str, str]]]:
    """(what the dispatcher is asked for, "masked" or "plain") of each attention, heard at the dispatcher itself."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    heard: list[tuple[str, str]] = []
    before = dict(Registry._backends)
    for name, compute in before.items():

        def listening(*args: Any, name: Any = name, compute: Any = compute, **kwargs: Any) -> Any:
            heard.append((name.value, "plain" if kwargs.get("attn_mask") is None else "masked"))
            return compute(*args, **kwargs)

        Registry._backends[name] = listening
    yield heard
    Registry._backends.update(before)


NATIVE_FLASH = "_native_flash"
DISPATCHED = {
    "tiny-wan2.1-t2v": {(NATIVE_FLASH, "plain")},
    "tiny-mochi": {(NATIVE_FLASH, "plain")},
    "tiny-ltx-0.9.0": {(NATIVE_FLASH, "plain"), ("native", "masked")},
    "tiny-cogvideox-2b": {(NATIVE_FLASH, "plain")},
    "tiny-svd": {(NATIVE_FLASH, "plain")},
}


@pytest.mark.parametrize("name", DISPATCHED)
def test_a_kernel_computes_what_it_can(opened: Any, backends: list[tuple[str, str]], name: str) -> None:
    """By the Speed node and by the host's choice alike; masks go to PyTorch's own; afterwards all is as before."""
    model = opened(name)
    expected = sampled(model)
    assert {backend for backend, _ in backends} <= {"native"}
    for choosing in (dict(speed=Speed(attention="native flash")), dict(host_attention="native flash")):
        backends.clear()
        latents = sampled(replace(model, **choosing))
        assert {*backends} == DISPATCHED[name]
        assert (latents - expected).abs().max() < 1e-4
    backends.clear()
    assert torch.equal(sampled(model), expected)
    assert {backend for backend, _ in backends} <= {"native"}


@pytest.mark.parametrize("name", [name for name in DISPATCHED if name != "tiny-svd"])
def test_a_kernel_in_compiled_blocks(opened: Any, backends: list[tuple[str, str]], name: str) -> None:
    model = opened(name)
    expected = sampled(model)
    backends.clear()
    latents = sampled(replace(model, speed=Speed(compile=True, attention="native flash", compiler="eager")))
    assert {*backends} == DISPATCHED[name]
    assert (latents - expected).abs().max() < 1e-4
    assert torch.equal(sampled(model), expected)


def test_without_padding_hunyuan_can_have_a_kernel_without_masks(opened: Any, backends: list[tuple[str, str]]) -> None:
    """In its text refiner too."""
    model = opened("tiny-hunyuan-t2v")
    expected = sampled(replace(model, speed=Speed(trim_text=True)))
    backends.clear()
    latents = sampled(replace(model, speed=Speed(trim_text=True, attention="native flash")))
    assert {*backends} == {(NATIVE_FLASH, "plain")}
    assert (latents - expected).abs().max() < 1e-4


def test_a_kernel_ends_with_its_run(opened: Any) -> None:
    """diffusers keeps the last kernel for all models, so that one without masks broke the next model's run."""
    sampled(replace(opened("tiny-wan2.1-t2v"), speed=Speed(attention="native flash")))
    assert sampled(opened("tiny-hunyuan-t2v")).isfinite().all()


def test_the_speed_nodes_word_goes_before_the_hosts(opened: Any, backends: list[tuple[str, str]]) -> None:
    model = replace(opened("tiny-wan2.1-t2v"), host_attention="native flash")
    sampled(replace(model, speed=Speed(attention="native")))
    assert {backend for backend, _ in backends} == {"native"}


REFUSED = [
    (
        "tiny-wan2.1-t2v",
        "float32",
        "sage",
        r"sageattention is not installed; diffusers wants 2\.1\.1 or newer\. .*no help.*github.com/thu-ml",
    ),
    (
        "tiny-wan2.1-t2v",
        "float32",
        "native efficient",
        r"made for NVIDIA cards and AMD cards; the model computes on cpu\. Choose auto",
    ),
    (
        "tiny-hunyuan-t2v",
        "float32",
        "native flash",
        r"HunyuanVideo masks the padding .* takes no mask\..*trim_text.*\. Or choose auto",
    ),
]


@pytest.mark.parametrize(("name", "dtype", "kernel", "words"), REFUSED)
def test_what_cannot_be_is_refused_or_said(opened: Any, name: str, dtype: str, kernel: str, words: str) -> None:
    """Asked for by Speed: refused before weights are read. As the host's choice: said, and PyTorch's own computes."""
    model, request = opened(name, dtype), Request(64, 64, 9, 2)
    with pytest.raises(InputError, match=rf"attention = {kernel}: .*{words}"):
        plan(replace(model, speed=Speed(attention=kernel)), request)
    hosted = replace(model, host_attention=kernel)
    (note,) = notes(hosted)
    assert re.search(rf"^Attention: PyTorch's own\. ComfyUI is set to {kernel}: ", note)
    assert re.search(re.split(r"\\\. (?:Choose|Or choose)", words)[0], note)
    assert torch.equal(sampled(hosted), sampled(model))


def test_notes_name_the_kernel(opened: Any) -> None:
    model = opened("tiny-ltx-0.9.0")
    assert notes(model) == ()
    assert notes(replace(model, host_attention="split")) == (
        "Attention: PyTorch's own. ComfyUI is set to split: diffusers has no such kernel.",
    )
    (note,) = notes(replace(model, host_attention="native flash"))
    assert note == "Attention: native flash where there is no mask, else PyTorch's own, as ComfyUI is set to."


@pytest.mark.host
def test_the_hosts_switch_is_heard(comfyui: Path, tmp_path: Path) -> None:
    """A real ComfyUI with --use-sage-attention and PyPI's version of it: said on the sampler, and it runs."""
    source = "def sageattn(q, k, v, tensor_layout='HND', **options): raise NotImplementedError"  # nobody calls it
    packages = install(tmp_path / "packages", "sageattention", "sageattention", "1.0.6", source)
    options, environment = ("--cpu", "--use-sage-attention"), {"PYTHONPATH": str(packages)}
    with boot(comfyui, tmp_path / "base", options, environment, kind=Host) as host:
        host.post(workflow("ltx_t2v", {"3.steps": 2}))
        speed = {"8": node("ReelwireSpeed", model=["1", 0], compile=False, attention="sage"), "3.model": ["8", 0]}
        refused = host.refuse(workflow("ltx_t2v", speed))
        said = host.log.decode(errors="replace")
    assert "Using sage attention" in said
    assert "attention = sage: sageattention 1.0.6 is installed; diffusers wants 2.1.1 or newer." in refused.message
    assert not refused.done
    assert said.count("ComfyUI is set to sage: sageattention 1.0.6 is installed; diffusers wants 2.1.1 or newer.") == 1


# ---------------------------------------------------------------- comfy-kitchen

Calls = list[dict[str, Any]]


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What comfy-kitchen's kernels are called with; they compute as PyTorch does, on any device, for any length."""
    import comfy_kitchen

    calls: Calls = []

    def int8_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(options | {"shape": tuple(q.shape)})
        return torch._C._nn.scaled_dot_product_attention(q, k, v, options["attn_mask"], scale=options["scale"])

    def sol_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(options | {"shape": tuple(q.shape)})
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch._C._nn.scaled_dot_product_attention(q, k, v, scale=options["scale"]).transpose(1, 2)

    monkeypatch.setattr(comfy_kitchen, "int8_attention", int8_attention, raising=False)
    monkeypatch.setattr(comfy_kitchen, "sol_attn", sol_attn, raising=False)
    monkeypatch.setattr(kitchens, "FEWEST", 1)
    for name in ("kitchen int8", "kitchen sparse"):
        monkeypatch.setitem(KERNELS, name, replace(KERNELS[name], package=None, platforms=(), half=False))
    return calls


@pytest.mark.parametrize(("text_first", "text"), [(False, [6, 16]), (True, [0, 10])])
def test_sparse_attention_fills_up_heads_and_keeps_the_prompt(
    kitchen: Calls, text_first: bool, text: list[int]
) -> None:
    """1,000 tokens are 16 blocks of 64, of which the prompt has 10; heads are 128 channels wide."""
    sparse, q = Sparse(text_first, 400), torch.randn(1, 3, 1000, 32)
    sparse.begin(1, 10)
    assert torch.equal(sparse.attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
    assert not kitchen
    sparse.begin(2, 10)
    torch.testing.assert_close(sparse.attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
    assert kitchen == [dict(scale=32**-0.5, sink_blocks=text, sink_q=text, shape=(1, 1000, 3, 128))]


def test_what_is_no_long_self_attention_is_not_sparse(kitchen: Calls) -> None:
    sparse, q, text = Sparse(False, 400), torch.randn(1, 3, 500, 32), torch.randn(1, 3, 40, 32)
    sparse.begin(9, 10)
    sparse.attention(q, text, text)
    sparse.attention(q, q, q, torch.ones(500, 500, dtype=torch.bool))
    short, wide = torch.randn(1, 3, 399, 32), torch.randn(1, 3, 500, 256)
    sparse.attention(short, short, short)
    sparse.attention(wide, wide, wide)
    assert not kitchen


IN_KITCHENS = [
    ("tiny-wan2.1-t2v", "kitchen sparse"),
    ("tiny-ltx-0.9.0", "kitchen sparse"),
    ("tiny-cogvideox-2b", "kitchen sparse"),
    ("tiny-mochi", "kitchen sparse"),
    ("tiny-svd", "kitchen int8"),
    ("tiny-hunyuan-t2v", "kitchen int8"),
    ("tiny-wan2.1-t2v", "kitchen int8"),
]


COMPILED = [(*IN_KITCHENS[0], True), (*IN_KITCHENS[-1], True)]


@pytest.mark.parametrize(("name", "kernel", "compile"), [*((*each, False) for each in IN_KITCHENS), *COMPILED])
def test_kitchens_compute_a_run(opened: Any, kitchen: Calls, name: str, kernel: str, compile: bool) -> None:
    """The first fifth of a run's predictions see all pairs: of ten, two."""
    model = opened(name)
    expected = Sampled(model, steps=10).latents
    speed = Speed(attention=kernel, compile=compile, compiler="eager")
    assert (Sampled(replace(model, speed=speed), steps=10).latents - expected).abs().max() < 1e-3
    assert kitchen
    many = len(kitchen)
    kitchen.clear()
    assert torch.equal(Sampled(model, steps=10).latents, expected)
    assert not kitchen, "it did not end with its run"
    if kernel == "kitchen sparse":
        Sampled(replace(model, speed=speed), steps=2)
        assert len(kitchen) * 8 == many


def test_when_sparse_attention_computes_is_said(opened: Any, kitchen: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(opened("tiny-wan2.1-t2v"), speed=Speed(attention="kitchen sparse"))
    (note,) = notes(model, 64, 64, 9)
    assert "12288 tokens and more, after the first 2 of 10 steps; this video has 48" in note
    monkeypatch.setattr(kernels, "FEWEST", 48)
    (note,) = notes(model, 64, 64, 9)
    assert "step 3 of 10 on" in note


def test_an_older_kitchen_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ComfyUI 0.30 brings it."""
    monkeypatch.syspath_prepend(str(install(tmp_path, "comfy_kitchen", "comfy-kitchen", "0.2.26")))
    words = r"comfy-kitchen 0\.2\.26 is installed; Reelwire wants 0\.2\.33 or newer.*pip install -U"
    with pytest.raises(InputError, match=words):
        check_offered("kitchen sparse")


def test_a_card_that_the_kitchen_does_not_run_on_is_said(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy_kitchen

    monkeypatch.setattr(comfy_kitchen, "sol_attn_is_available", lambda device: False, raising=False)
    there = Package("comfy_kitchen", ("comfy-kitchen",), "Reelwire", lambda: "0.2", "")
    monkeypatch.setitem(KERNELS, "kitchen sparse", replace(KERNELS["kitchen sparse"], package=there, platforms=()))
    with pytest.raises(InputError, match="sol_attn does not run on this card"):
        plan(replace(opened("tiny-wan2.1-t2v"), speed=Speed(attention="kitchen sparse")), Request(64, 64, 9, 2))


def test_kitchens_have_names_of_their_own() -> None:
    """Not that of PyTorch's attention, in whose place they are: kept windows and shared clips tell them apart."""
    assert [KERNELS[f"kitchen {name}"].identity for name in ("int8", "sparse")] == ["int8_attention", "sol_attn"]


def test_sparse_attention_is_not_for_a_unet(opened: Any, kitchen: Calls) -> None:
    with pytest.raises(InputError, match="a UNet, whose attention sees"):
        plan(replace(opened("tiny-svd"), speed=Speed(attention="kitchen sparse")), Request(64, 64, 14, 2))
