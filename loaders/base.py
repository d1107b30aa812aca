"""What every model holds: its facts, its parts, and the options that nodes have given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .facts import Facts
from .messages import Origin
from .parts import Memory, Part, Recipe
from .request import Decoding, Guidance, Parallel


@dataclass(frozen=True)
class ModelBase:
    """The fields of a VideoModel. Shared by every consumer and never changed in place."""

    variant: str
    facts: Facts
    parts: Mapping[str, Part]
    recipe: Recipe
    memory: Memory
    guidance: Guidance = field(default_factory=Guidance)
    loras: tuple[Any, ...] = ()  # of lora.LoRA
    speed: Any = None  # a samplers.speed.Speed
    host_attention: str = ""  # the kernel that the host computes attention with, a key of samplers.kernels.KERNELS
    cache: Any = None  # a caches.policy.Policy; None: every step is computed
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this family knows, as SVD's motion bucket
    decoding: Decoding = field(default_factory=Decoding)
    parallel: Parallel | None = None  # where its work is done; None: in this process
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)  # on how its files were read
    node: Origin | None = field(default=None, compare=False, repr=False)

    def optional_fields(self) -> list[str]:
        """The names of all fields that have a default: what nodes can set."""
        return [each.name for each in fields(self) if (each.default, each.default_factory) != (MISSING, MISSING)]

    @property
    def does_jobs(self) -> bool:
        """Whether each of its samplings is done by a worker."""
        return self.parallel is not None and not self.parallel.splits_clip

    @property
    def trims_text(self) -> bool:
        """Whether this model's Speed cuts off the rows behind a prompt's end."""
        return bool(getattr(self.speed, "trim_text", False))
