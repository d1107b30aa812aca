"""Graphics cards by their published rates, and how much of these whole runs reach (cards.json, with its sources)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...loaders.messages import between, message
from ...loaders.parts import JsonObject

GIB = 2**30
SIZES = (8, 12, 16, 24, 48, 80)  # GiB, the classes of cards that a table has
CONTEXT = 0.5 * GIB  # bytes of a card that the driver's context takes; assumed
# bytes that ComfyUI keeps free beside a part's weights and its working memory, and what it takes that working memory to
# be at least (model_management.py, extra_reserved_memory and minimum_inference_memory)
RESERVED, LEAST = 400 * 2**20, 0.8 * GIB
# bytes a second between RAM and a card: 16 lanes of PCI Express 4.0 and 3.0 (PCI-SIG, 16 and 8 GT/s a lane, 128b/130b)
PCIE = (31.5e9, 15.75e9)


@dataclass(frozen=True)
class Card:
    """One card. memory: GiB, 0 where it is shared with the processor; tflops, tflops32: peak rates of 16-bit matrix
    products and of 32-bit arithmetic; bandwidth: GB/s."""

    name: str
    memory: int
    tflops: float
    tflops32: float
    bandwidth: float
    source: str

    def rate(self, dtype: str) -> float:
        """Peak operations a second in a computing type."""
        return 1e12 * (self.tflops32 if dtype == "float32" else self.tflops)


@lru_cache(1)
def _data() -> JsonObject:
    return json.loads(Path(__file__).with_name("cards.json").read_text(encoding="utf-8"))


@lru_cache(1)
def cards() -> tuple[Card, ...]:
    """Every card of cards.json, in its order."""
    return tuple(Card(**card) for card in _data()["cards"])


def published() -> list[JsonObject]:
    """Whole runs that were published, each with the petaflops that it takes by our count."""
    return list(_data()["published"])


def source(name: str) -> str:
    """Where a number of a card or a run comes from."""
    return str(_data()["sources"][name])


@lru_cache
def utilisation(card: Card | None = None) -> tuple[float, float]:
    """(least, most) share of its peak rate that the published runs on a card reach; on all cards, where it has none."""
    rates = {card.name: card.rate("bfloat16") for card in cards()}
    runs = [run for run in published() if card is not None and run["card"] == card.name] or published()
    shares = [run["petaflops"] * 1e15 / run["seconds"] / rates[run["card"]] for run in runs]
    return min(shares), max(shares)


def class_of(memory: int) -> tuple[Card, ...]:
    """The cards with this many GiB, slowest first."""
    return tuple(sorted((card for card in cards() if card.memory == memory), key=lambda card: card.tflops))


# words that make another card of a name, slower or faster than the one without: of laptops, of the same chip with more
# or fewer units, of the same card with less power, and of a part of a card
OTHERS = {"laptop", "mobile", "q", "ti", "super", "d", "pcie", "nvl", "mig", "grid"}


def find_card(device: str) -> Card | None:
    """The card that a device's name means; None where it has a word more that makes it another card."""
    words = _words(device)
    fitting = (card for card in cards() if not (words - _words(card.name)) & OTHERS and words >= _words(card.name))
    return max(fitting, key=lambda card: len(card.name), default=None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def seconds(operations: tuple[float, float], moved: float, slow: Card, fast: Card, dtype: str) -> tuple[float, float]:
    """(least, most) seconds for operations on cards of a class; moved: bytes of weights that come from RAM on the way,
    hidden behind the computing at best, on top of it at worst."""
    begin = max(operations[0] / (fast.rate(dtype) * utilisation(fast)[1]), moved / PCIE[0])
    return begin, operations[1] / (slow.rate(dtype) * utilisation(slow)[0]) + moved / PCIE[1]


def in_words(span: tuple[float, float]) -> str:
    """A span of seconds, rounded to what it can mean."""
    return between(*map(clock, span))


def round_to_two(value: float) -> float:
    """A number with two digits that count."""
    return value if value <= 0 else round(value, 1 - math.floor(math.log10(value)))


def number(value: float) -> str:
    """A number with two digits that count, without an exponent."""
    rounded = round_to_two(value)
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:g}"


def clock(value: float) -> str:
    """Seconds in the unit that suits them."""
    if value < 1:
        return message("under_1_s")
    if value >= 48 * 3600:
        return message("time_days", number=number(value / 86400))
    if value >= 5400:
        return message("time_h", number=number(value / 3600))
    if value >= 90:
        return message("time_min", number=number(value / 60))
    return message("time_s", number=number(value))
