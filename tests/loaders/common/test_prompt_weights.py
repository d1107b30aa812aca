"""Weights in prompts, `(word:1.2)`, against ComfyUI's own tokenizer and encoders with the same tiny weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reelwire.loaders.common.emphasis import Segment, as_letters, prompt_notes, segments
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.messages import InputError
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.card import seen_by_comfyui
from reelwire.tests.support.engine.models import needed, open_plain

WRITTEN = (
    "a (red:1.3) circle",
    "(a cat)",
    "((red)) and (blue:0.5)",
    "a ((red circle:1.2) on (blue:0)) square",
    r"a \(red\) (circle:1.5)",
    "(red:-1) cat",
    "(red:1.0) cat",
    "a (red",
    "a) (red",
    "((a)",
    "(a cat) :) (b)",
    "()(:1.2)(a:b)(red: 1.2 )(1:2:3)",
    "",
)
T5 = {"tiny-ltx-0.9.5": True, "tiny-mochi": True, "tiny-cogvideox-5b": False, "tiny-wan2.1-t2v": True}
CLOSE = 1e-5  # of the largest number


@pytest.fixture(scope="module")
def comfy(comfyui: Path) -> Iterator[Any]:
    """ComfyUI's text encoders in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    with seen_by_comfyui():
        from comfy import sd1_clip
        from comfy.text_encoders import llama, t5
    yield SimpleNamespace(sd1=sd1_clip, llama=llama, t5=t5)
    sys.path.remove(str(comfyui))


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    return cache(lambda name: open_plain(tiny_models, name))


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= CLOSE * expected.abs().max()


def tokens_of(comfy: Any, tokenizer: Any, text: str, **options: Any) -> Any:
    """What ComfyUI makes of a text with one of our tokenizers."""
    given = SimpleNamespace(from_pretrained=lambda path: tokenizer)
    usual = {"pad_to_max_length": False, "max_length": 99999999, "pad_token": tokenizer.pad_token_id}
    return comfy.sd1.SDTokenizer("", tokenizer_class=given, **{**usual, **options}).tokenize_with_weights(text)


def t5_of(comfy: Any, encoder: Any, **options: Any) -> Any:
    config = encoder.config
    described = {
        "d_ff": config.d_ff,
        "d_model": config.d_model,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": config.model_type,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "vocab_size": config.vocab_size,
        "d_kv": config.d_kv,
    }
    special = {"end": 1, "pad": 0}
    return filled(
        comfy.sd1.SDClipModel(
            model_class=comfy.t5.T5, textmodel_json_config=described, special_tokens=special, **options
        ),
        encoder.state_dict(),
    )


def filled(theirs: Any, state: dict[str, Any]) -> Any:
    lacking = theirs.load_sd(state)
    assert not lacking.missing_keys
    return theirs


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize("name", T5)
def test_t5_as_comfyui_reads_it(comfy: Any, opened: Any, name: str, text: str) -> None:
    model = opened(name)
    masked = model.facts.conditioned if name.startswith("tiny-ltx") else T5[name]
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    tokens = tokens_of(
        comfy, tokenizer, text, pad_with_end=False, has_start_token=False, min_length=model.facts.prompt_tokens
    )
    with model.use("text_encoder") as encoder, torch.no_grad():
        theirs = t5_of(comfy, encoder, enable_attention_masks=masked, zero_out_masked="wan" in name)
        expected = theirs.encode_token_weights(tokens)[0]
        ours = model.encode(text, "").branches["cond"]["text"]
    assert_close(ours, expected)


def llama_of(comfy: Any, encoder: Any, tokenizer: Any) -> Any:
    config = encoder.config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    described = {name: getattr(config, name) for name in (*names, "num_key_value_heads", "rms_norm_eps")}

    class Tiny(comfy.llama.BaseLlama, torch.nn.Module):
        """ComfyUI's Llama with narrower heads than its config can say."""

        def __init__(self, described: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
            super().__init__()
            sizes = comfy.llama.Llama2Config(**described, rope_theta=config.rope_parameters["rope_theta"])
            sizes.head_dim = config.head_dim
            self.num_layers = sizes.num_hidden_layers
            self.model = comfy.llama.Llama2_(sizes, device=device, dtype=dtype, ops=operations)

    theirs = comfy.sd1.SDClipModel(
        layer="hidden",
        layer_idx=-3,
        textmodel_json_config=described,
        special_tokens={"start": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id},
        layer_norm_hidden_state=False,
        model_class=Tiny,
        enable_attention_masks=True,
        return_attention_masks=True,
    )
    return filled(theirs, {f"model.{key}": value for key, value in encoder.state_dict().items()})


@pytest.mark.parametrize("text", WRITTEN)
def test_llama_as_comfyui_reads_it(comfy: Any, opened: Any, text: str) -> None:
    import diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video as pipeline

    model = opened("tiny-hunyuan-t2v")
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    before, after = pipeline.DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    tokens = tokens_of(comfy, tokenizer, before + text + after, has_end_token=False, min_length=1)
    with model.use("text_encoder") as encoder, torch.no_grad():
        expected = llama_of(comfy, encoder, tokenizer).encode_token_weights(tokens)[0]
        read = model.encode(text, "").branches["cond"]
    rows = int(read["mask"].sum())
    expected = expected[:, len(tokenizer(before).input_ids) :]
    assert_close(read["text"][:, :rows], expected)


@pytest.mark.parametrize("text", WRITTEN)
def test_clips_vector_as_comfyui_reads_it(comfy: Any, opened: Any, text: str) -> None:
    """Weights do not reach it there either: only that brackets are no letters does."""
    model = opened("tiny-hunyuan-t2v")
    tokenizer = load_tokenizer(model.recipe.files["tokenizer_2"])
    tokens = tokens_of(comfy, tokenizer, text, max_length=77, pad_to_max_length=True)
    with model.use("text_encoder_2") as clip, torch.no_grad():
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
        config = {name: getattr(clip.config, name) for name in (*names, "vocab_size", "max_position_embeddings")}
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        theirs = comfy.sd1.SDClipModel(
            textmodel_json_config={**config, "eos_token_id": end},
            special_tokens={"start": start, "end": end, "pad": end},
            return_projected_pooled=False,
        )
        filled(theirs, clip_state(clip))
        expected = theirs.encode_token_weights(tokens)[1]
        ours = model.encode(text, "").branches["cond"]["pooled"]
    assert_close(ours, expected)


def clip_state(clip: Any) -> dict[str, Any]:
    """Weights by ComfyUI's names, with as many words as its CLIP always has."""
    state = {f"text_model.{key}": value for key, value in clip.state_dict().items()}
    words = state["text_model.embeddings.token_embedding.weight"]
    state["text_model.embeddings.token_embedding.weight"] = torch.cat([words, words.new_zeros(49408 - len(words), 16)])
    return {**state, "text_projection.weight": torch.eye(clip.config.hidden_size)}


# ---------------------------------------------------------------- without ComfyUI


def conditioning(model: VideoModel, text: str) -> dict[str, Any]:
    read = model.encode(text, "a cat", needed(model)["keyframes"]).branches["cond"]
    return dict(read)


@pytest.mark.parametrize("name", [*T5, "tiny-hunyuan-t2v", "tiny-hunyuan-i2v-concat"])
def test_escaped_brackets_and_a_weight_of_one_change_nothing_else(opened: Any, name: str) -> None:
    """What has no weights is tokenized whole, to the last bit; what weighs less lies between it and nothing."""
    model = opened(name)
    plain, weighted = (conditioning(model, text) for text in ("a red circle", "a (red circle:1.0)"))
    letters = conditioning(model, as_letters("a (red: cat)"))
    assert torch.equal(letters["text"], conditioning(model, r"a \(red: cat\)")["text"])
    half, none = (conditioning(model, f"(a red circle:{weight})")["text"] for weight in (0.5, 0))
    one = conditioning(model, "(a red circle:1)")["text"]
    assert_close(half, (one + none) / 2)
    assert not torch.allclose(half, one, atol=1e-3)
    if "wan" not in name and name in T5:  # whose tokenizer knows a space of its own
        assert torch.equal(plain["text"], weighted["text"])


@pytest.mark.parametrize("text", ["a red circle", "[a] {b} a:1.2", "a - b, c; 1.2", "（红:1.2）圆"])
def test_a_prompt_without_brackets_is_one_segment(text: str) -> None:
    assert segments(text) == (Segment(text),)
    assert as_letters(text) == text


@pytest.mark.parametrize("text", WRITTEN)
def test_letters_are_letters(text: str) -> None:
    assert segments(as_letters(text)) == (Segment(text),)


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999"])
def test_a_weight_that_is_no_number_is_refused(opened: Any, weight: str) -> None:
    for name in (*T5, "tiny-hunyuan-t2v"):
        with pytest.raises(InputError) as refused:
            opened(name).check_prompt("negative", f"a (red:{weight}) circle")
        assert refused.value.name == "negative"


def test_ten_thousand_brackets_are_refused_and_soon() -> None:
    for count in (101, 5000):
        deep = "(" * count + "a" + ")" * count
        with pytest.raises(InputError):
            prompt_notes("positive", deep, segments(deep))
    assert segments("(" * 5000 + "a") == (Segment("(" * 5000 + "a"),)


# signs of other programs -> what is named
FOREIGN = {
    "a [red:blue:0.5] circle": "[red:blue:0.5]",
    "a [red|blue] circle": "[red|blue]",
    "a {red|blue} circle": "{red|blue}",
    "a circle <lora:style:0.8>": "<lora:style:0.8>",
    "embedding:badhand, a circle": "embedding:badhand,",
    "a cat BREAK a dog": "BREAK",
    "a cat AND a dog": "AND",
    "a __colour__ cat": "__colour__",
}


@pytest.mark.parametrize("text", FOREIGN)
def test_signs_of_other_programs_are_named(text: str) -> None:
    (note,) = prompt_notes("positive", text, segments(text))
    assert FOREIGN[text] in note


@pytest.mark.parametrize("text", ["STOP AND GO", "a BRAND new cat", "a [cat]", "2 < 3: a", "{a}", "snake_case__x"])
def test_what_only_looks_like_them_is_not(text: str) -> None:
    assert prompt_notes("positive", text, segments(text)) == ()


def test_weights_are_named_with_their_words() -> None:
    text = "(a cat), (dog:0.5), (plain:1.0)"
    (note,) = prompt_notes("positive", text, segments(text))
    assert note.values["weights"] == "'a cat' 1.1, 'dog' 0.5"  # type: ignore[attr-defined]
