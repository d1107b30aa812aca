"""Prompts, from a text to tokens and through a T5."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from ..messages import CheckpointError, InputError, message, sentences
from ..parts import Tokenizer
from ..request import Conditioning
from ..video_model import VideoModel
from .emphasis import Segment, check_length, emphasised, prompt_notes, segments, weighted_tokens
from .little_world import is_beyond, lives_there
from .tokenizers import load_tokenizer, vocabulary

MOST_SIGNS = 8  # of the unknown ones that a note lists
SOME_LETTER = "e"  # which all tokenizers know but those that know whole words alone, as the bundled one


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
    unknown, small = tokenizer.unk_token_id, lives_there(tokenizer.source)
    lost = words.count(unknown) if unknown is not None else 0
    if not lost:
        return (message("little_world"),) if small and name != "negative" and is_beyond(text) else ()
    signs = _unknown_signs(tokenizer, text)
    foreign = any(sign.isalpha() and not unicodedata.name(sign[0], "LATIN").startswith("LATIN") for sign in signs)
    listed = " ".join([*map(_visible, signs[:MOST_SIGNS]), *["…"] * (len(signs) > MOST_SIGNS)])
    if lost == len(words) or {*"".join(text.split())} <= {*signs}:
        usual = message("write_english") if foreign else message("write_words")
        remedy = message("little_world") if small else usual
        raise InputError(name, repr(text[:40]), message("prompt_unknown", signs=listed), remedy)
    note = message("prompt_tokens_lost", name=name, lost=lost, count=len(words), signs=listed)
    more = message("little_world") if small else message("t5_reads_english") if foreign else ""
    return (sentences(note, more),)


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
    rows = vocabulary(model.parts[part].config)
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
