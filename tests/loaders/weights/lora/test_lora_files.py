"""LoRA files as people have them: what fits of one is used, and the rest is named; nothing of it is lost or guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.lora import LoRA, applied, expert_of_name
from reelwire.tests.support.engine.words import parts
from reelwire.tests.support.files.loras import (
    State,
    keys_of,
    low_rank,
    low_rank_pair,
    network_of,
    open_lora_model,
    read_state,
)
from torch import nn


@pytest.fixture(scope="module")
def wan(tiny_models: Path) -> VideoModel:
    return open_lora_model(tiny_models, "wan", "tiny-wan2.1-t2v")


# ---------------------------------------------------------------- names

# form -> the keys of `down`, `up` and alpha of the query of the first self-attention
QUERY: dict[str, tuple[str, str, str]] = {
    "diffusers": ("transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.0.attn1.to_q.lora_B.weight", ""),
    "diffusers, no prefix": ("blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q.lora_B.weight", ""),
    "diffusers with alpha": (
        "transformer.blocks.0.attn1.to_q.lora.down.weight",
        "transformer.blocks.0.attn1.to_q.lora.up.weight",
        "transformer.blocks.0.attn1.to_q.alpha",
    ),
    "processors": (
        "unet.blocks.0.attn1.processor.to_q_lora.down.weight",
        "unet.blocks.0.attn1.processor.to_q_lora.up.weight",
        "",
    ),
    "no processors": ("blocks.0.attn1.to_q_lora.down.weight", "blocks.0.attn1.to_q_lora.up.weight", ""),
    "linear layers": (
        "transformer.blocks.0.attn1.to_q.lora_linear_layer.down.weight",
        "transformer.blocks.0.attn1.to_q.lora_linear_layer.up.weight",
        "",
    ),
    "peft": (
        "base_model.model.blocks.0.self_attn.q.lora_A.weight",
        "base_model.model.blocks.0.self_attn.q.lora_B.weight",
        "",
    ),
    "peft, named": (
        "base_model.model.blocks.0.attn1.to_q.lora_A.default_1.weight",
        "base_model.model.blocks.0.attn1.to_q.lora_B.default_1.weight",
        "",
    ),
    "DiffSynth": (
        "pipe.dit.blocks.0.self_attn.q.lora_A.default.weight",
        "pipe.dit.blocks.0.self_attn.q.lora_B.default.weight",
        "",
    ),
    "the makers' own": (
        "blocks.0.self_attn.q.lora_down.weight",
        "blocks.0.self_attn.q.lora_up.weight",
        "blocks.0.self_attn.q.alpha",
    ),
    "ComfyUI": (
        "model.diffusion_model.blocks.0.self_attn.q.lora_down.weight",
        "model.diffusion_model.blocks.0.self_attn.q.lora_up.weight",
        "model.diffusion_model.blocks.0.self_attn.q.alpha",
    ),
    "musubi": (
        "lora_unet_blocks_0_self_attn_q.lora_down.weight",
        "lora_unet_blocks_0_self_attn_q.lora_up.weight",
        "lora_unet_blocks_0_self_attn_q.alpha",
    ),
    "underscores and dots": (
        "lora_unet_blocks_0.self_attn.q.lora_down.weight",
        "lora_unet_blocks_0.self_attn.q.lora_up.weight",
        "lora_unet_blocks_0.self_attn.q.alpha",
    ),
    "two underscores": (  # of VideoX-Fun
        "lora_unet__blocks_0_self_attn_q.lora_down.weight",
        "lora_unet__blocks_0_self_attn_q.lora_up.weight",
        "lora_unet__blocks_0_self_attn_q.alpha",
    ),
    "the trainer's name before it": (  # of Tencent's own program
        "Some_video_I2V_lora_blocks_0_self_attn_q.lora_down.weight",
        "Some_video_I2V_lora_blocks_0_self_attn_q.lora_up.weight",
        "Some_video_I2V_lora_blocks_0_self_attn_q.alpha",
    ),
    "an underscore behind it": (  # of SimpleTuner
        "lora_unet_blocks_0_attn1_to_q_.lora_down.weight",
        "lora_unet_blocks_0_attn1_to_q_.lora_up.weight",
        "lora_unet_blocks_0_attn1_to_q_.alpha",
    ),
    "LyCORIS": (
        "lycoris_blocks_0_attn1_to_q.lora_down.weight",
        "lycoris_blocks_0_attn1_to_q.lora_up.weight",
        "lycoris_blocks_0_attn1_to_q.alpha",
    ),
}


@pytest.mark.parametrize("form", QUERY)
def test_every_form_of_keys_means_the_same(wan: VideoModel, tmp_path: Path, form: str) -> None:
    (down_key, up_key, alpha_key), (down, up) = QUERY[form], low_rank_pair()
    state = {down_key: down, up_key: up} | ({alpha_key: torch.tensor(5.0)} if alpha_key else {})
    contents = read_state(wan, tmp_path / "x.safetensors", state)
    assert {*contents.deltas} == {"blocks.0.attn1.to_q"}
    assert not contents.notes
    with wan.use("transformer") as network, torch.no_grad():
        layer, x = network.get_submodule("blocks.0.attn1.to_q"), torch.randn(3, 24)
        expected = layer(x) + (2.5 if alpha_key else 1.0) * x @ (up @ down).T
        with applied(network, "transformer", (LoRA(tmp_path / "x.safetensors", 1.0, 1.0, contents.deltas),)):
            assert (layer(x) - expected).abs().max() < 1e-5


def test_the_only_output_layer_of_a_list_is_meant(wan: VideoModel, tmp_path: Path) -> None:
    """Attention processors say `to_out` where the layer is the first of a list."""
    down, up = low_rank_pair()
    keys = {f"unet.blocks.1.attn2.processor.to_out_lora.{way}.weight": t for way, t in (("down", down), ("up", up))}
    assert {*read_state(wan, tmp_path / "x.safetensors", keys).deltas} == {"blocks.1.attn2.to_out.0"}


TEXT = (
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
    "lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "base_model.model.text_encoder.layers.0.q_proj.lora_A.weight",
)


@pytest.mark.parametrize("key", TEXT)
def test_keys_of_a_text_encoder_are_left_out_and_said(wan: VideoModel, tmp_path: Path, key: str) -> None:
    down, up = low_rank_pair()
    layer = "transformer.blocks.0.attn1.to_q"
    state = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, key: torch.ones(2, 2)}
    contents = read_state(wan, tmp_path / "x.safetensors", state)
    assert {*contents.deltas} == {"blocks.0.attn1.to_q"}
    assert keys_of(contents.notes) == ["lora_text_left_out"]
    assert key in contents.notes[0]
    with pytest.raises(CheckpointError, match="text encoder alone"):
        read_state(wan, tmp_path / "y.safetensors", {key: torch.ones(2, 2)})


# ---------------------------------------------------------------- what fits of a file


SELF = tuple(f"blocks.{n}.self_attn.{name}" for n in range(3) for name in "qkvo")
IMAGE = tuple(f"blocks.{n}.cross_attn.{name}" for n in range(3) for name in ("k_img", "v_img"))
# case -> (the file, layers that fit, layers that do not, the reason)
PARTS: dict[str, tuple[State, int, int, str]] = {
    "image-to-video on text-to-video": (low_rank(*SELF, *IMAGE), 12, 6, "lora_absent"),
    "an image embedder": (
        low_rank(*SELF) | {"diffusion_model.img_emb.proj.1.diff": torch.ones(2, 2)},
        12,
        1,
        "lora_absent",
    ),
    "norms of images": (
        low_rank(*SELF) | {"diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.ones(24)},
        12,
        1,
        "lora_absent",
    ),
    "more blocks": (low_rank(*SELF, "blocks.39.self_attn.q"), 12, 1, "lora_absent"),
    "another size of one layer": (low_rank(*SELF) | low_rank("text_embedding.0", wide=4096), 12, 1, "lora_reshaped"),
    "one half of a pair": (
        low_rank(*SELF) | {"diffusion_model.blocks.0.ffn.0.lora_up.weight": torch.ones(48, 2)},
        12,
        1,
        "lora_incomplete",
    ),
    "an unknown kind": (
        low_rank(*SELF) | {"diffusion_model.blocks.0.ffn.0.oft_blocks": torch.ones(2, 2)},
        12,
        1,
        "lora_unknown",
    ),
    "a bias where there is none": (
        low_rank(*SELF) | {"diffusion_model.blocks.0.self_attn.norm_q.diff_b": torch.ones(24)},
        12,
        1,
        "lora_absent",
    ),
    "just half": (low_rank(*SELF[:3], *IMAGE[:3]), 3, 3, "lora_absent"),
}


@pytest.mark.parametrize("case", PARTS)
def test_what_fits_is_used_and_the_rest_is_named(wan: VideoModel, tmp_path: Path, case: str) -> None:
    state, fitting, left_out, reason = PARTS[case]
    contents = read_state(wan, tmp_path / "x.safetensors", state)
    assert len(contents.deltas) == fitting
    (note,) = contents.notes
    assert (note.key, note.values["count"], note.values["total"]) == ("lora_left_out", left_out, fitting + left_out)
    assert note.values["causes"].key == reason


REFUSED: dict[str, State] = {
    "less than half": low_rank(*SELF[:3], *IMAGE[:4]),
    "another family": low_rank(*(f"double_blocks.{n}.img_attn_proj" for n in range(4))),
    "another width": low_rank(*SELF, wide=48, out=48),
    "a LoKr of another size": {
        f"lora_unet_blocks_0_self_attn_{n}.lokr_w{i}": torch.ones(2, 2) for n in "qk" for i in (1, 2)
    },
    "a core of another rank": {
        "lora_unet_patch_embedding.lora_down.weight": torch.ones(2, 16, 1, 1, 1),
        "lora_unet_patch_embedding.lora_mid.weight": torch.ones(3, 3, 1, 2, 2),
        "lora_unet_patch_embedding.lora_up.weight": torch.ones(24, 2, 1, 1, 1),
    },
    "alpha alone": {"lora_unet_blocks_0_self_attn_q.alpha": torch.ones(1)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_less_than_half_is_refused(wan: VideoModel, tmp_path: Path, case: str) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors does not fit") as error:
        read_state(wan, tmp_path / "x.safetensors", REFUSED[case])
    assert ("There, a layer is 48 x 48; here, 24 x 24" in str(error.value)) == (case == "another width")


def test_a_part_that_is_left_out_changes_nothing_of_the_rest(wan: VideoModel, tmp_path: Path) -> None:
    whole = read_state(wan, tmp_path / "a.safetensors", low_rank(*SELF, *IMAGE))
    alone = read_state(wan, tmp_path / "b.safetensors", low_rank(*SELF))
    with wan.use("transformer") as network, torch.no_grad():
        layer, x = network.get_submodule("blocks.1.attn1.to_k"), torch.randn(3, 24)
        changed = []
        for file, contents in (("a", whole), ("b", alone)):
            with applied(network, "transformer", (LoRA(tmp_path / file, 1.0, 1.0, contents.deltas),)):
                changed.append(layer(x))
        assert torch.equal(*changed)
        assert not torch.equal(changed[0], layer(x))


# ---------------------------------------------------------------- parameters


def test_modulations_are_changed_for_the_length_of_a_run(wan: VideoModel, tmp_path: Path) -> None:
    """lightx2v's `diff_m`, that of the head, and a parameter by its own name."""
    table, head = torch.randn(1, 6, 24), torch.randn(1, 2, 24)
    state = {
        "diffusion_model.blocks.1.diff_m": table,
        "diffusion_model.head.diff_m": head,
        "transformer.blocks.2.scale_shift_table.diff": table,
        "diffusion_model.blocks.0.modulation.diff": table,
    }
    contents = read_state(wan, tmp_path / "x.safetensors", state)
    names = {f"blocks.{n}.scale_shift_table": table for n in range(3)} | {"scale_shift_table": head}
    assert {*contents.deltas} == names.keys()
    lora = LoRA(tmp_path / "x.safetensors", 0.5, 0.5, contents.deltas)
    with wan.use("transformer") as network:
        own = {name: network.get_parameter(name).data for name in names}
        before = {name: value.clone() for name, value in own.items()}
        with applied(network, "transformer", (lora, lora)):
            for name, difference in names.items():
                assert (network.get_parameter(name) - before[name] - difference).abs().max() < 1e-6
        assert all(network.get_parameter(name).data_ptr() == own[name].data_ptr() for name in names)
        assert all(map(torch.equal, own.values(), before.values()))


def test_norms_as_lycoris_writes_them(wan: VideoModel, tmp_path: Path) -> None:
    weight, bias = torch.randn(24), torch.randn(24)
    state = {"lora_unet_blocks_0_norm3.w_norm": weight, "lora_unet_blocks_0_norm3.b_norm": bias}
    contents = read_state(wan, tmp_path / "x.safetensors", state)
    with wan.use("transformer") as network, torch.no_grad():
        norm, x = network.get_submodule("blocks.0.norm2"), torch.randn(2, 5, 24)
        expected = nn.functional.layer_norm(x, (24,), norm.weight + weight, norm.bias + bias, norm.eps)
        with applied(network, "transformer", (LoRA(tmp_path / "x.safetensors", 1.0, 1.0, contents.deltas),)):
            assert (norm(x) - expected).abs().max() < 1e-5


def test_mochis_last_block_has_its_own_name_in_a_part_of_a_file(tiny_models: Path, tmp_path: Path) -> None:
    mochi = open_lora_model(tiny_models, "mochi")
    shapes = network_of(mochi).tensors
    state = low_rank("blocks.0.mod_y", wide=shapes["transformer_blocks.0.norm1_context.linear.weight"][1], out=96)
    out = shapes["transformer_blocks.0.norm1_context.linear.weight"][0]
    state["diffusion_model.blocks.0.mod_y.lora_up.weight"] = torch.ones(out, 2)
    assert {*read_state(mochi, tmp_path / "x.safetensors", state).deltas} == {
        "transformer_blocks.0.norm1_context.linear"
    }


# ---------------------------------------------------------------- two experts

HIGH = {
    f"transformer.blocks.0.attn1.to_q.{end}": t
    for end, t in zip(("lora_A.weight", "lora_B.weight"), low_rank_pair(), strict=True)
}
LOW = {key.replace("transformer.", "transformer_2.").replace("to_q", "to_k"): value for key, value in HIGH.items()}
OTHER_LOW = {key.replace("transformer_2.", "low_noise."): value for key, value in LOW.items()}
SECOND_OF_DIFFSYNTH = {key.replace("transformer_2.", "pipe.dit2."): value for key, value in LOW.items()}
FIRST_OF_DIFFSYNTH = {key.replace("transformer.", "pipe.dit."): value for key, value in HIGH.items()}
OTHER_HIGH = {key.replace("transformer.", "high_noise."): value for key, value in HIGH.items()}
Q, K = {"blocks.0.attn1.to_q"}, {"blocks.0.attn1.to_k"}
# case -> (file, experts of the model, layers of the first, layers of the second or None for the same, notes)
EXPERTS: dict[str, tuple[State, int, set[str], set[str] | None, list[str]]] = {
    "one for both": (HIGH, 2, Q, None, []),
    "each its own": (HIGH | LOW, 2, Q, K, []),
    "other words": (OTHER_HIGH | OTHER_LOW, 2, Q, K, []),
    "DiffSynth": (FIRST_OF_DIFFSYNTH | SECOND_OF_DIFFSYNTH, 2, Q, K, []),
    "the second alone": (LOW, 2, set(), K, []),
    "one network takes the first": (HIGH | LOW, 1, Q, None, ["lora_expert_left_out"]),
    "one network takes what there is": (LOW, 1, K, None, []),
}


@pytest.mark.parametrize("case", EXPERTS)
def test_each_expert_gets_its_part(wan: VideoModel, tmp_path: Path, case: str) -> None:
    state, experts, first, second, notes = EXPERTS[case]
    contents = read_state(wan, tmp_path / "x.safetensors", state, experts)
    assert {*contents.deltas} == first
    assert (contents.low_deltas if contents.low_deltas is None else {*contents.low_deltas}) == second
    assert keys_of(contents.notes) == notes
    lora = LoRA(tmp_path / "x.safetensors", 1.0, 1.0, contents.deltas, contents.low_deltas)
    assert {*lora.on("transformer_2")} == (first if second is None else second)


NAMES = {
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors": "high",
    "Wan22-I2V-A14B-LowNoise-style.safetensors": "low",
    "style_HIGH.safetensors": "high",
    "low.safetensors": "low",
    "wan-highres-fix.safetensors": "",
    "slow_motion.safetensors": "",
    "yellow.safetensors": "",
    "high_and_low_noise.safetensors": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_expert_that_a_name_says(name: str) -> None:
    assert expert_of_name(name) == NAMES[name]


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        (("double_blocks.0.img_attn.qkv", "double_blocks.1.img_attn.qkv"), "Flux"),
        (("lora_unet_double_blocks_0_img_attn_qkv",), "or_list"),
        (("diffusion_model.double_blocks.0.img_attn_qkv",), "HunyuanVideo"),
        (("lora_unet_blocks_0_attn_qkv_x",), "Mochi"),
        (("lora_unet_down_blocks_1_attentions_0_proj_in",), "kind_image_model"),
        (("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",), "kind_image_model"),
        (("down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q",), ""),
        (("nothing.that.is.known",), ""),
    ],
)
def test_whose_lora_it_is_is_told(wan: VideoModel, tmp_path: Path, layers: tuple[str, ...], kind: str) -> None:
    state = {f"{layer}.lora_{way}.weight": torch.zeros(4, 4) for layer in layers for way in ("down", "up")}
    with pytest.raises(CheckpointError) as refused:
        read_state(wan, tmp_path / "a.safetensors", state)
    kinds = [p.values["kind"] for p in parts(refused.value.rule) if p.key == "lora_named_as"]
    assert [getattr(each, "key", each) for each in kinds] == ([kind] if kind else [])
