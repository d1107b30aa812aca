"""Whether a clip can be shared out as a model says, told before anything is loaded."""

from __future__ import annotations

import torch

from ....loaders.messages import InputError, about, either, message, series
from ....loaders.request import MODES, MOST_WORKERS, Parallel, Request
from ....loaders.spec import titles_with
from ....loaders.video_model import VideoModel
from ...caches.mechanisms.external import External
from ...caches.policy import Policy
from ...guidance import forwards
from ...kernels import choice, kernel_of
from ...solvers import prediction_levels

SHARING = ("", "native", "_native_cudnn", "_native_flash", "flash", "sage")  # diffusers' kernels that share heads out
AMONG_PROMPTS = ("", "native", "_native_cudnn", "_native_efficient", "_native_flash")  # PyTorch's own: see joint.py
PAIRS = ("branches", "experts")  # modes that have work for two, or that for most guidance
OF_CPU = 2  # processes of a machine without cards, where nobody says how many
BACKENDS = {  # by type of device; what is small goes by the CPU
    "cpu": "gloo",
    "cuda": "cpu:gloo,cuda:nccl",
    "npu": "cpu:gloo,npu:hccl",
    "xpu": "cpu:gloo,xpu:xccl",
}


def workers_of(model: VideoModel) -> int:
    """How many ranks a model's clips are shared out among."""
    parallel = model.parallel
    assert parallel is not None
    if parallel.workers or parallel.mode in PAIRS:
        return parallel.workers or 2
    kind = kind_of(model)
    return OF_CPU if kind == "cpu" else cards_of(kind)


def kind_of(model: VideoModel) -> str:
    """The type of the devices that a model's network computes on."""
    return model.memory.device("transformer").type


def cards_of(kind: str) -> int:
    """How many devices of a type this machine has."""
    return int(torch.get_device_module(kind).device_count())


def check_parallel(parallel: Parallel) -> None:
    """Raise InputError for a choice that no model can be spread by."""
    if parallel.mode not in MODES:
        raise InputError("mode", parallel.mode, message("no_parallel_mode"), message("use_one_of", names=series(MODES)))
    least = 2 if parallel.splits_clip else 1
    if parallel.workers and not least <= parallel.workers <= MOST_WORKERS:
        rule = message("workers_range", mode=parallel.mode, least=least, most=MOST_WORKERS)
        raise InputError("workers", parallel.workers, rule, message("use_workers", count=least))
    if parallel.mode == "experts" and parallel.workers not in (0, 2):
        raise InputError("workers", parallel.workers, message("experts_are_two"), message("use_workers", count=2))


def check_split(model: VideoModel, request: Request, policy: Policy | None) -> None:
    """Raise InputError where the clip of a complete request cannot be shared out as the model says."""
    parallel = model.parallel
    if parallel is None:
        return
    with about(parallel):
        check_parallel(parallel)
        if not parallel.splits_clip:
            return
        count = workers_of(model)
        _check_place(model, parallel, count)
        {"context": _check_context, "branches": _check_branches, "experts": _check_experts}[parallel.mode](
            model, request, count
        )
        _check_cache(model, request, policy, count)


def _check_place(model: VideoModel, parallel: Parallel, count: int) -> None:
    if parallel.address:
        raise InputError("address", parallel.address, message("clip_on_this_machine"), message("leave_address_empty"))
    if most := getattr(model.memory, "most_on_card", 0):
        gigabytes = f"{most / 2**30:g}"
        raise InputError("most_on_card", gigabytes, message("ranks_hold_all"), message("no_most_on_card"))
    kind = kind_of(model)
    if kind == "cpu":
        return
    if kind not in BACKENDS:
        kinds = either(*(name for name in BACKENDS if name != "cpu"))
        raise InputError(
            "mode", parallel.mode, message("ranks_kinds", kind=kind, kinds=kinds), message("use_jobs_mode")
        )
    cards = cards_of(kind)
    if cards < max(count, 2):
        rule = message("fewer_cards", cards=cards)
        raise InputError("workers", count, rule, message("use_jobs_mode") if cards < 2 else _use((cards,)))


def _check_context(model: VideoModel, request: Request, count: int) -> None:
    """Heads and tokens have to divide; the kernel has to share out heads."""
    places, title = model.tokens_at, f"{model.title} ({model.variant})"
    if places is None:
        rule = message("tokens_not_split", title=title, models=either(*titles_with("split_tokens")))
        raise InputError("mode", "context", rule, message("use_branches_or_jobs"))
    heads, tokens = int(model.parts["transformer"].config[places.heads]), model.positions(request)
    fits = [n for n in range(2, heads + 1) if heads % n == 0 and tokens % n == 0]
    if count not in fits:
        rule = message("heads_and_tokens", title=title, heads=heads, tokens=tokens)
        raise InputError("workers", count, rule, _use(fits) if fits else message("other_size_or_mode"))
    name, _, _ = choice(model)
    if kernel_of(model).identity not in (SHARING if places.prompt == "apart" else AMONG_PROMPTS):
        raise InputError("attention", name, message("kernel_keeps_heads"), message("choose_auto"))


def _check_branches(model: VideoModel, request: Request, count: int) -> None:
    """There is no use for more ranks than forward passes."""
    most = max(_passes(model, request), default=1)
    if most == 1:
        raise InputError("mode", "branches", message("one_branch"), message("guide_or_other_mode"))
    if count > most:
        raise InputError("workers", count, message("fewer_branches", most=most), _use(range(2, most + 1)))


def _passes(model: VideoModel, request: Request) -> list[int]:
    """Forward passes of each prediction."""
    return forwards(model, request, prediction_levels(model, request))


def _check_experts(model: VideoModel, request: Request, count: int) -> None:
    if getattr(model.facts, "boundary", None) is None:
        rule = message("one_expert", variant=model.variant)
        raise InputError("mode", "experts", rule, message("use_branches_or_jobs"))


def _check_cache(model: VideoModel, request: Request, policy: Policy | None, count: int) -> None:
    """Caches of other libraries decide by what they see, which on each rank is something else; and those that decide
    for all passes of a step at once need one on each rank, or on one alone."""
    assert model.parallel is not None
    mode = model.parallel.mode
    if policy is None or mode == "experts":
        return
    if issubclass(policy.mechanism, External):
        raise InputError("policy", policy.title, message("cache_decides_apart"), message("choose_own_cache"))
    if policy.decides_once and mode == "branches" and any(1 < n < count for n in _passes(model, request)):
        rule = message("cache_decides_once", cache=policy.title)
        raise InputError("workers", count, rule, message("use_workers", count=2))


def _use(counts: range | list[int] | tuple[int, ...]) -> str:
    """To use one of these numbers of workers."""
    several = either(*counts)
    return message("use_workers", count=counts[0]) if len(counts) == 1 else message("use_workers_of", counts=several)
