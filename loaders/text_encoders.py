"""Text encoders and their tokenizers: from folders or single files, never from a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import CheckpointError, Entry, build, kind_of, load_config, read_folder, read_header
from .video_model import InputError, Progress


@dataclass(frozen=True)
class T5:
    """A T5 encoder on disk: its config and its tensors."""

    config: Mapping[str, Any]
    entries: Mapping[str, Entry]

    @property
    def width(self) -> int:
        return self.config["d_model"]

    def build(self, dtype: torch.dtype, progress: Progress) -> nn.Module:
        """The encoder; the softmax bias and the norms follow dtype as transformers does without a hub."""
        from transformers import T5Config, T5EncoderModel

        config = T5Config(**{k: v for k, v in self.config.items() if k not in ("architectures", "dtype", "model_type")})
        encoder: Any = build(lambda: T5EncoderModel(config), self.entries, dtype, progress)
        encoder.encoder.embed_tokens.weight = encoder.shared.weight  # one table under two names
        return encoder


def read_t5(source: Path) -> T5:
    """A T5 encoder from a transformers folder or from one safetensors file with transformers' key names."""
    entries = read_folder(source) if source.is_dir() else read_header(source)[0]
    if "encoder.block.0.layer.0.SelfAttention.q.weight" not in entries:
        raise CheckpointError(
            f"{source.name} is {kind_of(entries)}, not a T5 text encoder. Choose a T5-XXL file, as t5xxl_fp16.safetensors."
        )
    if "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in entries:
        raise CheckpointError(
            f"{source.name} is a UMT5 encoder, which reads other tokens than T5. Choose a T5-XXL file, as t5xxl_fp16.safetensors."
        )
    entries = {k: e for k, e in entries.items() if k not in ("encoder.embed_tokens.weight", "spiece_model")}
    try:
        return T5(load_config(source) if source.is_dir() else _config(entries), entries)
    except KeyError as error:
        raise CheckpointError(
            f"{source.name} lacks {error.args[0]}: it is damaged or incomplete. Download it again."
        ) from error


def _config(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The config that a T5 v1.1 encoder's shapes tell (google/t5-v1_1-xxl: 4096 wide, 24 layers, 64 heads)."""
    layer = "encoder.block.0.layer"
    vocabulary, width = entries["shared.weight"].shape
    heads = entries[f"{layer}.0.SelfAttention.relative_attention_bias.weight"].shape[1]
    return dict(
        vocab_size=vocabulary, d_model=width, num_heads=heads,
        d_kv=entries[f"{layer}.0.SelfAttention.q.weight"].shape[0] // heads,
        d_ff=entries[f"{layer}.1.DenseReluDense.wo.weight"].shape[1],
        num_layers=sum(k.endswith("SelfAttention.q.weight") for k in entries),
        feed_forward_proj="gated-gelu" if f"{layer}.1.DenseReluDense.wi_0.weight" in entries else "relu",
        relative_attention_num_buckets=entries[f"{layer}.0.SelfAttention.relative_attention_bias.weight"].shape[0],
        is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder: tokenizer.json as it stands, else spiece.model, else CLIP's vocab.json and merges.txt.

    The class is never the one that a config names: transformers 5 reads some tokenizer.json files wrongly by it
    (Llama 3 as LlamaTokenizerFast: transformers issue 45488).
    """
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **_special(folder))
    if (folder / "spiece.model").exists():
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    raise CheckpointError(
        f"{folder.parent.name}/{folder.name} holds no tokenizer.json, spiece.model, or vocab.json with merges.txt. Download the whole folder again."
    )


def _special(folder: Path) -> dict[str, str]:
    """The special tokens that a tokenizer folder names; T5's where it names none."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if not (folder / "tokenizer_config.json").exists():
        return special
    config = load_config(folder, "tokenizer_config.json")
    named = {name: config.get(name) for name in ("pad_token", "eos_token", "unk_token", "bos_token")}
    return {name: t["content"] if isinstance(t, dict) else t for name, t in named.items() if t}


def read_prompt(tokenizer: Any, text: str, length: int, name: str) -> tuple[Any, tuple[str, ...]]:
    """(token ids and mask padded to `length`, notes on what the tokenizer does not know).

    Raises InputError for a prompt that `length` tokens cannot hold: nothing is cut in silence.
    """
    words = tokenizer(text, add_special_tokens=False).input_ids
    unknown = tokenizer.unk_token_id
    if words and set(words) <= {unknown}:
        rule = "The text encoder knows none of these words (T5-XXL reads English)."
        raise InputError(name, repr(text[:40]), rule, "Write the prompt in English.")
    count = len(tokenizer(text).input_ids)
    if count > length:
        raise InputError(
            name, f"{text[:40]!r}...", f"The prompt has {count} tokens, the model reads {length}.", "Shorten it."
        )
    lost = words.count(unknown) if unknown is not None else 0
    notes = (f"{name}: {lost} of {len(words)} tokens are unknown to the text encoder and say nothing. T5-XXL reads English, not Chinese.",)  # fmt: skip
    return tokenizer([text], padding="max_length", max_length=length, return_tensors="pt"), notes if lost else ()


def encode_t5(
    encoder: Any, tokenizer: Any, length: int, masked: bool, device: torch.device, text: str, name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """({"text" [1, length, width], "mask" [1, length]} on the CPU, notes); masked: whether the encoder itself sees the
    mask; name: of the input that holds the text. Raises InputError for a prompt that is too long."""
    batch, notes = read_prompt(tokenizer, text, length, name)
    ids, mask = batch.input_ids.to(device), batch.attention_mask
    hidden = encoder(ids, attention_mask=mask.to(device) if masked else None)[0]
    return {"text": hidden.cpu(), "mask": mask.bool()}, notes
