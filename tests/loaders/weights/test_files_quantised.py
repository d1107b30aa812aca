"""ComfyUI's quantised files, written by its own quantiser: the same numbers, the same networks, as small in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from reelwire.loaders.families.cogvideox import checkpoint as cogvideox_files
from reelwire.loaders.families.hunyuan_video import checkpoint as hunyuan_video_files
from reelwire.loaders.families.ltx import checkpoint as ltx_files
from reelwire.loaders.families.mochi import checkpoint as mochi_files
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import Part
from reelwire.loaders.weights.encoders import read_encoder
from reelwire.loaders.weights.modules import _read, build, check_fit, read_tensors
from reelwire.loaders.weights.quantised import (
    FORMATS,
    kitchen_computes,
    kitchen_linear,
    kitchen_weight,
    rotate,
    swizzled,
    unswizzled,
)
from reelwire.loaders.weights.safetensors import read_file
from reelwire.loaders.weights.stored import Stored, unpack, widen
from reelwire.tests.support.files import native_hunyuan_mochi, native_networks, native_svd_cogvideox, native_wan
from reelwire.tests.support.files.files import (
    QUANTISED,
    host_layer,
    plain,
    quantised,
    read_network,
    stored_layers,
)
from reelwire.tests.support.files.native_quantised import beside_the_host
from reelwire.training.tiny_models import seeded
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
BITS = {
    "int8": 8,
    "int8 rows": 8,
    "int8 convrot": 8,
    "w4a4": 4,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
}  # of a number, with scales


def same(state: Any) -> Any:
    return state


# family -> (its reader, the host's network, its names -> those of files)
FAMILIES: dict[str, tuple[Any, Callable[[], Any], Callable[[Any], Any]]] = {
    "wan": (wan_files, lambda: native_wan.native("t2v"), same),
    "hunyuan_video": (hunyuan_video_files, native_hunyuan_mochi.hunyuan, native_hunyuan_mochi.published),
    "mochi": (mochi_files, native_hunyuan_mochi.mochi, same),
    "cogvideox": (cogvideox_files, native_networks.cogvideox, same),
    "ltx": (ltx_files, native_networks.ltx, same),
    "svd": (svd_files, lambda: native_svd_cogvideox.native_unet("tiny"), same),
}


def tensors_of(layer: Stored) -> dict[str, Tensor]:
    return unpack(layer.weight.data, layer.places)


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_hosts_to_the_bit(tmp_path: Path, family: str, kind: str) -> None:
    """Widened on load, and widened from what the layers hold: rows that a family takes apart or swaps too."""
    reader, make, names = FAMILIES[family]
    numbers = quantised(tmp_path / "small.safetensors", names(make().state_dict()), kind, "model.diffusion_model.")
    plain(tmp_path / "wide.safetensors", numbers)
    expected = read_network(reader, tmp_path / "wide.safetensors").state_dict()
    wide = read_network(reader, tmp_path / "small.safetensors", small=False).state_dict()
    assert {k for k in expected if not torch.equal(wide[k], expected[k])} == set()
    layers = stored_layers(read_network(reader, tmp_path / "small.safetensors"))
    assert len(layers) > 5
    for name, layer in layers.items():
        widened = widen(tensors_of(layer), layer.coding, torch.bfloat16)
        assert torch.equal(widened, expected[f"{name}.weight"].bfloat16()), name


@pytest.mark.parametrize("kind", QUANTISED)
def test_layers_take_what_the_file_takes(tmp_path: Path, kind: str) -> None:
    """So many bits a number, and at most the room of alignment and of a tile of scales for each layer beside it."""
    quantised(tmp_path / "small.safetensors", native_wan.native("t2v").state_dict(), kind)
    layers = stored_layers(read_network(wan_files, tmp_path / "small.safetensors"))
    assert len(layers) > 20
    for layer in layers.values():
        assert layer.weight.dtype == torch.int8
        assert [*layer.buffers()] == []
        count, scales = (
            layer.in_features * layer.out_features,
            4 * layer.out_features if kind[:2] in ("in", "w4") else 0,
        )
        assert count * BITS[kind] / 8 <= layer.weight.nbytes <= count * BITS[kind] / 8 + scales + 4096


# ---------------------------------------------------------------- beside the host's own class


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_network_computes_what_the_hosts_class_computes(tmp_path: Path, kind: str) -> None:
    differences = beside_the_host(tmp_path / "wan.safetensors", kind)
    assert differences["widened"] < 1e-5
    assert (differences["inputs"] > 1e-4) == kind.startswith(("int8", "w4a4"))
    assert differences["native"] < max(1e-5, differences["inputs"] / 3)  # roundings that fell the other way


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", QUANTISED)
@torch.no_grad()
def test_a_layer_is_near_the_exact_product(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    with seeded(3):
        weight, x = torch.randn(96, 512), torch.randn(2, 7, 512)
    layer = one_layer(tmp_path, weight, kind, bias=torch.linspace(-1, 1, 96)).to(dtype)
    exact = (
        x.to(dtype).double() @ widen(tensors_of(layer), layer.coding, torch.float32).double().T + layer.bias.double()
    )
    error = (layer(x.to(dtype)).double() - exact).norm() / exact.norm()
    assert error < {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}[dtype]


def one_layer(folder: Path, weight: Tensor, kind: str, bias: Tensor | None = None, **more: Tensor) -> Stored:
    """A file with one layer, written by the host, and read."""
    state = {"0.weight": weight} | ({} if bias is None else {"0.bias": bias})
    quantised(folder / "one.safetensors", state, kind)
    save_file(load_file(folder / "one.safetensors") | more, folder / "one.safetensors")
    rows, columns = weight.shape
    make = lambda: nn.Sequential(nn.Linear(columns, rows, bias=bias is not None))
    layer: Any = build(make, read_file(folder / "one.safetensors")[0], torch.float32, lambda *_: None, True)
    return layer[0]


@pytest.mark.parametrize("kind", QUANTISED)
@torch.no_grad()
def test_comfy_kitchen_takes_the_bytes_as_they_are_held(tmp_path: Path, kind: str) -> None:
    """Its tensor of a layer's bytes stands for the numbers that the layer stands for, where rows were taken too."""
    with seeded(4):
        weight, x = torch.randn(288, 256), torch.randn(2, 3, 256)
    layer, theirs = one_layer(tmp_path, weight, kind), host_layer(weight, kind)
    entry, whole = read_file(tmp_path / "one.safetensors")[0]["0.weight"], theirs.weight.dequantize()
    swapped = torch.cat([whole[144:], whole[:144]])
    for part, expected in ((entry, whole), (entry.split(160, 128)[1], whole[160:]), (entry.swap_halves(), swapped)):
        ((_, tensors),) = _read({"0.weight": part})
        assert torch.equal(widen(tensors, part.coding, torch.float32), expected)
        assert torch.equal(kitchen_weight(tensors, part.coding, torch.float32).dequantize(), expected)
    if not FORMATS[layer.coding.kind].quantises_input:
        assert torch.equal(kitchen_linear(x, tensors_of(layer), None, layer.coding), theirs(x))


def test_no_kernel_is_asked_for_where_there_is_none() -> None:
    for kind in FORMATS:
        for device in ("cpu", "meta", "xpu", "mps"):
            assert not kitchen_computes(kind, torch.device(device))


def test_tiles_and_rotations() -> None:
    """Against comfy-kitchen's own, and there and back again."""
    from comfy_kitchen.float_utils import from_blocked, to_blocked
    from comfy_kitchen.tensor.int8_utils import _build_hadamard

    for rows, columns in ((1, 1), (130, 6), (256, 8), (100, 13)):
        scales = torch.randint(0, 255, (rows, columns), dtype=torch.uint8)
        assert torch.equal(swizzled(scales), to_blocked(scales, flatten=False))
        assert torch.equal(unswizzled(swizzled(scales), rows, columns), scales)
        assert torch.equal(
            unswizzled(to_blocked(scales), rows, columns), from_blocked(to_blocked(scales), rows, columns)
        )
    for size in (4, 16, 256):
        x = torch.randn(3, 2 * size)
        assert torch.equal(rotate(torch.eye(size), size), _build_hadamard(size))
        assert (rotate(rotate(x, size), size) - x).abs().max() < 1e-5


@torch.no_grad()
def test_inputs_that_a_file_scales(tmp_path: Path) -> None:
    """ModelOpt's smoothing: the host multiplies a layer's input, we do, or its columns where weights are widened."""
    with seeded(5):
        weight, x, factor = torch.randn(64, 128), torch.randn(3, 128), torch.rand(128) + 0.5
    layer = one_layer(tmp_path, weight, "nvfp4", **{"0.pre_quant_scale": factor, "0.input_scale": torch.tensor(0.01)})
    theirs = host_layer(weight, "nvfp4")
    theirs.pre_quant_scale = nn.Parameter(factor, requires_grad=False)
    expected = theirs(x)
    assert (expected - host_layer(weight, "nvfp4")(x)).abs().max() > 0.1
    assert (layer(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    ((_, wide),) = read_tensors(read_file(tmp_path / "one.safetensors")[0])
    assert (x @ wide.T - expected).abs().max() < 1e-5 * expected.abs().max()


# ---------------------------------------------------------------- under the host's memory manager


@pytest.fixture
def host_module(comfyui: Path) -> Iterator[Any]:
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import reelwire.nodes.host as module

    yield module
    sys.path.remove(str(comfyui))


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_hosts_manager_moves_bytes_and_scales_together(host_module: Any, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "wan.safetensors"
    quantised(file, native_wan.native("t2v").state_dict(), kind)
    network = read_network(wan_files, file)
    expected, small = native_wan.ours(network, "t2v"), sum(p.nbytes for p in network.parameters())
    memory = host_module.HostMemory()
    part = Part("transformer", lambda _: network)
    with memory.use(part) as module:
        assert torch.equal(native_wan.ours(module, "t2v"), expected)
    (patcher,) = memory.patchers()
    assert small <= patcher.model_size() < 1.05 * small
    patcher.detach()
    patcher.partially_load(patcher.load_device, extra_memory=small // 3)
    assert patcher.loaded_size() < patcher.model_size() / 2
    assert torch.equal(native_wan.ours(module, "t2v"), expected)


ON_A_CARD = """
import sys
from pathlib import Path

import torch
from reelwire.tests.support.files.files import QUANTISED, read_network
from reelwire.tests.support.card import attach
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.tests.support.files import native_wan
from torch.utils._pytree import tree_map

card = attach(64 << 20)
for kind in QUANTISED:
    network = read_network(wan_files, Path(sys.argv[1]) / f"{kind}.safetensors")
    expected = native_wan.ours(network, "t2v")
    blocks = sum(-(-tensor.nbytes // 512) * 512 for tensor in (*network.parameters(), *network.buffers()))
    inputs = native_wan.inputs
    native_wan.inputs = lambda name: tree_map(lambda t: t.to("npu"), inputs(name))
    before = card.allocated()
    network.to("npu")
    taken = card.allocated() - before
    made = native_wan.ours(network, "t2v")
    native_wan.inputs = inputs
    print(kind, torch.equal(made.cpu(), expected), taken / blocks, flush=True)
    del network, made
"""


def test_a_card_without_kernels_computes_widened_weights(tmp_path: Path) -> None:
    """The CPU's numbers to the bit, from bytes that take no more of the card than the network holds."""
    import reelwire

    state = native_wan.native("t2v").state_dict()
    for kind in QUANTISED:
        quantised(tmp_path / f"{kind}.safetensors", state, kind)
    root = Path(reelwire.__file__).parent
    start = f"import sys; sys.path.insert(0, {str(root / 'bench')!r}); from pack import import_pack; import_pack()\n"
    code = [sys.executable, "-c", start + ON_A_CARD, str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    lines = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [*QUANTISED], done.stderr[-2000:]
    for kind, equal, share in lines:
        assert equal == "True", kind
        assert 0.5 < float(share) <= 1, kind


# ---------------------------------------------------------------- text encoders


def t5(kind: str) -> Any:
    config = dict(
        vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu"
    )
    name = {"t5": "T5", "umt5": "UMT5"}[kind]
    return getattr(transformers, f"{name}EncoderModel")(getattr(transformers, f"{name}Config")(**config))


def clip() -> Any:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=1,
            num_hidden_layers=2,
            max_position_embeddings=77,
            bos_token_id=62,
            eos_token_id=63,
        )
    )


def llama() -> Any:
    return transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=256,
            intermediate_size=512,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_hidden_layers=2,
            head_dim=128,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        )
    )


ENCODERS = {
    "t5": (lambda: t5("t5"), ""),
    "umt5": (lambda: t5("umt5"), ""),
    "clip": (clip, "text_model."),
    "llama": (llama, "model."),
}


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_text_encoders(tmp_path: Path, encoder: str, kind: str) -> None:
    """The same hidden states as with the host's widened weights; held small, and never made smaller on a card."""
    make, prefix = ENCODERS[encoder]
    with seeded(6):
        model, ids = make().eval(), torch.randint(3, 60, (1, 9))
    state = {prefix + k: v for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    before = model(ids).last_hidden_state
    numbers = quantised(tmp_path / "text.safetensors", state, kind, whole="position_embedding")
    model.load_state_dict({k.removeprefix(prefix): v for k, v in numbers.items()}, strict=False)
    expected = model(ids).last_hidden_state
    weights = read_encoder(tmp_path / "text.safetensors", encoder)
    ours = weights.build(torch.float32, True, "", lambda *_: None)
    layers = stored_layers(ours)
    assert len(layers) > 8
    assert all(layer.coding.quantisation.exact for layer in layers.values())
    hidden = ours(ids).last_hidden_state
    assert (expected - before).abs().max() > 1e-4
    assert (hidden - expected).abs().max() < 2e-5 * expected.abs().max()


# ---------------------------------------------------------------- what the file says


def written(folder: Path, kind: str = "int8") -> tuple[Path, dict[str, Tensor]]:
    file = folder / "one.safetensors"
    with seeded(7):
        quantised(file, {"a.weight": torch.randn(64, 256), "a.bias": torch.zeros(64)}, kind)
    return file, load_file(file)


def mark(**config: Any) -> Tensor:
    return torch.tensor([*json.dumps(config).encode()], dtype=torch.uint8)


def test_a_header_says_the_same_for_all_layers(tmp_path: Path) -> None:
    file, state = written(tmp_path, "int8 convrot")
    expected = read_file(file)[0]["a.weight"]
    config = json.loads(bytes(state.pop("a.comfy_quant").tolist()))
    state = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    for name in ("a", "model.diffusion_model.a"):
        save_file(state, file, {"_quantization_metadata": json.dumps({"layers": {name: config}})})
        entry = read_file(file)[0]["model.diffusion_model.a.weight"]
        assert entry.coding == expected.coding
        assert entry.quantisation.rotation == 256


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown format": (
        {"a.comfy_quant": mark(format="int4_tensorwise")},
        "'int4_tensorwise', which is not known.*int8_tensorwise.*bf16",
    ),
    "svdquant": ({"a.comfy_quant": mark(format="svdquant_w4a4")}, "'svdquant_w4a4', which is not known.*bf16"),
    "no format": ({"a.comfy_quant": mark()}, "None, which is not known"),
    "no JSON": (
        {"a.comfy_quant": torch.tensor([255, 1], dtype=torch.uint8)},
        "does not say how it is quantised.*Download it again",
    ),
    "no object": ({"a.comfy_quant": torch.tensor([*b"3"], dtype=torch.uint8)}, "does not say how it is quantised"),
    "no scale": ({"a.weight_scale": None}, "int8_tensorwise, but a.weight_scale is missing"),
    "no weight": ({"a.weight": None}, "int8_tensorwise, but a.weight is missing"),
    "scales by blocks": ({"a.weight_scale": torch.ones(2, 2)}, "weight_scale has 4 numbers, not 1 or 64"),
    "rotated by 100": (
        {"a.comfy_quant": mark(format="int8_tensorwise", convrot=True, convrot_groupsize=100)},
        "rotated by 100 columns",
    ),
    "rotated by more": (
        {"a.comfy_quant": mark(format="int8_tensorwise", convrot=True, convrot_groupsize=1024)},
        "256 columns are no multiple of the rotation of 1024",
    ),
    "experts": ({"a.comfy_quant": mark(format="int8_tensorwise", num_experts=4)}, "several experts"),
    "another type": (
        {"a.comfy_quant": mark(format="nvfp4"), "a.weight_scale_2": torch.ones(1)},
        r"its weight is I8 \[64, 256\], not a matrix of U8",
    ),
    "rotated nvfp4": (
        {"a.comfy_quant": mark(format="nvfp4", convrot=True), "a.weight_scale_2": torch.ones(1)},
        "nvfp4, but it is rotated",
    ),
    "a scale too many": ({"a.pre_quant_scale": torch.ones(256)}, r"unexpected \(a.pre_quant_scale\)"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_cannot_be_read_is_told_by_name(tmp_path: Path, odd: str) -> None:
    changes, words = ODD[odd]
    file, state = written(tmp_path)
    save_file({k: v for k, v in (state | changes).items() if v is not None}, file)
    with pytest.raises(CheckpointError, match=words):
        check_fit(nn.ModuleDict({"a": nn.Linear(256, 64)}), read_file(file)[0])


def test_params_in_the_old_place(tmp_path: Path) -> None:
    """Older converters nest the rotation under `params`."""
    file, state = written(tmp_path, "int8 convrot")
    expected = read_file(file)[0]["a.weight"].quantisation
    nested = mark(format="int8_tensorwise", params={"convrot": True, "convrot_groupsize": 256})
    save_file(state | {"a.comfy_quant": nested}, file)
    assert read_file(file)[0]["a.weight"].quantisation == expected
    save_file(state | {"a.comfy_quant": mark(format="int8_tensorwise", full_precision_matrix_mult=True)}, file)
    assert read_file(file)[0]["a.weight"].quantisation.exact
