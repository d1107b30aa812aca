"""Weights in a prompt, `(word:1.2)`, as ComfyUI reads and applies them; signs of other programs stay letters.

`(word)` weighs 1.1, brackets multiply, `(word:1.2)` sets the weight, `\\(` and `\\)` are letters. Where brackets do not
match, those that are left over are letters too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..messages import CheckpointError, InputError, message, sentences
from ..parts import Tokenizer

BRACKET = 1.1  # what a pair of brackets without a number weighs
LONGEST = 20_000  # characters of a prompt: twice as many as the longest that a model reads can have
DEEPEST = 100  # brackets inside of brackets; a prompt with more of them is none
MOST_NAMED = 6  # of what a note lists
_ESCAPED = {"\\(": "\x01", "\\)": "\x02"}  # brackets that are letters, while the others are looked for


@dataclass(frozen=True)
class Segment:
    """A part of a prompt that weighs the same."""

    text: str
    weight: float = 1.0


def segments(text: str) -> tuple[Segment, ...]:
    """The parts of a prompt in order; one, the whole text, where it has no weights. An infinite weight: too many
    brackets."""
    for written, hidden in _ESCAPED.items():
        text = text.replace(written, hidden)
    found, waiting = list[Segment](), [(piece, 1.0, 0) for piece in _pieces(text)][::-1]
    while waiting:
        piece, weight, depth = waiting.pop()
        if not _bracketed(piece) or depth > DEEPEST:
            found.append(Segment(_letters(piece), weight if depth <= DEEPEST else math.inf))
            continue
        inside, weight = _opened(piece, weight)
        waiting += [(inner, weight, depth + 1) for inner in _pieces(inside)][::-1]
    return tuple(found) or (Segment(""),)


def check_length(name: str, text: str) -> None:
    """Raise InputError for a prompt that is longer than any that can be read, before anything is looked for in it.

    name: of the input that holds it.
    """
    if len(text) > LONGEST:
        rule = message("prompt_endless", count=len(text), most=LONGEST)
        raise InputError(name, f"{text[:40]!r}...", rule, message("shorten"))


def as_letters(text: str) -> str:
    """The prompt whose brackets `segments` reads as letters."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _pieces(text: str) -> Iterator[str]:
    """The text cut before and behind each pair of outermost brackets; what has no partner cuts nothing."""
    start = depth = 0
    for bracket in re.finditer(r"[()]", text):
        opens = bracket[0] == "("
        cut = bracket.start() if opens else bracket.end()
        outermost = depth == (0 if opens else 1)
        depth += 1 if opens else -1
        if outermost and cut > start:
            yield text[start:cut]
        start = cut if outermost else start
    if text[start:]:
        yield text[start:]


def _bracketed(piece: str) -> bool:
    return len(piece) > 1 and piece.startswith("(") and piece.endswith(")")


def _opened(piece: str, weight: float) -> tuple[str, float]:
    """(what stands in a pair of brackets, its weight)."""
    inside, (words, colon, number) = piece[1:-1], piece[1:-1].rpartition(":")
    try:
        return (words, float(number)) if words and colon else (inside, weight * BRACKET)
    except ValueError:
        return inside, weight * BRACKET


def _letters(text: str) -> str:
    for written, hidden in _ESCAPED.items():
        text = text.replace(hidden, written[1:])
    return text


# ---------------------------------------------------------------- tokens and hidden states


def weighted_tokens(tokenizer: Tokenizer, parts: tuple[Segment, ...]) -> tuple[list[int], list[float]]:
    """(token ids with the special ones around them, the weight of each); every segment is tokenized by itself."""
    before, after = _special_ids(tokenizer)
    ids, weights = [*before], [1.0] * len(before)
    for part in parts:
        own = tokenizer(part.text, add_special_tokens=False).input_ids if part.text else []
        ids += own
        weights += [part.weight] * len(own)
    return [*ids, *after], [*weights, *[1.0] * len(after)]


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and behind a text."""
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    at = next((n for n in range(len(whole) + 1) if whole[n : n + len(bare)] == bare), None)
    if at is None:
        raise CheckpointError(message("tokenizer_strange"), message("download_tokenizer"))
    return whole[:at], whole[at + len(bare) :]


def emphasised(hidden: Tensor, empty: Callable[[], Tensor], weights: Tensor | None) -> Tensor:
    """Hidden states [1, L, width], each as far from those of an empty prompt as its weight says.

    empty: gives the hidden states [1, L, width] of an empty prompt, asked for where there are weights [L] alone.
    (z - z_empty) * weight + z_empty, as ComfyUI's text encoders do it.
    """
    if weights is None:
        return hidden
    nothing, factor = empty().float(), weights.to(hidden.device)[None, :, None]
    moved = ((hidden.float() - nothing) * factor + nothing).to(hidden.dtype)
    return torch.where(factor == 1, hidden, moved)


# ---------------------------------------------------------------- what is said of it

# what other programs understand -> what to do instead
_FOREIGN = {
    r"<(?:lora|lyco|lycoris|hypernet):[^<>]*>": message("instead_of_lora"),
    r"\{[^{}|]*\|[^{}]*\}": message("instead_of_choice", choices="{a|b}"),
    r"\[[^\[\]:|]*[:|][^\[\]]*\]": message("instead_of_schedule"),
    r"(?<!\S)embedding:\S+": message("instead_of_embedding"),
    r"(?<!\S)__[\w/*-]+__(?!\w)": message("instead_of_choice", choices="{a|b}"),
    r"(?<![A-Z])(?<![A-Z] )\b(?:BREAK|AND)\b(?! ?[A-Z]{2})": message("instead_of_break"),
}


def prompt_notes(name: str, text: str, parts: tuple[Segment, ...]) -> tuple[str, ...]:
    """What the person should know of a prompt's weights, and of signs that are read as letters.

    name: of the input. Raises InputError for weights that are no numbers.
    """
    weighted = [part for part in parts if part.weight != 1 and part.text.strip()]
    for part in weighted:
        if not math.isfinite(part.weight):
            value = message("weight_of", words=repr(part.text[:40]), weight=part.weight)
            raise InputError(name, value, message("weight_rule"), message("weight_remedy"))
    notes: list[str] = [message("prompt_weights", name=name, weights=_listed(weighted))] if weighted else []
    for pattern, remedy in _FOREIGN.items():
        if sign := re.search(pattern, text):
            letters = message("read_as_letters", name=name, sign=sign[0][:40])
            notes.append(sentences(letters, remedy))
    return tuple(notes)


def _listed(weighted: list[Segment]) -> str:
    words = [f"{part.text.strip()[:40]!r} {part.weight:.4g}" for part in weighted[:MOST_NAMED]]
    return ", ".join(words + ["…"] * (len(weighted) > MOST_NAMED))
