"""The contract of all mechanisms: given a forward pass and a decision, compute and store, or reuse what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ....loaders.common.peaks import branches, network_part
from ....loaders.denoiser import Denoiser
from ....loaders.facts import Stacks
from ....loaders.parts import Inputs, Network
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...parallel.clip.split import ALONE, Split
from ..state import BranchState, StepContext, Values


@dataclass(kw_only=True)
class Cacheable:
    """Something that is computed in each step, or made of what was stored.

    decide: (its signal, or None) -> whether it is reused; to be asked once.
    store: (values, what the policy may look at beside them, whether they are kept) after it was computed.
    forecast: what the stored values would be at this step.
    order: of the forecast.
    """

    context: StepContext
    state: BranchState
    order: int
    decide: Callable[[Tensor | None], bool]
    store: Callable[..., None]
    forecast: Callable[[], Values]


@dataclass(kw_only=True)
class Forward(Cacheable):
    """One forward pass of a network in one branch.

    stacks: where its blocks are; None: a UNet.
    signal, always_computed: the policy's.
    record: (whether it was computed), in place of `decide` where another library decides.
    split: over ranks.
    """

    network: Network
    inputs: Inputs
    stacks: Stacks | None
    signal: str
    always_computed: int
    record: Callable[[bool], object]
    split: Split = ALONE

    def compute(self) -> Tensor:
        """The network's output, with all of it computed."""
        output: Tensor = self.network(**self.inputs, return_dict=False)[0]
        return output


@dataclass(kw_only=True)
class Prediction(Cacheable):
    """A guided prediction for some latents. compute: makes it, by one forward pass or several."""

    denoiser: Denoiser
    latents: Tensor
    compute: Callable[[], Tensor]


class Mechanism:
    """What is stored of a forward pass, or of a whole step, and how it is put back; a new one for each of them.

    holds_block_inputs: whether what goes into the blocks stays in memory until the pass ends.
    compilable: whether it works on compiled blocks.
    signals: those that it can measure for a policy.
    of_guided: whether it looks at guided predictions alone, of however many passes and windows they are made.
    """

    holds_block_inputs: ClassVar[bool] = False
    compilable: ClassVar[bool] = True
    signals: ClassVar[tuple[str, ...]] = ()
    of_guided: ClassVar[bool] = False

    @classmethod
    def on_unet(cls) -> type[Mechanism]:
        """The mechanism that does the same on a UNet."""
        return cls

    def predict(self, prediction: Prediction) -> Tensor:
        """The guided prediction of a step, in the network's layout."""
        return prediction.compute()

    def forward(self, forward: Forward) -> Tensor:
        """The network's output of a forward pass."""
        return forward.compute()

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        """Bytes that all branches of a complete request store. values, signals: how many for each of them."""
        tokens = model.facts.tokens(request.width, request.height, request.frames) + model.beside(request)
        return (values + signals) * tokens * model.facts.hidden_size * item_bytes(model) * branches(model, request)


def item_bytes(model: VideoModel) -> int:
    """Bytes of one number in the network's precision."""
    size: int = getattr(torch, model.recipe.dtype).itemsize
    return size


def latent_bytes(model: VideoModel, request: Request, beside: int | None = None) -> int:
    """Bytes of the float32 latents of a complete request, in whole patches of time. beside: tokens that are not of the
    video itself; None: those of the network."""
    _, channels, time, height, width = model.facts.latent_shape(request.width, request.height, request.frames)
    patch = model.facts.time_patch
    more = (model.beside(request) if beside is None else beside) / model.facts.tokens(
        request.width, request.height, request.frames
    )
    return math.ceil(channels * -(-time // patch) * patch * height * width * 4 * (1 + more))


def input_bytes(model: VideoModel, request: Request) -> int:
    """Bytes of what a complete request's network is given: latents, with pictures and masks in further channels."""
    channels = model.facts.latent_shape(request.width, request.height, request.frames)[1]
    given = network_part(model).config.get("in_channels", channels)
    return math.ceil(latent_bytes(model, request) * max(given / channels, 1.0))


@contextmanager
def exchanged(module: nn.Module, children: Mapping[str, nn.Module]) -> Iterator[None]:
    """The module with other children for the length of the block."""
    old = {name: module._modules[name] for name in children}
    module._modules.update(children)
    try:
        yield
    finally:
        module._modules.update(old)
