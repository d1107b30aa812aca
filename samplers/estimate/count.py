"""What a run will need, before it is queued: memory by phase, operations, time and cost. From headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import nn

from ...loaders.common.peaks import encode_bytes, weight_bytes
from ...loaders.devices import with_kernels
from ...loaders.messages import message, sentences
from ...loaders.parts import Part
from ...loaders.request import Request
from ...loaders.vae.tiles import Tiling
from ...loaders.video_model import VideoModel
from ...loaders.weights.stored import is_small
from ..caches.runner import planned
from ..guidance import forwards, guided_model
from ..plan import SamplingPlan, plan
from ..room import cache_bytes, step_bytes
from ..solvers import noise_schedule, prediction_levels
from .cards import CONTEXT, GIB, LEAST, PCIE, RESERVED, SIZES, Card, class_of, find_card, seconds
from .flops import Flops, decode_flops, encoder_flops, forward_flops, network_part

FITS, MOVES, FAILS = message("fits"), message("fits_moved"), message("fits_not")
Span = tuple[float, float]  # the least and the most


@dataclass(frozen=True)
class Machine:
    """Where a run would go. name: of the device; room: bytes that a part may take there, weights included; ram: bytes
    of RAM for weights that wait, those that wait already included; cpu: whether the device is the processor itself;
    limit: most bytes of a part's weights on the card, 0 for no limit; kind: the card's type as PyTorch names it."""

    name: str
    room: float
    ram: float
    cpu: bool = False
    limit: float = 0.0
    kind: str = "cuda"


@dataclass(frozen=True)
class Need:
    """What one part takes in one phase, in bytes: its weights, the working memory beside them, and its largest layer,
    which must be on the card while it computes. earlier: the weights of what was used before, which wait in RAM."""

    phase: str
    part: str
    weights: int
    working: int
    layer: int
    earlier: int = 0

    def resident(self, machine: Machine) -> int:
        """How much of the weights stays on the device, as ComfyUI's load_models_gpu decides."""
        if machine.cpu:
            return self.weights
        most = min(self.weights, machine.limit or self.weights)
        beside = max(with_kernels(self.working, machine.kind), LEAST) + RESERVED
        return int(min(most, max(machine.room - beside, 0)))

    def verdict(self, machine: Machine) -> str:
        """Whether it fits, in one of the three words above."""
        if self.least(machine) > machine.room:
            return FAILS
        return FITS if self.resident(machine) >= self.weights else MOVES

    def least(self, machine: Machine) -> int:
        """The room without which it cannot run."""
        if machine.cpu:
            return self.working + self.earlier + self.weights
        return with_kernels(self.working, machine.kind) + min(self.layer, self.weights)


@dataclass(frozen=True)
class Steps:
    """How often the network runs. computed: steps, of `total`; branches: predictions of one branch; passes: forwards,
    of which each goes through all weights once; parts: steps of each expert."""

    total: int
    computed: tuple[int, int]
    branches: Span
    passes: Span
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Estimate:
    """All of it. needs: one for each part and phase; tiling: of the decode; ram: bytes of the weights of all parts;
    forward: operations of one branch of one step; rates: measured operations a second (products, attention)."""

    model: VideoModel
    request: Request
    machine: Machine
    needs: tuple[Need, ...]
    tiling: Tiling
    cache: int
    ram: int
    steps: Steps
    forward: Flops
    encode: Flops
    decode: Flops
    fits: tuple[tuple[Request, dict[int, str]], ...]
    notes: tuple[str, ...] = ()
    price: float = 0.0
    rates: tuple[float, float] | None = None
    times: tuple[Time, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(_times(self)))

    @property
    def operations(self) -> Span:
        """Of the whole run."""
        beside = self.encode.total + self.decode.total
        return self.forward.total * self.steps.branches[0] + beside, self.forward.total * self.steps.branches[
            1
        ] + beside

    @property
    def verdict(self) -> str:
        """Of the machine at hand: the worst of all phases."""
        return worst(need.verdict(self.machine) for need in self.needs)


@dataclass(frozen=True)
class Time:
    """How long a run takes on a class of cards, and what that costs; None where it does not fit. memory: GiB of the
    class, 0 for this machine; verdict: whether it fits there."""

    where: str
    memory: int
    seconds: Span | None
    cost: Span | None
    basis: str
    verdict: str


def worst(verdicts: Iterator[str]) -> str:
    """The worst of several verdicts."""
    order = (FITS, MOVES, FAILS)
    return max(verdicts, key=order.index)


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class _Imagined:
    """The memory of a card that is only asked about. bytes: its room; at: where the VAE computes."""

    bytes: float
    at: torch.device

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[nn.Module]:
        raise AssertionError("an estimate loads nothing")
        yield

    def device(self, part: str) -> torch.device:
        return self.at

    def room(self, part: str) -> int:
        return int(self.bytes)


def reading_needs(model: VideoModel, peaks: Mapping[str, int] | None = None) -> tuple[Need, ...]:
    """What the encoders take. peaks: of their working memory, where it is known or makes no difference."""
    working_of = encode_bytes(model) if peaks is None else peaks
    return tuple(_need(model, "encode", part, working) for part, working in working_of.items())


def sampling_needs(model: VideoModel, working: int) -> tuple[Need, ...]:
    """What the networks take in a run whose steps need `working` bytes beside the weights."""
    return tuple(_need(model, "sample", part, working) for part in _networks(model))


def with_decode(
    model: VideoModel, request: Request, needs: tuple[Need, ...], room: float, device: torch.device | None = None
) -> tuple[tuple[Need, ...], Tiling]:
    """(the needs and that of the decode, its tiles) for a complete request where there is this room.

    device: where the VAE computes; None: where the model's does."""
    sized = replace(model, memory=_Imagined(room, device or model.memory.device("vae")))
    _, _, _, height, width = model.facts.latent_shape(request.width, request.height, request.frames)
    needs = (*needs, _need(model, "decode", "vae", sized.decode_bytes(request)))
    earlier = accumulate((need.weights for need in needs), initial=0)
    ordered = tuple(replace(need, earlier=before) for need, before in zip(needs, earlier, strict=False))
    return ordered, sized.tiling(height, width)


def _need(model: VideoModel, phase: str, part: str, working: int) -> Need:
    weights = weight_bytes(model, part)
    sizes = [torch.Size(shape).numel() for shape in model.parts[part].tensors.values()]
    return Need(phase, part, weights, working, round(weights * max(sizes, default=0) / max(sum(sizes), 1)))


def _networks(model: VideoModel) -> tuple[str, ...]:
    return tuple(part for part in ("transformer", "transformer_2", "unet") if part in model.parts)


def shortage(model: VideoModel, prepared: SamplingPlan, machine: Machine) -> tuple[str, ...]:
    """What a person should know before a plan is sampled on a machine; mostly nothing."""
    request = prepared.request
    read = reading_needs(model, {part: 0 for part in model.parts if "encoder" in part})  # it is done by then
    needs, _ = with_decode(model, request, (*read, *sampling_needs(model, prepared.room)), machine.room)
    short = [need for need in needs if need.phase != "encode" and need.verdict(machine) == FAILS]
    return tuple(_warning(model, request, need, machine) for need in short)


def _warning(model: VideoModel, request: Request, need: Need, machine: Machine) -> str:
    words = {
        "phase": message("phase_sampling") if need.phase == "sample" else message("phase_decoding"),
        "frames": request.frames,
        "width": request.width,
        "height": request.height,
        "needed": f"{need.least(machine) / GIB:.1f} GB",
        "room": f"{machine.room / GIB:.1f} GB",
        "helps": _helps(model, need, machine),
    }
    return message("machine_short_cpu", **words) if machine.cpu else message("machine_short", **words)


def _helps(model: VideoModel, need: Need, machine: Machine) -> str:
    """What makes this phase smaller, the most helpful first."""
    if need.phase == "decode":
        return message("help_tile")
    cache = message("help_fewer_cache", cache=model.cache.title) if model.cache is not None else None
    smaller = cache or message("help_fewer")
    return sentences(smaller, SMALLER) if machine.cpu and can_shrink(model, need) else smaller


SMALLER = message("help_smaller")


def can_shrink(model: VideoModel, need: Need) -> bool:
    """Whether the Memory node can make these weights smaller: a network's, in more than 8 bits until now."""
    kinds = model.parts[need.part].dtypes.values()
    return need.phase == "sample" and not model.recipe.storage and not any(map(is_small, kinds))


# ---------------------------------------------------------------- computing


def count_steps(model: VideoModel, prepared: SamplingPlan) -> Steps:
    """How often a plan runs the network, under its guidance and its cache."""
    request, policy = prepared.request, prepared.policy
    model = guided_model(model, request)
    parts = expert_steps(model, request)
    total = sum(map(len, parts.values()))
    each = forwards(model, request, prediction_levels(model, request)[:total])
    spans = {
        part: (len(steps), len(steps)) if policy is None else policy.count_computed(part, steps, total)
        for part, steps in parts.items()
    }
    branches = _sum((sum(each[i] for i in steps), spans[part], len(steps)) for part, steps in parts.items())
    whole = model.batched_guidance and model.guidance.method == "cfg"
    return Steps(
        total,
        (sum(s[0] for s in spans.values()), sum(s[1] for s in spans.values())),
        branches,
        tuple(b * total / sum(each) for b in branches) if whole else branches,  # type: ignore[arg-type]
        {part: len(steps) for part, steps in parts.items()},
    )


def _sum(experts: Iterator[tuple[int, tuple[int, int], int]]) -> Span:
    """Branches of all experts: (branches of all steps, (fewest, most) computed steps, steps) of each."""
    runs = list(experts)
    low, high = (sum(branches * computed[i] / max(count, 1) for branches, computed, count in runs) for i in (0, 1))
    return low, high


def expert_steps(model: VideoModel, request: Request) -> dict[str, range]:
    """Which steps each network takes: the high-noise expert those above its boundary, the other one the rest."""
    schedule = noise_schedule(model, request, torch.device("cpu"))
    if getattr(model.facts, "boundary", None) is None:
        return {network_part(model): range(len(schedule))}
    high = model.low_noise_steps(request, schedule).count(False)
    parts = {"transformer": range(high), "transformer_2": range(high, len(schedule))}
    return {part: steps for part, steps in parts.items() if len(steps)}


def _times(estimate: Estimate) -> Iterator[Time]:
    """This machine first, where its rate is known, then each class of cards."""
    name, dtype, asked = estimate.machine.name, estimate.model.recipe.dtype, on_cards(estimate.model, estimate.machine)
    here = tuple(need for need in estimate.needs if need.phase == "sample")
    moved = _moved(here, estimate.machine, estimate.steps)
    known = find_card(name)
    if estimate.rates is not None:
        yield _time(estimate, name, 0, _measured(estimate, moved), "measured")
    elif known is not None:
        span = seconds(estimate.operations, moved, known, known, dtype)
        yield _time(estimate, name, 0, span, "published")
    there = sampling_needs(asked, _fused_bytes(asked, estimate.request))
    for memory in SIZES:
        group = class_of(memory)
        moved = _moved(there, card_of(memory, estimate.machine.limit), estimate.steps)
        span = seconds(estimate.operations, moved, group[0], group[-1], asked.recipe.dtype)
        yield _time(estimate, _named(group), memory, span, "published")


def _moved(needs: tuple[Need, ...], machine: Machine, steps: Steps) -> float:
    """Bytes of the network's weights that come from RAM in a whole run, at most."""
    return max(need.weights - need.resident(machine) for need in needs) * steps.passes[1]


def _time(estimate: Estimate, where: str, memory: int, span: Span, basis: str) -> Time:
    verdict = estimate.fits[0][1][memory] if memory else estimate.verdict
    if verdict == FAILS:
        return Time(where, memory, None, None, basis, verdict)
    cost = (span[0] / 3600 * estimate.price, span[1] / 3600 * estimate.price) if estimate.price else None
    return Time(where, memory, span, cost, basis, verdict)


def _named(group: tuple[Card, ...]) -> str:
    return " to ".join(dict.fromkeys((group[0].name, group[-1].name)))


# of the time of products and attention, at most, with the rest of a forward: norms, gates, rotary positions. Assumed
BESIDE = 1.5


def _measured(estimate: Estimate, moved: float) -> Span:
    """From rates of products and of attention that were measured on this machine."""
    assert estimate.rates is not None
    products, attention = estimate.rates
    beside = estimate.encode + estimate.decode

    def computing(branches: float) -> float:
        attended = estimate.forward.attention * branches + beside.attention
        whole = estimate.forward.total * branches + beside.total
        return (whole - attended) / products + attended / attention

    least, most = (computing(branches) for branches in estimate.steps.branches)
    return max(least, moved / PCIE[0]), most * BESIDE + moved / PCIE[1]


# ---------------------------------------------------------------- all together


def card_of(memory: int, limit: float = 0.0) -> Machine:
    """A card of so many GiB with nothing else on it, beside as much RAM as it takes. limit: as a Machine's."""
    return Machine(f"{memory} GB", memory * GIB - CONTEXT, float("inf"), limit=limit)


def on_cards(model: VideoModel, machine: Machine) -> VideoModel:
    """The model as cards load it: a machine without a card chooses float32, where they choose bfloat16."""
    if not machine.cpu or model.recipe.dtype != "float32":
        return model
    return replace(model, recipe=replace(model.recipe, dtype="bfloat16"))


def usual_sizes(model: VideoModel, request: Request) -> tuple[Request, ...]:
    """The request, and the model's presets where they differ in size or length, the largest first."""
    presets = model.facts.presets
    requests = {
        (r.width, r.height, r.frames): r
        for r in (request, *(replace(model.complete(Request(preset=p)), keyframes=request.keyframes) for p in presets))
    }
    first, *others = requests.values()
    return first, *sorted(others, key=lambda r: -r.width * r.height * r.frames)


Fits = tuple[tuple[Request, dict[int, str]], ...]


def fit_table(model: VideoModel, request: Request, reading: tuple[Need, ...], limit: float = 0.0) -> Fits:
    """For each usual size, whether it fits on a card of each class, whatever the machine is that asks.

    Cards are as NVIDIA's, whose attention stores no scores, and the model has its own precision. limit: as a Machine's.
    """
    rows = []
    for sized in usual_sizes(model, request):
        before, verdicts = (*reading, *sampling_needs(model, _fused_bytes(model, sized))), {}
        for memory in SIZES:
            machine = card_of(memory, limit)
            needs, _ = with_decode(model, sized, before, machine.room, torch.device("cuda"))
            verdicts[memory] = worst(need.verdict(machine) for need in needs)
        rows.append((sized, verdicts))
    return tuple(rows)


def _fused_bytes(model: VideoModel, request: Request) -> int:
    """`step_bytes` of a complete request on a card, whose attention holds no scores."""
    policy, _ = planned(model, request)
    return step_bytes(model, request, policy, fused=True)


def outlined(model: VideoModel, request: Request) -> SamplingPlan:
    """The plan of a request. Without keyframes none is asked for, though a sampler of this model may need one."""
    return plan(model, request, outline=not request.keyframes)


def estimate(
    model: VideoModel, request: Request, machine: Machine, price: float = 0.0, rates: tuple[float, float] | None = None
) -> Estimate:
    """What a request needs on a machine; raises InputError for one that this model cannot run. No weights are read."""
    prepared = outlined(model, request)
    request, policy = prepared.request, prepared.policy
    model = guided_model(model, request)
    reading = reading_needs(model)
    needs, tiling = with_decode(model, request, (*reading, *sampling_needs(model, prepared.room)), machine.room)
    asked = on_cards(model, machine)
    fits = fit_table(asked, request, reading if asked is model else reading_needs(asked), machine.limit)
    return Estimate(
        model,
        request,
        machine,
        needs,
        tiling,
        cache_bytes(model, request, policy),
        sum(weight_bytes(model, part) for part in model.parts),
        count_steps(model, prepared),
        forward_flops(model, request),
        encoder_flops(model),
        decode_flops(model, request, tiling),
        fits,
        prepared.notes,
        price,
        rates,
    )
