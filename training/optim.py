"""Seeded, resumable data-parallel training on CPU cores or one GPU, shared by all stages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """This process's number among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


class Trainer:
    """Muon on the matrices that `matrices` names, AdamW on the rest, an average of the weights, and a checkpoint.

    Every random draw of a step comes from a generator seeded with (seed, step, rank): a resumed run sees the same
    data as an uninterrupted one. Muon (https://kellerjordan.github.io/posts/muon/) is torch.optim.Muon on 2-D views.
    """

    def __init__(
        self,
        net: nn.Module,
        matrices: Callable[[str, Tensor], bool],
        file: Path,
        seed: int,
        groups: dict[str, float] | None = None,
        averaging: float = 0.995,
    ) -> None:
        self.net, self.file, self.seed, self.averaging = net, file, seed, averaging
        self.parallel = dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if self.parallel else (0, 1)
        self.named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        self.views = [(p, nn.Parameter(p.data.view(p.shape[0], -1))) for n, p in self.named if matrices(n, p)]
        chosen = {id(p) for p, _ in self.views}
        scales = groups or {}
        rest = [
            dict(params=[p], scale=next((s for k, s in scales.items() if n.startswith(k)), 1.0))
            for n, p in self.named
            if id(p) not in chosen
        ]
        self.adam = torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
        views = [v for _, v in self.views] or [nn.Parameter(torch.zeros(1, 1))]  # an optimiser must have something
        self.muon = torch.optim.Muon(views, lr=1.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        self.average = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self.step = 0
        if file.exists():
            self._restore(torch.load(file, weights_only=True))

    def _restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.average, self.step = state["average"], state["step"]
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])

    def save(self) -> None:
        if self.rank == 0:
            part = self.file.with_suffix(".part")
            torch.save(
                {
                    "net": self.net.state_dict(),
                    "average": self.average,
                    "step": self.step,
                    "adam": self.adam.state_dict(),
                    "muon": self.muon.state_dict(),
                },
                part,
            )
            part.replace(self.file)

    def steps(self, total: int, every: int = 200) -> Iterator[tuple[int, random.Random, torch.Generator]]:
        """Yield (step, random, generator) up to `total`, saving on the way and at the end."""
        while self.step < total:
            key = (self.seed * 1_000_003 + self.step) * 64 + self.rank
            yield self.step, random.Random(key), torch.Generator().manual_seed(key)
            self.step += 1
            if self.step % every == 0 or self.step == total:
                self.save()

    def update(self, loss: Tensor, lr: float, muon_scale: float) -> float:
        """One optimiser step on the mean gradient of all ranks; returns the mean loss."""
        loss.backward()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for _, p in self.named]
        mean = loss.detach()
        if self.parallel:
            flat = torch.cat([g.flatten() for g in grads] + [mean.view(1)])
            dist.all_reduce(flat)
            pieces = (flat / self.world).split([g.numel() for g in grads] + [1])
            grads, mean = [p.view_as(g) for p, g in zip(pieces, grads, strict=False)], pieces[-1][0]
        for (_, p), g in zip(self.named, grads, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_([p for _, p in self.named], 1.0)
        for p, view in self.views:
            view.grad = None if p.grad is None else p.grad.view_as(view)
        for group in self.adam.param_groups:
            group["lr"] = lr * group["scale"]
        self.muon.param_groups[0]["lr"] = lr * muon_scale
        self.adam.step()
        self.muon.step()
        self.net.zero_grad(set_to_none=True)
        self._average()
        return float(mean)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.averaging, (1 + self.step) / (20 + self.step))
        for key, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)


def slope(step: int, total: int, warm: int, decay_from: float) -> float:
    """Learning-rate factor: linear warm-up, flat, then linear to 2% of the peak."""
    done = step / total
    return min(1.0, (step + 1) / warm) * (1.0 if done < decay_from else max(0.02, (1 - done) / (1 - decay_from)))


class Log:
    """Prints the mean of the last values now and then, from rank 0."""

    def __init__(self, title: str, rank: int, every: int = 50) -> None:
        self.title, self.rank, self.every = title, rank, every
        self.values: list[float] = []
        self.begin = monotonic()

    def add(self, step: int, value: float) -> None:
        self.values.append(value)
        if self.rank == 0 and (step + 1) % self.every == 0:
            recent = self.values[-self.every :]
            seconds = monotonic() - self.begin
            print(f"{self.title} {step + 1}: {sum(recent) / len(recent):.4f} after {seconds:.0f} s", flush=True)
