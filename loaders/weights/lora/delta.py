"""A LoRA on a model: what each layer gets, how strongly, and when."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...messages import InputError, Origin, message
from ..entry import Entry

Rows = tuple[tuple[int, int], ...]
LAYER, PARAMETER = ("diff", "bias", "up_bias"), "value"
UNSCALED = {"lokr_w1", "lokr_w2"}  # a product of whole matrices has no rank, and no alpha counts
BESIDE = {*LAYER, PARAMETER, "alpha", "magnitude", "column_magnitude"}  # roles that are no factors of a product


@dataclass(frozen=True)
class Delta:
    """What one layer gets, or one parameter that belongs to no layer.

    tensors: role -> where it lies. "down", "up" [, "mid"], "hada_…" or "lokr_…": factors of a product; "diff", "bias":
        what is added to the layer's own; "up_bias": a bias of `up`; "magnitude": DoRA's, one number for each output,
        "column_magnitude": one for each input; "alpha"; "value": what is added to a parameter.
    alpha, rank: by the file's settings, where there is no tensor "alpha". root: divided by the root of the rank.
    shape: of the product in the file.
    rows: those of the product that are this layer's; () all.
    siblings: all layers that are one with this one in the file.
    """

    tensors: Mapping[str, Entry]
    alpha: float | None = None
    rank: int | None = None
    root: bool = False
    shape: tuple[int, ...] = ()
    rows: Rows = ()
    siblings: tuple[str, ...] = ()

    @property
    def factors(self) -> dict[str, Entry]:
        """The tensors that the product is made of."""
        return {role: entry for role, entry in self.tensors.items() if role not in BESIDE}

    def is_nothing(self, zeros: Collection[str]) -> bool:
        """Whether the layer stays as it is. zeros: keys of the file's tensors that hold nothing but 0."""
        if {"magnitude", "column_magnitude"} & self.tensors.keys():  # it is scaled anew, whatever is added
            return False
        off = {role for role, entry in self.tensors.items() if entry.key in zeros}
        unscaled = "alpha" in off or ("alpha" not in self.tensors and self.alpha == 0)
        unscaled &= self.factors.keys() != UNSCALED
        product = unscaled or bool(off & self.factors.keys()) or not self.factors
        return product and {*LAYER, PARAMETER} & self.tensors.keys() <= off

    @property
    def transient(self) -> int:
        """Numbers of the weight that is made anew whenever the layer runs; 0 for a LoRA of two matrices."""
        plain = {"down", "up"} >= self.factors.keys()
        return 0 if plain and not {"magnitude", "column_magnitude"} & self.tensors.keys() else math.prod(self.shape)


Deltas = Mapping[str, Delta]  # layer of the network -> what it gets


@dataclass(frozen=True)
class LoRA:
    """A LoRA on a model.

    strength: how much it counts; low_noise: the same for the expert for low noise.
    deltas: layer of the network -> what it gets; low_deltas: of the expert for low noise, where the file has its own.
    start, end: shares of the steps between which it is on.
    blocks: strengths of single blocks, as people write them; factors: layer -> its factor, where that is not 1.
    settings: a mark of the alphas that are said in words, beside the tensors.
    """

    file: Path
    strength: float
    low_noise: float
    deltas: Deltas = field(repr=False, hash=False, compare=False)
    low_deltas: Deltas | None = field(default=None, repr=False, hash=False, compare=False)
    start: float = 0.0
    end: float = 1.0
    blocks: str = ""
    factors: Mapping[str, float] = field(default_factory=dict, repr=False, hash=False, compare=False)
    settings: str = ""
    node: Origin | None = field(default=None, compare=False, repr=False)

    def of(self, part: str) -> float:
        """How much it counts on a part."""
        return self.low_noise if part == "transformer_2" else self.strength

    def on(self, part: str) -> Deltas:
        """What the layers of a part get."""
        return self.low_deltas if part == "transformer_2" and self.low_deltas is not None else self.deltas

    @property
    def identity(self) -> str:
        """All that decides about its part in a video, but for the file: what is as usual is left out."""
        words = [_number(self.strength), _number(self.low_noise)]
        if (self.start, self.end) != (0.0, 1.0):
            words.append(f"steps {_number(self.start)}-{_number(self.end)}")
        if self.blocks:
            words.append(f"blocks {self.blocks}")
        return " ".join([*words, *([f"settings {self.settings}"] if self.settings else [])])


def check_steps(start: float, end: float) -> None:
    """Raise InputError for shares of the steps between which a LoRA cannot be on."""
    if not 0 <= start < end <= 1:
        raise InputError("start, end", f"{start}, {end}", message("lora_span_rule"), message("use_span"))


def _number(value: float) -> str:
    """The shortest text that is this number; six digits where they are enough, as in renders of earlier versions."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
