"""Tokenizers, from folders or files and never from a hub, and prompts on their way through a T5."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from ..messages import CheckpointError, InputError, message, sentences
from ..parts import Argument, Tokenizer
from ..request import Conditioning
from ..video_model import VideoModel
from ..weights.configs import load_config
from ..weights.gguf import is_gguf
from ..weights.gguf.tokenizer import sentencepiece_model
from ..weights.json_files import MOST_INDEX, excerpt
from ..weights.safetensors import read_header
from .emphasis import Segment, check_length, emphasised, prompt_notes, segments, weighted_tokens
from .tokenizer_files import TOKENIZER_FILES, check_folder, check_sentencepiece, reading

Stamps = tuple[tuple[str, int, int], ...]  # (name, time, size) of each file, so that a changed one is read anew
MOST_CHARACTERS = 2**18  # of a text that is tokenized, whoever sends it
MOST_SIGNS = 8  # of the unknown ones that a note lists
SOME_LETTER = "e"  # which all tokenizers know but those that know whole words alone, as the bundled one


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
        self._tokenizer, self._source = tokenizer, source

    def __call__(self, text: str | list[str], **options: Argument) -> Argument:
        """`input_ids` and the rest, as the tokenizer's own call gives them."""
        if (length := len(text) if isinstance(text, str) else sum(map(len, text))) > MOST_CHARACTERS:
            rule = message("prompt_long", count=length, most=MOST_CHARACTERS)
            raise InputError("prompt", excerpt(text, 60), rule, message("shorten"))
        with reading(self._source):
            return self._tokenizer(text, **options)

    def __getattr__(self, name: str) -> Argument:
        return getattr(self._tokenizer, name)


class SentencePieceTokenizer:
    """A sentencepiece model called as transformers' tokenizers are; they lose its fall-back to bytes."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_proto=model)
        self.unk_token_id, self.pad_token_id = self._model.unk_id(), self._model.pad_id()

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


@lru_cache(4)
def _embedded_tokenizer(file: Path, changed: Stamps) -> SentencePieceTokenizer:
    """The sentencepiece model that ComfyUI's UMT5 files hold as a tensor (comfy/text_encoders/wan.py), alone or beside
    a network, and GGUF files as metadata."""
    from safetensors import safe_open

    if is_gguf(file):
        model = sentencepiece_model(file)
    else:
        entries = [e for key, e in read_header(file)[0].items() if f".{key}".endswith(".spiece_model")]
        if any(entry.dtype not in ("U8", "I8") or math.prod(entry.shape) > MOST_INDEX for entry in entries):
            raise CheckpointError(message("no_tokenizer", file=file.name), message("use_comfy_org_file"))
        with safe_open(entries[0].file if entries else file, framework="pt") as opened:
            model = opened.get_tensor(entries[0].key).numpy().tobytes() if entries else None
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
    own = {"vocab_file": str(folder / name), "local_files_only": True}  # whatever a config names; nothing is downloaded
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


@dataclass(frozen=True)
class Prompt:
    """A prompt as a text encoder gets it.

    ids, mask: [1, L], padded.
    weights: of each token [L], where not all are 1.
    notes: what the person should know of it.
    """

    ids: Tensor
    mask: Tensor
    weights: Tensor | None = None
    notes: tuple[str, ...] = ()


def read_prompt(tokenizer: Tokenizer, text: str, length: int, name: str, clean: Callable[[str], str] = str) -> Prompt:
    """A prompt in `length` tokens, and notes on what the tokenizer does not know; its weights are read.

    name: of the input that holds it. clean: what is done to a text before it is tokenized. Raises InputError for a
    prompt that `length` tokens cannot hold: nothing is cut in silence.
    """
    check_length(name, text)
    parts = segments(text)
    tidy = clean if len(parts) == 1 else partial(_within, clean)
    parts = tuple(replace(part, text=tidy(part.text)) for part in parts)
    notes = prompt_notes(name, text, parts)
    plain = "".join(part.text for part in parts)
    known = _unknown_notes(tokenizer, parts, plain, name)
    return replace(padded(tokenizer, parts, length, name, text), notes=(*notes, *known))


def _within(clean: Callable[[str], str], text: str) -> str:
    """A text cleaned but for the spaces at its ends, which part it from its neighbours."""
    return re.sub(r"(?s)\S(?:.*\S)?", lambda inner: clean(inner[0]), text)


def padded(
    tokenizer: Tokenizer, parts: tuple[Segment, ...], length: int, name: str, text: str, free: int = 0
) -> Prompt:
    """The tokens of a prompt's parts, padded to `free` and `length` more. Raises InputError where they are more.

    free: tokens of a template around the prompt, which do not count. text: the prompt, to be shown.
    """
    ids, weights = weighted_tokens(tokenizer, parts)
    if len(ids) - free > length:
        rule = message("prompt_too_long", count=len(ids) - free, most=length)
        raise InputError(name, f"{text[:40]!r}...", rule, message("shorten"))
    whole = length + free
    if len(parts) == 1 and parts[0].weight == 1:
        batch = tokenizer([parts[0].text], padding="max_length", max_length=whole, return_tensors="pt")
        return Prompt(batch.input_ids, batch.attention_mask)
    if tokenizer.pad_token_id is None:
        raise CheckpointError(message("tokenizer_strange"), message("download_tokenizer"))
    row = torch.full((1, whole), tokenizer.pad_token_id)
    row[0, : len(ids)] = torch.tensor(ids)
    factors = torch.ones(whole)
    factors[: len(ids)] = torch.tensor(weights)
    mask = (torch.arange(whole) < len(ids)).long()[None]
    return Prompt(row, mask, factors if (factors != 1).any() else None)


def _unknown_notes(tokenizer: Tokenizer, parts: tuple[Segment, ...], text: str, name: str) -> tuple[str, ...]:
    """Which signs the tokenizer does not know, if any. Raises InputError where it knows none."""
    words = [token for part in parts for token in tokenizer(part.text, add_special_tokens=False).input_ids]
    unknown = tokenizer.unk_token_id
    lost = words.count(unknown) if unknown is not None else 0
    if not lost:
        return ()
    signs = _unknown_signs(tokenizer, text)
    foreign = any(sign.isalpha() and not unicodedata.name(sign[0], "LATIN").startswith("LATIN") for sign in signs)
    listed = " ".join([*map(_visible, signs[:MOST_SIGNS]), *["…"] * (len(signs) > MOST_SIGNS)])
    if lost == len(words) or {*"".join(text.split())} <= {*signs}:
        remedy = message("write_english") if foreign else message("write_words")
        raise InputError(name, repr(text[:40]), message("prompt_unknown", signs=listed), remedy)
    note = message("prompt_tokens_lost", name=name, lost=lost, count=len(words), signs=listed)
    return (sentences(note, message("t5_reads_english")) if foreign else note,)


def _unknown_signs(tokenizer: Tokenizer, text: str) -> list[str]:
    """The signs of a text that a tokenizer does not know, or the words where it knows each of their signs, or words
    alone."""
    unknown = tokenizer.unk_token_id
    lost = lambda part: unknown in tokenizer(part, add_special_tokens=False).input_ids
    if lost(SOME_LETTER):
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(tokens.input_ids, tokens.offset_mapping, strict=True)
        return [*dict.fromkeys(text[start:end] for token, (start, end) in places if token == unknown)]
    words = [word for word in dict.fromkeys(unicodedata.normalize("NFC", text).split()) if lost(word)]
    return [sign for sign in dict.fromkeys("".join(words)) if lost(sign)] or words


def _visible(sign: str) -> str:
    return sign if sign.isprintable() else f"U+{ord(sign[0]):04X}"


def check_ids(model: VideoModel, part: str, ids: Tensor) -> None:
    """Raise CheckpointError for tokens that an encoder has no row for: its tokenizer is another's."""
    config = model.parts[part].config
    rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0)
    if rows and not (ids.min() >= 0 and ids.max() < rows):
        file = model.recipe.files["tokenizer" + part.removeprefix("text_encoder")]
        rule = message("tokenizer_of_other", file=file.name, largest=int(ids.max()), rows=rows)
        raise CheckpointError(rule, message("download_tokenizer"))


def trimmed(text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text [B, L, width] and its mask [B, L] without the rows at the end that no text of the batch reaches."""
    rows = int(mask.sum(1).max())
    return text[:, :rows], mask[:, :rows]


def t5_prompt(model: VideoModel, name: str, text: str, clean: Callable[[str], str] = str) -> Prompt:
    """A prompt as `read_prompt` reads it, with the model's own tokenizer and number of tokens."""
    return read_prompt(load_tokenizer(model.recipe.files["tokenizer"]), text, model.facts.prompt_tokens, name, clean)


def encode_t5(
    model: VideoModel,
    masked: bool,
    positive: str,
    negative: str,
    clean: Callable[[str], str] = str,
    zeroed: bool = False,
) -> Conditioning:
    """Both prompts as "text" [1, L, width] and "mask" [1, L] on the CPU, with their weights on them.

    masked: whether the encoder itself sees the mask. clean: as in `read_prompt`. zeroed: whether the rows behind a
    prompt's end are 0. Raises InputError for a prompt that is too long, before the encoder is loaded.
    """
    named = {"positive": positive, "negative": negative}
    prompts = [t5_prompt(model, name, text, clean) for name, text in named.items()]
    check_ids(model, "text_encoder", torch.cat([prompt.ids for prompt in prompts]))
    device = model.memory.device("text_encoder")

    def hidden(prompt: Prompt) -> Tensor:
        mask = prompt.mask.to(device)
        text: Tensor = encoder(prompt.ids.to(device), attention_mask=mask if masked else None)[0]
        return torch.where(mask.bool().unsqueeze(-1), text, 0.0) if zeroed else text

    with model.use("text_encoder") as encoder:
        nothing = cache(lambda: hidden(t5_prompt(model, "", "")))
        texts = [emphasised(hidden(prompt), nothing, prompt.weights).cpu() for prompt in prompts]
    branches = {
        branch: {"text": text, "mask": prompt.mask.bool()}
        for branch, text, prompt in zip(("cond", "uncond"), texts, prompts, strict=True)
    }
    notes = (note for prompt in prompts for note in prompt.notes)
    return Conditioning(model.name, model.facts.text_width, branches, tuple(notes))
