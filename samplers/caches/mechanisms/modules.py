"""FORA as published: each attention and each MLP of each block keeps what it gave, its gates are computed anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..policy import MODULES, Values, exchanged

LAST = "proj_out"  # where a block ends in one layer, what goes into it need not be kept
Form = tuple[bool, tuple[tuple[int, ...], ...]]  # whether a module gives several tensors, and their shapes


@dataclass
class Tape:
    """What the modules of a network give, in the order in which they run. old: kept values to be given again, or None."""

    forms: list[Form]
    old: Iterator[Tensor] | None = None
    values: list[Tensor] = field(default_factory=list)
    place: int = 0

    def put(self, output: Any, silent: bool) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        self.forms.append((isinstance(output, tuple), tuple(tuple(p.shape) for p in parts)))
        self.values += [] if silent else parts

    def take(self, x: Tensor, silent: bool) -> Any:
        """What the next module gives; a silent one nothing but its shape, like x."""
        several, shapes = self.forms[self.place]
        self.place += 1
        assert self.old is not None
        made = tuple(x.new_zeros(()).expand(shape) if silent else next(self.old) for shape in shapes)
        return made if several else made[0]


class Keeper(nn.Module):
    """Stands in for a module inside a block during one forward, without owning it."""

    inner: nn.Module
    tape: Tape
    silent: bool

    def __init__(self, inner: nn.Module, tape: Tape, silent: bool) -> None:
        super().__init__()
        self.__dict__.update(inner=inner, tape=tape, silent=silent)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.tape.old is not None:
            return self.tape.take(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], self.silent)
        output = self.inner(*args, **kwargs)
        self.tape.put(output, self.silent)
        return output


@contextmanager
def taped(network: Any, lists: tuple[str, ...], forms: list[Form], old: Values | None) -> Iterator[Tape]:
    """The network whose modules are written onto a tape, or are given what was kept. forms: of the last tape, or empty."""
    tape = Tape(forms, None if old is None else iter(old))
    with ExitStack() as stack:
        for block in (block for name in lists for block in network._modules[name]):
            names = [child for child in MODULES if child in block._modules]
            silent = LAST in names
            keepers = {name: Keeper(block.get_submodule(name), tape, silent and name != LAST) for name in names}
            stack.enter_context(exchanged(block, keepers))
        yield tape
