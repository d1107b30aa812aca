"""Tiny text encoders of the real architectures, with tokenizers of the real kinds, made without any file."""

from __future__ import annotations

import string
from typing import Any

LETTERS = string.ascii_letters + string.digits + string.punctuation
WORDS = (
    "a",
    "the",
    "on",
    "to",
    "and",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "cat",
    "moving",
    "left",
    "right",
    "up",
)
LLAMA_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
    "<image>",
)


def t5_tokenizer() -> Any:
    """Unigram pieces of English alone, as T5-XXL's vocabulary in effect is; Chinese is unknown to it."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [(letter, -3.0) for letter in LETTERS] + [("▁" + word, -1.0) for word in WORDS]
    return T5Tokenizer(vocab=special + pieces, extra_ids=0)


def umt5_tokenizer() -> Any:
    """Unigram pieces of English and common Chinese, any other letter as its bytes, as UMT5's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [(letter, -3.0) for letter in LETTERS + "一二三红绿蓝黄色的圆方形在上下左右移动猫狗，。"]
    pieces += [("▁" + word, -1.0) for word in WORDS] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(special + pieces, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def llama_tokenizer() -> Any:
    """Byte-level BPE with the marks that HunyuanVideo's prompt templates need, as Llama 3's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *LLAMA_SPECIALS]
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(LLAMA_SPECIALS))
    begin = LLAMA_SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, ids[begin])])
    named = dict(bos_token=begin, eos_token="<|end_of_text|>", pad_token="<pad>", padding_side="right")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def clip_tokenizer() -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: number for number, name in enumerate(names)}, merges=[], model_max_length=77)


def t5(kind: str, vocabulary: int) -> Any:
    """A "T5" or "UMT5" encoder, 32 wide; UMT5 has position biases in each layer."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def llama_config(tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_hidden_layers=4,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=4096,
    )


def llava(tokenizer: Any) -> Any:
    """Llama with an eye: a CLIP vision tower of 49 tokens."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        projection_dim=16,
        num_attention_heads=2,
        num_hidden_layers=3,
        image_size=224,
        patch_size=32,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=llama_config(tokenizer),
            image_token_index=image,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def clip_text(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            max_position_embeddings=77,
        )
    )


def clip_vision(projected: bool) -> Any:
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=224,
        intermediate_size=24,
        patch_size=32,
    )
    return getattr(transformers, "CLIPVisionModelWithProjection" if projected else "CLIPVisionModel")(config)
