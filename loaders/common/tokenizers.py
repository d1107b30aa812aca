"""Tokenizers, from folders or files and never from a hub, and what they say of the encoders that they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch

from ..messages import CheckpointError, InputError, message
from ..parts import Argument, Config, Tokenizer
from ..weights.configs import load_config
from ..weights.entry import Entry
from ..weights.format import Weights
from ..weights.gguf import is_gguf
from ..weights.gguf.tokenizer import sentencepiece_model
from ..weights.json_files import MOST_INDEX, excerpt
from ..weights.safetensors import WatchedFile, read_header
from .tokenizer_files import TOKENIZER_FILES, check_folder, check_sentencepiece, reading

Stamps = tuple[tuple[str, int, int], ...]  # (name, time, size) of each file, so that a changed one is read anew
MOST_CHARACTERS = 2**18  # of a text that is tokenized, whoever sends it
ROWS_MULTIPLE = 128  # to which tables of tokens are filled up
PUBLISHED_ROWS = 32128, 256384, 49408, 128320  # of T5, UMT5, CLIP-L and Llava's Llama 3, whatever tokenizer is chosen


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer of a folder, or of a UMT5 file that carries its own; raises CheckpointError for one that is damaged
    or says what no published one says."""
    files = [source] if source.is_file() else [source / name for name in TOKENIZER_FILES if (source / name).exists()]
    read = _embedded_tokenizer if source.is_file() else _folder_tokenizer
    with reading(source):
        stamps = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        return BoundedTokenizer(read(source, stamps), source)


class BoundedTokenizer:
    """A tokenizer that reads no more than MOST_CHARACTERS at once, and whose panics, which would end the host's
    thread, are CheckpointErrors."""

    def __init__(self, tokenizer: Tokenizer, source: Path) -> None:
        self._tokenizer, self.source = tokenizer, source

    def __call__(self, text: str | list[str], **options: Argument) -> Argument:
        """`input_ids` and the rest, as the tokenizer's own call gives them."""
        if (length := len(text) if isinstance(text, str) else sum(map(len, text))) > MOST_CHARACTERS:
            rule = message("prompt_long", count=length, most=MOST_CHARACTERS)
            raise InputError("prompt", excerpt(text, 60), rule, message("shorten"))
        with reading(self.source):
            return self._tokenizer(text, **options)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Argument:
        return getattr(self._tokenizer, name)


class SentencePieceTokenizer:
    """A sentencepiece model called as transformers' tokenizers are; they lose its fall-back to bytes."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_proto=model)
        self.unk_token_id, self.pad_token_id = self._model.unk_id(), self._model.pad_id()

    def __len__(self) -> int:
        return int(self._model.get_piece_size())

    def __call__(
        self, text: str | list[str], add_special_tokens: bool = True, max_length: int = 0, **_: Argument
    ) -> Argument:
        """`input_ids` and `attention_mask`: lists for one text, tensors [1, max_length] for a list with one."""
        ids = self._model.encode(text[0] if isinstance(text, list) else text)
        ids = [*ids, self._model.eos_id()] if add_special_tokens else ids
        if isinstance(text, str):
            return SimpleNamespace(input_ids=ids, attention_mask=[1] * len(ids))
        padded = torch.full((1, max_length), self._model.pad_id())
        padded[0, : len(ids)] = torch.tensor(ids)
        return SimpleNamespace(input_ids=padded, attention_mask=(torch.arange(max_length) < len(ids)).long()[None])


def _bytes_of(entry: Entry) -> bytes:
    with WatchedFile(entry.file) as opened:
        return bytes(opened.get_tensor(entry.key).numpy().tobytes())


@lru_cache(4)
def _embedded_tokenizer(file: Path, changed: Stamps) -> SentencePieceTokenizer:
    """The sentencepiece model that ComfyUI's UMT5 files hold as a tensor (comfy/text_encoders/wan.py), alone or beside
    a network, and GGUF files as metadata."""
    if is_gguf(file):
        model = sentencepiece_model(file)
    else:
        entries = [e for key, e in read_header(file)[0].items() if f".{key}".endswith(".spiece_model")]
        if any(entry.dtype not in ("U8", "I8") or math.prod(entry.shape) > MOST_INDEX for entry in entries):
            raise CheckpointError(message("no_tokenizer", file=file.name), message("use_comfy_org_file"))
        model = _bytes_of(entries[0]) if entries else None
    if model is None:
        raise CheckpointError(message("no_tokenizer", file=file.name), message("use_comfy_org_file"))
    check_sentencepiece(model)
    return SentencePieceTokenizer(model)


@lru_cache(8)
def _folder_tokenizer(folder: Path, changed: Stamps) -> Tokenizer:
    """The tokenizer of a folder: tokenizer.json as it stands, else spiece.model, else CLIP's vocab.json and merges.txt.

    The class is never the one that a config names: transformers 5 reads some tokenizer.json files wrongly by it
    (Llama 3 as LlamaTokenizerFast: transformers issue 45488).
    """
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

    name = check_folder(folder)
    if name == "tokenizer.json":
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / name), **_special(folder))
    own = {"vocab_file": str(folder / name), "local_files_only": True}  # whatever a config names
    if name == "spiece.model":
        return T5Tokenizer.from_pretrained(folder, **own)  # nosec B615
    if name == "vocab.json":
        merges = str(folder / "merges.txt")
        return CLIPTokenizer.from_pretrained(folder, merges_file=merges, **own)  # nosec B615
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


# ---------------------------------------------------------------- the encoders that they belong to


def with_tokenizers(parts: Mapping[str, Weights], files: Mapping[str, Path]) -> dict[str, Weights]:
    """The parts, with the sign that ends a text where an encoder's shapes cannot tell it; raises CheckpointError for a
    tokenizer that cannot be read, and for an encoder that has rows for far more tokens than its tokenizer knows."""
    return {name: _with_tokenizer(name, weights, files) for name, weights in parts.items()}


def _with_tokenizer(part: str, weights: Weights, files: Mapping[str, Path]) -> Weights:
    source = files.get("tokenizer" + part.removeprefix("text_encoder"))
    if source is None or not part.startswith("text_encoder"):
        return weights
    tokenizer, file = load_tokenizer(source), files.get(part, files["checkpoint"])
    count, rows = len(tokenizer), vocabulary(weights.config)
    if rows not in PUBLISHED_ROWS and rows > -(-count // ROWS_MULTIPLE) * ROWS_MULTIPLE:
        rule = message("encoder_rows", file=file.name, rows=rows, tokenizer=source.name, count=count)
        raise CheckpointError(rule, message("download_again"))
    if file.is_dir() or "eos_token_id" not in weights.config:
        return weights
    return replace(weights, config={**weights.config, "eos_token_id": tokenizer("").input_ids[-1]})


def vocabulary(config: Config) -> int:
    """For how many tokens a text encoder of this config has rows; 0 where it does not say."""
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0))
