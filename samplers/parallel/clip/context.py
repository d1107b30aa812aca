"""Context parallel: every rank holds a share of the video's tokens, and in attention a share of the heads (Ulysses).

The attention is diffusers', or joint.py's where the prompt's tokens are among the video's; where a network's tokens are
cut and laid together again, its family says (`VideoModel.tokens_at`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....loaders.facts import TokenSplit
from ....loaders.messages import InputError, message
from ....loaders.parts import Args, Argument, Kwargs, Network
from ....loaders.video_model import VideoModel
from ...kernels import processors
from .joint import JointAttention
from .split import Split, gathered, redirected

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
            if places.prompt == "apart":
                stack.enter_context(_attending(network, places.attentions, self._config()))
            else:
                joint = JointAttention(self.rank, self.count, lambda: self.own, places.prompt == "before")
                stack.enter_context(joint.within(network, places.attentions))
            if places.counted is not None:
                stack.enter_context(self._counting(network, model, places.counted))
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
            cut: Kwargs = {k: self._cut(v) for k, v in kwargs.items() if k in places.inputs and v.ndim > 1}
            if kwargs.get(places.positions) is not None:
                cut[places.positions] = tuple(self._cut(x, places.positions_dim) for x in kwargs[places.positions])
            return args, {**kwargs, **cut}

        def cut_positions(module: nn.Module, args: Args, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self.own = output[0].shape[places.positions_dim] // self.count
            return tuple(self._cut(x, places.positions_dim) for x in output)

        def cut_behind_prompt(module: nn.Module, args: Args, output: Tensor) -> Tensor:
            prompt, video = output.tensor_split([args[0].shape[1]], 1)
            self.own = video.shape[1] // self.count
            return torch.cat([prompt, self._cut(video)], 1)

        def cut_volume(module: nn.Module, args: Args, output: Tensor) -> Tensor:
            return self._cut(output.flatten(2), 2)[..., None, None]

        def join(module: nn.Module, args: Args, output: Tensor) -> Tensor:
            return torch.cat(gathered(output, self.count), 1)

        yield network.register_forward_pre_hook(cut_inputs, with_kwargs=True)
        yield network.get_submodule(places.output).register_forward_hook(join)
        cuts: dict[str, Callable[..., object]] = {places.positions: cut_positions}
        cuts |= {places.joint_embedder: cut_behind_prompt} if places.joint_embedder else {}
        cuts |= dict.fromkeys(places.embedders, cut_volume)
        modules = dict(network.named_modules())
        for name in [name for name in cuts if name in modules]:
            yield modules[name].register_forward_hook(cuts[name])

    @contextmanager
    def _counting(self, network: Network, model: VideoModel, place: int) -> Iterator[None]:
        """The blocks, which are told how many of this rank's tokens are among those that are counted from the first on.

        By their `forward`: caches call it by itself."""
        assert model.stacks is not None
        blocks = [block for name in model.stacks.of(network) for block in getattr(network, name)]

        def counting(forward: Callable[..., object]) -> Callable[..., object]:
            return lambda *args: forward(*args[:place], self._among(args[place]), *args[place + 1 :])

        with redirected(blocks, counting):
            yield

    def _among(self, count: int) -> int:
        """How many of the first `count` tokens this rank has."""
        return min(max(count - self.rank * self.own, 0), self.own)

    def _cut(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's share; what is alike for all tokens stays."""
        if x.shape[dim] == 1:
            return x
        if x.shape[dim] % self.count:
            rule = message("tokens_do_not_divide", tokens=x.shape[dim])
            raise InputError("workers", self.count, rule, message("other_size_or_mode"))
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
