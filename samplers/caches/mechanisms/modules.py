"""Each attention and each MLP of each block keeps its output, its gates are computed again (FORA as published)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from ....loaders.parts import Argument, Network
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..state import Values
from .base import Forward, Mechanism, exchanged

# children of a block whose outputs are stored one by one (src/models.py of prathebaselva/FORA: attention and MLP,
# before their gates; for blocks of two streams as Shenyi-Z/TaylorSeer does it)
MODULES = ("attn", "attn1", "attn2", "ff", "ffn", "ff_context", "proj_mlp", "proj_out")
LAST = "proj_out"  # where a block ends in one layer, what goes into it need not be stored
Form = tuple[bool, tuple[tuple[int, ...], ...]]  # whether a module gives several tensors, and their shapes
Output = Tensor | tuple[Tensor, ...]  # of a module


class Modules(Mechanism):
    """Stores the outputs of all attentions and MLPs; modules are skipped one by one, their gates are not."""

    compilable = False

    def forward(self, forward: Forward) -> Tensor:
        assert forward.stacks is not None
        state = forward.state
        lists = forward.stacks.of(forward.network)
        if forward.decide(None):
            with recorded(forward.network, lists, state.memory["forms"], forward.forecast()):
                return forward.compute()
        # what the new values will push out makes room for them
        state.history = state.history[max(len(state.history) - forward.order, 0) :]
        with recorded(forward.network, lists, [], None) as recorder:
            output = forward.compute()
        state.memory["forms"] = recorder.forms
        forward.store(tuple(recorder.values), {})
        return output

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        return int(super().stored_bytes(model, request, values, signals) * module_outputs(model, request))


def module_outputs(model: VideoModel, request: Request) -> float:
    """How many times the video's hidden states all attentions and MLPs of a network give; in blocks of two streams, of
    the text's tokens too."""
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    text = model.facts.prompt_tokens if model.stacks and model.stacks.pairs else 0
    return model.facts.cached_module_outputs * (tokens + text) / tokens


@dataclass
class OutputRecorder:
    """The outputs of a network's modules, in the order in which they run. old: stored values to play back, or None."""

    forms: list[Form]
    old: Iterator[Tensor] | None = None
    values: list[Tensor] = field(default_factory=list)
    place: int = 0

    def put(self, output: Output, silent: bool) -> None:
        """Record what a module gives; of a silent one its shape alone."""
        parts = output if isinstance(output, tuple) else (output,)
        self.forms.append((isinstance(output, tuple), tuple(tuple(part.shape) for part in parts)))
        self.values += [] if silent else parts

    def take(self, x: Tensor, silent: bool) -> Output:
        """What the next module gives; a silent one nothing but its shape, like x."""
        several, shapes = self.forms[self.place]
        self.place += 1
        assert self.old is not None
        output = tuple(x.new_zeros(()).expand(shape) if silent else next(self.old) for shape in shapes)
        return output if several else output[0]


class CachedModule(nn.Module):
    """Stands in for a module inside a block during one forward pass, without owning it."""

    inner: nn.Module
    recorder: OutputRecorder
    silent: bool

    def __init__(self, inner: nn.Module, recorder: OutputRecorder, silent: bool) -> None:
        super().__init__()
        self.__dict__.update(inner=inner, recorder=recorder, silent=silent)

    def forward(self, *args: Argument, **kwargs: Argument) -> Output:
        if self.recorder.old is not None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            return self.recorder.take(hidden, self.silent)
        output = self.inner(*args, **kwargs)
        self.recorder.put(output, self.silent)
        return output


@contextmanager
def recorded(
    network: Network, lists: tuple[str, ...], forms: list[Form], old: Values | None
) -> Iterator[OutputRecorder]:
    """The network whose modules are recorded, or play back old values. forms: of the last recording, or empty."""
    recorder = OutputRecorder(forms, None if old is None else iter(old))
    with ExitStack() as stack:
        for block in (block for name in lists for block in network._modules[name]):
            names = [child for child in MODULES if child in block._modules]
            silent = LAST in names
            children = {
                name: CachedModule(block.get_submodule(name), recorder, silent and name != LAST) for name in names
            }
            stack.enter_context(exchanged(block, children))
        yield recorder
