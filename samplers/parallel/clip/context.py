"""Context parallel: every rank holds a share of the video's tokens, and in attention a share of the heads (Ulysses).

The attention is diffusers'; where a network's tokens are cut and laid together again, its family says
(`VideoModel.tokens_at`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....loaders.facts import TokenSplit
from ....loaders.parts import Args, Argument, Kwargs, Network
from ....loaders.video_model import VideoModel
from ...kernels import processors
from .split import Split, gathered

if TYPE_CHECKING:
    from diffusers.models._modeling_parallel import ParallelConfig
    from torch.distributed.device_mesh import DeviceMesh


class ContextSplit(Split):
    """The tokens of one clip over all ranks. own: how many of them this rank has, in the forward pass under way."""

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self._device = rank, count, device
        self._mesh: DeviceMesh | None = None
        self.own = 0

    @contextmanager
    def spread(self, network: Network, model: VideoModel) -> Iterator[None]:
        places = model.tokens_at
        assert places is not None
        with ExitStack() as stack:
            stack.enter_context(_attending(network, places.attentions, self._config()))
            for handle in self._hooks(network, places):
                stack.callback(handle.remove)
            yield

    def all_tokens(self, rows: Tensor) -> Tensor:
        if rows.ndim < 2 or rows.shape[1] != self.own:
            return rows
        return torch.cat(gathered(rows, self.count), 1)

    def _config(self) -> ParallelConfig:
        """diffusers' config, told where it is by hand: its own look-up asks for a card."""
        from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
        from torch.distributed.device_mesh import init_device_mesh

        context = ContextParallelConfig(ulysses_degree=self.count)
        if self._mesh is None:
            self._mesh = init_device_mesh(self._device.type, (1, self.count), mesh_dim_names=("ring", "ulysses"))
        config = ParallelConfig(context_parallel_config=context)
        config.setup(self.rank, self.count, self._device, mesh=self._mesh)
        return config

    def _hooks(self, network: Network, places: TokenSplit) -> Iterator[RemovableHandle]:
        def cut_inputs(module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
            return args, {k: self._cut(v) if k in places.inputs and v.ndim > 1 else v for k, v in kwargs.items()}

        def cut_positions(module: nn.Module, args: Args, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self.own = output[0].shape[1] // self.count
            return tuple(map(self._cut, output))

        def cut_volume(module: nn.Module, args: Args, output: Tensor) -> Tensor:
            return self._cut(output.flatten(2), 2)[..., None, None]

        def join(module: nn.Module, args: Args, output: Tensor) -> Tensor:
            return torch.cat(gathered(output, self.count), 1)

        yield network.register_forward_pre_hook(cut_inputs, with_kwargs=True)
        yield network.get_submodule(places.positions).register_forward_hook(cut_positions)
        yield network.get_submodule(places.output).register_forward_hook(join)
        for name in places.embedders:
            if hasattr(network, name):
                yield network.get_submodule(name).register_forward_hook(cut_volume)

    def _cut(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's share; what is alike for all tokens stays."""
        if x.shape[dim] == 1:
            return x
        if x.shape[dim] % self.count:
            raise ValueError(f"{x.shape[dim]} tokens do not divide among {self.count} ranks")
        return x.chunk(self.count, dim)[self.rank].contiguous()


@contextmanager
def _attending(network: Network, pattern: str, config: ParallelConfig) -> Iterator[None]:
    """The attentions whose names fit, with their tokens on all ranks."""
    sharing: list[Argument] = [*processors(network, pattern)]
    for processor in sharing:
        processor._parallel_config = config
    try:
        yield
    finally:
        for processor in sharing:
            processor._parallel_config = None
