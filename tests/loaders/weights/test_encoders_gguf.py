"""Text encoders as GGUF files in llama.cpp's names, and as a part of a network's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.families import family, load
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.weights.encoders import KINDS, read_encoder
from reelwire.loaders.weights.find import complete
from reelwire.loaders.weights.stored import Stored
from reelwire.training import tiny_files
from reelwire.training.tiny_models import encoder, seeded
from reelwire.training.tiny_text import t5
from safetensors.torch import load_file, save_file
from torch import Tensor

State = Mapping[str, Tensor]
HEADS, KEYS, HEAD, WIDTH = 4, 2, 128, 512
T5_NAMES = {
    "encoder.final_layer_norm": "enc.output_norm",
    "encoder.block": "enc.blk",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.SelfAttention.": "attn_",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
    "shared": "token_embd",
}
LLAMA_NAMES = {
    "embed_tokens": "token_embd",
    "layers.": "blk.",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def original(kind: str) -> torch.nn.Module:
    import transformers

    if kind != "llama":
        return encoder(t5, kind.upper(), 100)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=256,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        num_hidden_layers=2,
        vocab_size=100,
        head_dim=HEAD,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
    )
    with seeded(1):
        return transformers.LlamaModel(config).eval()


def permuted(weight: Tensor) -> Tensor:
    """Rows as convert_hf_to_gguf.py's LlamaModel.permute lays them."""
    heads = weight.shape[0] // HEAD
    return weight.reshape(heads, 2, HEAD // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def named(kind: str, state: State) -> dict[str, Tensor]:
    names, tensors = LLAMA_NAMES if kind == "llama" else T5_NAMES, {}
    for key, value in state.items():
        if key == "encoder.embed_tokens.weight":
            continue
        if kind == "llama" and ("q_proj" in key or "k_proj" in key):
            value = permuted(value)
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        tensors["output_norm.weight" if key == "norm.weight" else key] = value
    return tensors


def write(file: Path, kind: str, state: State, quantised: bool, **metadata: Any) -> None:
    """quantised: matrices in Q8_0, where a row holds whole blocks."""
    import gguf

    writer, q8 = gguf.GGUFWriter(str(file), "llama" if kind == "llama" else "t5encoder"), gguf.GGMLQuantizationType.Q8_0
    for name, value in metadata.items():
        getattr(writer, name)(value)
    for key, value in named(kind, state).items():
        array = value.contiguous().float().numpy()
        if quantised and value.ndim == 2 and value.shape[1] % 32 == 0 and "attn_rel_b" not in key:
            writer.add_tensor(key, gguf.quants.quantize(array, q8), raw_dtype=q8)
        else:
            writer.add_tensor(key, array)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def rounded(kind: str, state: State) -> dict[str, Tensor]:
    """The numbers that Q8_0 leaves."""
    import gguf

    q8 = gguf.GGMLQuantizationType.Q8_0
    numbers = {}
    for key, value in state.items():
        fits = value.ndim == 2 and value.shape[1] % 32 == 0 and "relative_attention_bias" not in key
        blocks = gguf.quants.quantize(value.contiguous().float().numpy(), q8) if fits else None
        numbers[key] = value if blocks is None else torch.from_numpy(np.array(gguf.quants.dequantize(blocks, q8)))
    return numbers


def output(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 5, 7, 9, 11, 3]]))[0]


@pytest.mark.parametrize("quantised", [False, True], ids=["F32", "Q8_0"])
@pytest.mark.parametrize("kind", ["t5", "umt5", "llama"])
def test_it_computes_what_its_numbers_do(tmp_path: Path, kind: str, quantised: bool) -> None:
    model, file = original(kind), tmp_path / "encoder.gguf"
    write(file, kind, model.state_dict(), quantised)
    if quantised:
        model.load_state_dict(rounded(kind, model.state_dict()))
    mine = read_encoder(file, kind).build(torch.float32, True, "", lambda *_: None)
    assert any(isinstance(layer, Stored) for layer in mine.modules()) == quantised
    expected = output(model)
    tolerance = 2e-3 if quantised else 2e-5  # diffusers multiplies blocks in half precision
    assert (output(mine) - expected).abs().max() < tolerance * max(1.0, expected.abs().max().item())
    for other in {"t5", "umt5", "llama", "clip", "vision"} - {kind}:
        with pytest.raises(CheckpointError, match=f"encoder.gguf is {KINDS[kind].title}, not"):
            read_encoder(file, other)


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "encoder.gguf"
    write(file, "t5", original("t5").state_dict(), quantised=True)
    file.write_bytes(file.read_bytes()[:-999])
    with pytest.raises(CheckpointError, match=r"encoder.gguf .*damaged"):
        read_encoder(file, "t5")


# ---------------------------------------------------------------- its tokenizer


WORDS = ["a red circle moving left", "一只猫在跑", "quick brown foxes", "ﬁne ½"]


def metadata(model: bytes, charsmap: bytes = b"") -> dict[str, Any]:
    """What llama.cpp's converter takes of a sentencepiece model."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=model)
    kinds = [("unknown", 2), ("control", 3), ("unused", 5), ("byte", 6)]
    tests = {name: getattr(pieces, f"is_{name}") for name, _ in kinds}
    ids = range(pieces.get_piece_size())
    return {
        "add_token_list": [pieces.id_to_piece(i) for i in ids] + ["[PAD330]", "[PAD331]"],
        "add_token_scores": [pieces.get_score(i) for i in ids] + [-1000.0] * 2,
        "add_token_types": [next((k for name, k in kinds if tests[name](i)), 1) for i in ids] + [5] * 2,
        "add_eos_token_id": 1,
        "add_pad_token_id": 0,
        "add_unk_token_id": 2,
        **({"add_precompiled_charsmap": charsmap} if charsmap else {}),
    }


TEXTS = ("a red circle moving left", "一只猫在跑 qü", "  two   spaces ", "ﬁne ½ Ａ", "", "🦊 fox")


def charsmap_of(model: bytes) -> bytes:
    """The table of the normalizer, field 2 of field 3."""
    fields: dict[int, bytes] = {}

    def read(content: bytes) -> dict[int, bytes]:
        at, found = 0, {}
        while at < len(content):
            key, at = varint(content, at)
            if key % 8 == 2:
                size, at = varint(content, at)
                found[key // 8] = content[at : at + size]
                at += size
            elif key % 8 == 5:
                at += 4
            else:
                _, at = varint(content, at)
        return found

    def varint(content: bytes, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = content[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    fields = read(model)
    return read(fields[3]).get(2, b"")


@pytest.mark.parametrize("normalised", [False, True], ids=["identity", "nmt_nfkc"])
def test_its_tokenizer_is_sentencepieces(tmp_path: Path, normalised: bool) -> None:
    from sentencepiece import SentencePieceProcessor

    rule = "nmt_nfkc" if normalised else "identity"
    model = tiny_files.sentencepiece_of(WORDS, 330, normalization_rule_name=rule)
    charsmap = charsmap_of(model)
    assert bool(charsmap) == normalised
    file = tmp_path / "umt5.gguf"
    write(file, "umt5", original("umt5").state_dict(), True, **metadata(model, charsmap))
    theirs, ours = SentencePieceProcessor(model_proto=model, add_eos=True), load_tokenizer(file)
    for text in TEXTS:
        assert ours(text).input_ids == theirs.encode(text), text
    padded = ours(["a cat"], padding="max_length", max_length=12)
    assert padded.input_ids.shape == (1, 12)
    assert ours.unk_token_id == 2


def test_one_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    file = tmp_path / "umt5.gguf"
    write(file, "umt5", original("umt5").state_dict(), True)
    with pytest.raises(CheckpointError, match="carries no tokenizer"):
        load_tokenizer(file)


# ---------------------------------------------------------------- with and in a network's file

HIGH = "diffusion_models/tiny-wan2.2-t2v-high_noise-fp8_scaled.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in (HIGH, "text_encoders/tiny-umt5.safetensors", "vae/tiny-wan-2.1-vae.safetensors"):
        tiny_files.make(name, folder)
    return folder


def opened(files: Mapping[str, Path]) -> Any:
    return load(Recipe("wan", "", dict(files), "float32"), PlainMemory())


def test_a_network_takes_one(models: Path, tmp_path: Path) -> None:
    """auto finds it, and the prompt is what its numbers make of it."""
    state = load_file(models / "text_encoders/tiny-umt5.safetensors")
    spiece = state.pop("spiece_model").numpy().tobytes()
    (tmp_path / "alone.safetensors").symlink_to(models / HIGH)
    gguf, vae = tmp_path / "umt5.gguf", models / "vae/tiny-wan-2.1-vae.safetensors"
    write(gguf, "umt5", state, False, **metadata(spiece, charsmap_of(spiece)))
    offered = {"text_encoder": {"text_encoders/umt5.gguf": gguf}, "vae": {"vae/x": vae}}
    files = complete(family("wan").checkpoint, {"checkpoint": tmp_path / "alone.safetensors"}, offered, {})
    assert files["text_encoder"] == files["tokenizer"] == gguf
    plain = {**files, **dict.fromkeys(("text_encoder", "tokenizer"), models / "text_encoders/tiny-umt5.safetensors")}
    mine, theirs = (opened(chosen).encode("a red circle 一只猫", "") for chosen in (files, plain))
    assert (mine.branches["cond"]["text"] - theirs.branches["cond"]["text"]).abs().max() < 1e-5
    write(gguf, "umt5", state, False)
    with pytest.raises(CheckpointError, match=r"umt5.gguf carries no tokenizer"):
        opened(files)


@pytest.mark.parametrize("prefix", ["text_encoders.umt5xxl.transformer.", "cond_stage_model.umt5xxl.transformer."])
def test_a_network_brings_its_own(models: Path, tmp_path: Path, prefix: str) -> None:
    """As ComfyUI's Save Checkpoint and merges write it: nothing else is looked for."""
    encoder_file = models / "text_encoders/tiny-umt5.safetensors"
    state, file = load_file(encoder_file), tmp_path / "all-in-one.safetensors"
    spiece = state.pop("spiece_model")
    vae = load_file(models / "vae/tiny-wan-2.1-vae.safetensors")
    parts = {f"model.diffusion_model.{k}": v for k, v in load_file(models / HIGH).items() if k != "scaled_fp8"}
    parts |= {f"{prefix}{k}": v for k, v in state.items()} | {f"first_stage_model.{k}": v for k, v in vae.items()}
    parts[f"{prefix.split('.')[0]}.spiece_model"] = spiece
    save_file({k: v.contiguous() for k, v in parts.items()}, file)
    files = complete(family("wan").checkpoint, {"checkpoint": file}, {}, {})
    assert files == {"checkpoint": file, "tokenizer": file}
    apart = {**files, "text_encoder": encoder_file, "tokenizer": encoder_file}
    mine, theirs = (opened(chosen).encode("a red circle 一只猫", "") for chosen in (files, apart))
    assert torch.equal(mine.branches["cond"]["text"], theirs.branches["cond"]["text"])
    del parts[f"{prefix}encoder.final_layer_norm.weight"]
    save_file({k: v.contiguous() for k, v in parts.items()}, file)
    with pytest.raises(CheckpointError, match=r"all-in-one.safetensors does not fit UMT5EncoderModel: 1 missing"):
        opened(files)
