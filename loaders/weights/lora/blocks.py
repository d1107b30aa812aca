"""Strengths of single blocks, as people write them: "0-9: 1, 10-39: 0.5, rest: 0"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from ...messages import InputError, Message, both, message

REST = "rest"  # layers outside of all blocks
_LINE = re.compile(rf"^(?:(\d+)(?:\s*-\s*(\d+))?|({REST}))\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")
_UNET = ("down_blocks", "mid_block", "up_blocks")
_SIGNS = str.maketrans("，；：–—", ",;:--")
MOST = 100
LONGEST = 4000  # characters of all strengths

Ranges = tuple[tuple[int, int, float], ...]  # first, last, factor; -1 and -1 for REST


def parse_blocks(text: str) -> Ranges:
    """The ranges of a text; raises InputError for anything else, and for a block that is named twice."""
    if len(text) > LONGEST:
        rule = message("list_long", most=LONGEST)
        raise InputError("blocks", repr(f"{text[:40]}..."), rule, message("write_fewer"))
    lines = [line.strip() for line in re.split(r"[,;\n]", text.translate(_SIGNS))]
    ranges = tuple(_range(line) for line in lines if line)
    ordered = sorted(ranges)
    for before, after in pairwise(ordered):
        if after[0] <= before[1]:
            rule = message("blocks_twice", block=REST if after[0] < 0 else after[0])
            raise InputError("blocks", repr(text), rule, message("write_block_strengths"))
    return ranges


def _range(line: str) -> tuple[int, int, float]:
    match = _LINE.match(line)
    first, last = (int(match[1]), int(match[2] or match[1])) if match and match[1] else (-1, -1)
    factor = float(match[4]) if match else math.nan
    if not abs(factor) <= MOST or first > last:
        rule = message("block_strengths_rule", most=MOST)
        raise InputError("blocks", repr(line), rule, message("write_block_strengths"))
    return first, last, factor


def canonical(ranges: Ranges) -> str:
    """The same words for the same strengths, whatever the order and the spaces."""
    places = lambda first, last: REST if first < 0 else f"{first}-{last}"
    return ", ".join(f"{places(first, last)}: {factor!r}" for first, last, factor in sorted(ranges) if factor != 1)


def block_factors(
    ranges: Ranges, lists: tuple[str, ...], tensors: Iterable[str], layers: Iterable[str]
) -> dict[str, float]:
    """Layer -> its factor, where that is not 1.

    lists: the network's attributes that hold its blocks, in the order in which they are counted; empty: a UNet's.
    Raises InputError for a block that the network, which has these tensors, does not have.
    """
    blocks, spans = _blocks(lists or _UNET, [*tensors])
    strange = [(first, last) for first, last, _ in ranges if last >= len(blocks)]
    if strange:
        value = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in strange)
        named = both(*(_span(name, numbers) for name, numbers in spans.items()))
        raise InputError("blocks", value, message("blocks_of_model", blocks=named), message("write_block_strengths"))
    by_block = {blocks[n]: factor for first, last, factor in ranges if first >= 0 for n in range(first, last + 1)}
    rest = next((factor for first, _, factor in ranges if first < 0), 1.0)
    factors = {layer: by_block.get(block, 1.0) if (block := _of(layer, blocks)) else rest for layer in layers}
    return {layer: factor for layer, factor in factors.items() if factor != 1}


def rest_of(ranges: Ranges, lists: tuple[str, ...], tensors: Iterable[str], layers: Iterable[str]) -> tuple[int, int]:
    """(layers outside of all blocks, blocks of the network that no range names), as of `block_factors`."""
    blocks, _ = _blocks(lists or _UNET, [*tensors])
    named = {number for first, last, _ in ranges if first >= 0 for number in range(first, last + 1)}
    return sum(not _of(layer, blocks) for layer in layers), len(blocks) - len(named)


def _of(layer: str, blocks: list[str]) -> str:
    """The block that a layer is in; "" for one outside of all."""
    first, _, rest = layer.partition(".")
    numbered = f"{first}.{rest.partition('.')[0]}"
    return numbered if numbered in blocks else first if first in blocks else ""


def _span(name: str, numbers: list[int]) -> Message:
    return message("blocks_span", first=numbers[0], last=numbers[-1], name=name)


def _blocks(lists: tuple[str, ...], tensors: list[str]) -> tuple[list[str], dict[str, list[int]]]:
    """(names of the blocks in order, list -> the numbers of its blocks)."""
    blocks: list[str] = []
    spans: dict[str, list[int]] = {}
    for name in lists:
        matches = (re.match(rf"{name}\.(?:(\d+)\.)?", tensor) for tensor in tensors)
        numbers = sorted({int(match[1]) if match[1] else -1 for match in matches if match})
        if not numbers:
            continue
        whole = numbers[0] < 0 or name == "mid_block"  # one block, which is no list
        names = [name] if whole else [f"{name}.{number}" for number in numbers]
        spans[name] = [*range(len(blocks), len(blocks) + len(names))]
        blocks += names
    return blocks, spans
