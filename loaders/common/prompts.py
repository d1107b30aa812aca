"""Tokenizers, from folders or files and never from a hub, and prompts on their way through a T5."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..messages import CheckpointError, InputError, message
from ..parts import Network, Tokenizer
from ..weights.configs import load_config
from ..weights.safetensors import read_header


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer of a folder, or of a UMT5 file that carries its own."""
    return _embedded_tokenizer(source, source.stat().st_mtime) if source.is_file() else _folder_tokenizer(source)


class SentencePieceTokenizer:
    """A sentencepiece model called as transformers' tokenizers are; they lose its fall-back to bytes."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_proto=model)
        self.unk_token_id = self._model.unk_id()

    def __call__(self, text: str | list[str], add_special_tokens: bool = True, max_length: int = 0, **_: Any) -> Any:
        """`input_ids` and `attention_mask`: lists for one text, tensors [1, max_length] for a list with one."""
        ids = self._model.encode(text[0] if isinstance(text, list) else text)
        ids = [*ids, self._model.eos_id()] if add_special_tokens else ids
        if isinstance(text, str):
            return SimpleNamespace(input_ids=ids, attention_mask=[1] * len(ids))
        padded = torch.full((1, max_length), self._model.pad_id())
        padded[0, : len(ids)] = torch.tensor(ids)
        return SimpleNamespace(input_ids=padded, attention_mask=(torch.arange(max_length) < len(ids)).long()[None])


@lru_cache(4)
def _embedded_tokenizer(file: Path, changed: float) -> SentencePieceTokenizer:
    """The sentencepiece model that ComfyUI's UMT5 files hold as a tensor (comfy/text_encoders/wan.py)."""
    from safetensors import safe_open

    if "spiece_model" not in read_header(file)[0]:
        raise CheckpointError(message("no_tokenizer", file=file.name), message("use_comfy_org_file"))
    with safe_open(file, framework="pt") as opened:
        return SentencePieceTokenizer(opened.get_tensor("spiece_model").numpy().tobytes())


def _folder_tokenizer(folder: Path) -> Tokenizer:
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
        message("folder_no_tokenizer", parent=folder.parent.name, folder=folder.name), message("download_folder")
    )


def _special(folder: Path) -> dict[str, str]:
    """The special tokens that a tokenizer folder names; T5's where it names none."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if not (folder / "tokenizer_config.json").exists():
        return special
    config = load_config(folder, "tokenizer_config.json")
    named = {name: config.get(name) for name in ("pad_token", "eos_token", "unk_token", "bos_token")}
    return {name: t["content"] if isinstance(t, dict) else t for name, t in named.items() if t}


def read_prompt(tokenizer: Tokenizer, text: str, length: int, name: str) -> tuple[Any, tuple[str, ...]]:
    """(token ids and mask padded to `length`, notes on what the tokenizer does not know).

    Raises InputError for a prompt that `length` tokens cannot hold: nothing is cut in silence.
    """
    words = tokenizer(text, add_special_tokens=False).input_ids
    unknown = tokenizer.unk_token_id
    if words and set(words) <= {unknown}:
        rule = message("prompt_unknown")
        raise InputError(name, repr(text[:40]), rule, message("write_english"))
    count = len(tokenizer(text).input_ids)
    if count > length:
        raise InputError(
            name, f"{text[:40]!r}...", message("prompt_too_long", count=count, most=length), message("shorten")
        )
    lost = words.count(unknown) if unknown is not None else 0
    notes = (message("prompt_tokens_lost", name=name, lost=lost, count=len(words)),)
    return tokenizer([text], padding="max_length", max_length=length, return_tensors="pt"), notes if lost else ()


def trimmed(text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text [B, L, width] and its mask [B, L] without the rows at the end that no text of the batch reaches."""
    rows = int(mask.sum(1).max())
    return text[:, :rows], mask[:, :rows]


def check_prompts(tokenizer: Tokenizer, length: int, **prompts: str) -> None:
    """Raise InputError for prompts, by the names of their inputs, that cannot be read; before the encoder is loaded."""
    for name, text in prompts.items():
        read_prompt(tokenizer, text, length, name)


def encode_t5(
    encoder: Network, tokenizer: Tokenizer, length: int, masked: bool, device: torch.device, text: str, name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """({"text" [1, length, width], "mask" [1, length]} on the CPU, notes); masked: whether the encoder itself sees the
    mask; name: of the input that holds the text. Raises InputError for a prompt that is too long."""
    batch, notes = read_prompt(tokenizer, text, length, name)
    ids, mask = batch.input_ids.to(device), batch.attention_mask
    hidden = encoder(ids, attention_mask=mask.to(device) if masked else None)[0]
    return {"text": hidden.cpu(), "mask": mask.bool()}, notes
