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
    fitting = [other for other in ROWS if other.fits(tensors(row))]
    assert fitting == [row]


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
