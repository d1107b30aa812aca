"""Every published relative is called by its name, whatever its keys begin with, and nothing that runs is called one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reelwire.loaders.families import FAMILIES, family
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.spec import Relative, shipped_config, spec_of
from reelwire.loaders.weights.entry import Entry
from reelwire.loaders.weights.find import read_source
from reelwire.loaders.weights.kinds import NETWORK_PREFIXES, kind_of, relative_of, relatives
from reelwire.tests.support.files.configs import NATIVE, VARIANTS, read
from reelwire.tests.support.files.native import host_classes
from safetensors.torch import save_file

ROWS = relatives()
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.title}-{'-'.join(row.has)}")


def tensors(row: Relative) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the least file that is this row's."""
    name = lambda key: f"x{key[1:]}" if key.startswith("*") else f"{key}0.weight" if key.endswith(".") else key
    return {name(key): tuple(size or 4 for size in shape or (4, 4)) for key, shape in row.has.items()}


def entries(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, Entry]:
    return {prefix + key: Entry(Path("x.safetensors"), prefix + key, shape, "BF16") for key, shape in shapes.items()}


@rows
def test_a_row_is_called_by_its_name_and_no_other_row_takes_its_file(row: Relative) -> None:
    """But for a row of the same tensor in any size, which stands behind those of one size."""
    first, *others = [other for other in ROWS if other.fits(tensors(row))]
    assert first == row
    assert all(set(size or (None,)) == {None} for other in others for size in other.has.values())


@given(row=st.sampled_from(ROWS), prefix=st.sampled_from(["", *NETWORK_PREFIXES]))
def test_prefixes_change_nothing(row: Relative, prefix: str) -> None:
    assert relative_of(entries(tensors(row), prefix)) == row


@given(row=st.sampled_from(ROWS), other=st.sampled_from(FAMILIES), prefix=st.sampled_from(["", *NETWORK_PREFIXES]))
def test_every_loader_says_what_the_file_is(
    tmp_path_factory: pytest.TempPathFactory, row: Relative, other: str, prefix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "relative.safetensors"
    small = {key: shape for key, shape in tensors(row).items() if torch.Size(shape).numel() < 10**7}
    if small.keys() != tensors(row).keys():
        return
    save_file({prefix + key: torch.zeros(shape, dtype=torch.uint8) for key, shape in small.items()}, file)
    with pytest.raises(CheckpointError) as refusal:
        read_source(file, family(other).checkpoint)
    assert getattr(refusal.value.rule, "key", "") == "is_relative"
    assert refusal.value.rule.values["title"] == row.title  # type: ignore[attr-defined]
    assert refusal.value.args[0] != refusal.value.rule, "what to do is missing"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split("/")[0] in NATIVE])
def test_what_runs_is_no_relative(comfyui: Path, variant: str) -> None:
    """The host's own class at its real size, under each prefix."""
    name = variant.split("/")[0]
    with host_classes():
        import comfy.ops

        make = NATIVE[name][0](read(variant, "transformer"))
        state = make(device="meta", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for prefix in ("", *NETWORK_PREFIXES):
        assert relative_of(entries(shapes, prefix)) is None
        assert kind_of(entries(shapes, prefix)) == spec_of(name).file_title


@pytest.mark.parametrize("name", FAMILIES)
def test_variants_whose_files_are_alike_are_listed(name: str) -> None:
    """Where two variants' tensors are the same, the node says that a name decided."""
    spec = spec_of(name)
    forms: dict[str, set[str]] = {}
    for variant in spec.variants():
        forms.setdefault(_form(name, variant), set()).add(variant)
    assert {frozenset(group) for group in forms.values() if len(group) > 1} == {frozenset(g) for g in spec.alike}


# what leaves no trace in shapes
_UNSEEN = {
    "image_condition_type",
    "num_frames",
    "sample_frames",
    "sample_width",
    "sample_height",
    "use_rotary_positional_embeddings",
    "spatial_interpolation_scale",
    "temporal_interpolation_scale",
    "max_text_seq_length",
}


def _form(name: str, variant: str) -> str:
    """What the shapes of a variant's tensors tell; the VAE's too where a file holds both."""
    network = shipped_config(name, variant, "unet" if name == "svd" else "transformer")
    both: list[dict[str, Any]] = [network, *([shipped_config(name, variant, "vae")] if name == "ltx" else [])]
    return str([{k: v for k, v in sorted(part.items()) if k not in _UNSEEN} for part in both])


def test_half_a_network_is_not_another_familys(tmp_path: Path) -> None:
    """A few layers of Wan: "is Wan, not Wan" says nothing."""
    file = tmp_path / "some.safetensors"
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(CheckpointError) as refusal:
        read_source(file, family("wan").checkpoint)
    assert getattr(refusal.value.rule, "key", "") == "holds_part"


def test_a_file_of_something_else_is_told_by_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "strange.safetensors"
    save_file({f"conv.{i}.kernel": torch.zeros(2) for i in range(5)}, file)
    for name in FAMILIES:
        with pytest.raises(CheckpointError) as refusal:
            read_source(file, family(name).checkpoint)
        rule: Any = refusal.value.rule
        assert (rule.key, rule.values["count"]) == ("unknown_file", 5)
        assert "conv.0.kernel" in rule


# ---------------------------------------------------------------- files as they are published

_REFINER = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
_HUNYUAN = {
    "img_in.proj.weight": (3072, 16, 1, 2, 2),
    "vector_in.in_layer.weight": (3072, 768),
    "double_blocks.0.img_attn_qkv.weight": (9216, 3072),
    _REFINER: (3072,),
}
_GUIDED = {"guidance_in.mlp.0.weight": (3072, 256)}
_WAN = {
    "patch_embedding.weight": (5120, 16, 1, 2, 2),
    "text_embedding.0.weight": (5120, 4096),
    "blocks.0.self_attn.q.weight": (5120, 5120),
    "head.head.weight": (64, 5120),
}
# what it is -> names and shapes of its published file, as far as they tell it from others; None: it runs
PUBLISHED: list[tuple[str | None, dict[str, tuple[int, ...]]]] = [
    (None, _HUNYUAN | _GUIDED),
    ("HunyuanCustom", _HUNYUAN),
    (
        "HunyuanCustom",
        _HUNYUAN | {"audio_models.0.norm1.weight": (3072,), "audio_proj.proj1.weight": (1024, 19200)},
    ),
    ("HunyuanCustom", _HUNYUAN | {"bg_in.proj.weight": (3072, 32, 1, 2, 2), "bg_proj.weight": (3072, 3072)}),
    (
        "HunyuanVideo-Avatar",
        _HUNYUAN | {"audio_adapter_blocks.0.norm1.weight": (3072,), "ref_in.proj.weight": (3072, 16, 1, 2, 2)},
    ),
    ("HunyuanVideo-Foley", {"triple_blocks.0.audio_self_attn_qkv.weight": (4608, 1536)}),
    (None, _WAN),
    (
        "FantasyTalking",
        {
            "proj_model.proj.weight": (2048, 768),
            "proj_model.norm.weight": (2048,),
            "proj_model.norm.bias": (2048,),
            "blocks.0.cross_attn.k_proj.weight": (5120, 2048),
            "blocks.0.cross_attn.v_proj.weight": (5120, 2048),
        },
    ),
    (
        "FantasyPortrait",
        {
            "proj_model.proj_in.weight": (2048, 768),
            "ip_adapter.blocks.0.cross_attn.ip_adapter_single_stream_k_proj.weight": (5120, 2048),
        },
    ),
    ("FlashPortrait", _WAN | {"blocks.0.cross_attn.emo_k_proj.weight": (5120, 2048)}),
    ("SkyReels-V2-DF", _WAN | {"fps_embedding.weight": (2, 5120)}),
    ("Wan-Fun-Control-Camera", _WAN | {"control_adapter.conv.weight": (5120, 1536, 2, 2)}),
    ("Lynx", {"blocks.0.cross_attn.ip_adapter.to_v_ip.weight": (5120, 5120)}),
    ("Lynx", {"blocks.0.self_attn.ref_adapter.to_k_ref.weight": (5120, 5120)}),
    ("Ovi", _WAN | {"blocks.0.cross_attn.k_fusion.weight": (3072, 3072)}),
    ("LongCat-Video", {"blocks.0.ffn.w1.weight": (11008, 4096), "x_embedder.proj.weight": (4096, 16, 1, 2, 2)}),
]


@pytest.mark.parametrize(("title", "shapes"), PUBLISHED, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("prefix", ["", *NETWORK_PREFIXES])
def test_published_files(title: str | None, shapes: dict[str, tuple[int, ...]], prefix: str) -> None:
    row = relative_of(entries(shapes, prefix))
    assert (row and row.title) == title


OURS = {
    "CogVideoXTransformer3DModel": "CogVideoX",
    "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "LTXVideoTransformer3DModel": "LTX-Video",
    "MochiTransformer3DModel": "Mochi 1",
    "UNetSpatioTemporalConditionModel": "Stable Video Diffusion",
    "WanTransformer3DModel": "Wan",
    "WanVACETransformer3DModel": "Wan",
}
LAYERS = ("num_layers", "num_single_layers", "num_refiner_layers", "n_layers", "num_double_layers", "depth")


def diffusers_tensors() -> dict[str, dict[str, tuple[int, ...]]]:
    """Class -> names and shapes of each transformer of diffusers with its own defaults, one layer where it says so."""
    import inspect

    import diffusers

    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    names = [name for name in dir(diffusers) if "Transformer" in name or name in OURS]
    for name in names:
        cls: Any = getattr(diffusers, name)
        parameters = inspect.signature(cls.__init__).parameters if inspect.isclass(cls) else {}
        layers = {name: 1 for name in LAYERS if name in parameters and "vace_layers" not in parameters}
        try:
            with torch.device("meta"):
                shapes[name] = {key: tuple(value.shape) for key, value in cls(**layers).state_dict().items()}
        except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError):  # has no defaults of its own
            continue
    return shapes


def test_no_model_of_diffusers_is_called_one_of_ours() -> None:
    """Whatever it can load: one with tensors that none of ours has is called by its name, or by none."""
    shapes = diffusers_tensors()
    assert {*OURS} <= {*shapes}
    assert len(shapes) > 30
    runs = {key for name in OURS for key in shapes[name]}
    titles = {*OURS.values()}
    called = {name: str(kind_of(entries(keys))) for name, keys in shapes.items()}
    assert {name: called[name] for name in OURS if OURS[name] != "Mochi 1"} == {
        name: title for name, title in OURS.items() if title != "Mochi 1"
    }
    wrong = {
        name: called[name]
        for name, keys in shapes.items()
        if name not in OURS and {*keys} - runs and called[name] in titles and relative_of(entries(keys)) is None
    }
    assert wrong == {}
