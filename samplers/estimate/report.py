"""An estimate as tables for people (Markdown) and as numbers for programs (JSON)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from ...loaders.messages import between, message
from .cards import GIB, in_words, number, published, source, utilisation
from .count import BESIDE, FAILS, FITS, MOVES, SMALLER, Estimate, Need, Span, Time, can_shrink, on_cards

PHASES = {"encode": message("phase_read_prompt"), "sample": message("phase_sample"), "decode": message("phase_decode")}
VERSION = 2  # of the JSON


def _begun(verdict: str) -> str:
    """A verdict as the beginning of a sentence."""
    words: dict[str, str] = {
        FITS: message("fits_begun"),
        MOVES: message("fits_moved_begun"),
        FAILS: message("fits_not_begun"),
    }
    return words[verdict]


def _reading(parts: Iterable[str]) -> str:
    """What encoders do: only the picture is read where there is no encoder of text."""
    return message("phase_read_picture") if {*parts} == {"image_encoder"} else PHASES["encode"]


def _phase_name(need: Need) -> str:
    return _reading((need.part,)) if need.phase == "encode" else PHASES[need.phase]


def size(count: float) -> str:
    """Bytes in GB (of 2^30), with what digits they can mean."""
    return (
        f"{count / GIB:.0f} GB"
        if count >= 100 * GIB
        else f"{count / GIB:.1f} GB"
        if count >= GIB / 10
        else f"{count / 2**20:.0f} MB"
    )


def operations(count: float) -> str:
    """Operations in the unit that suits them."""
    unit, value = next((u, v) for u, v in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 0.0)) if count >= v)
    return f"{count / (value or 1e6):.3g} {unit}FLOP"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table in Markdown."""
    head = list(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *map(list, rows))]


# ---------------------------------------------------------------- for people


def markdown(estimate: Estimate) -> str:
    """All of an estimate, as a page."""
    parts = (_title, _memory, _computing, _time, _fits, _basis)
    return "\n\n".join("\n".join(part(estimate)) for part in parts)


def short(estimate: Estimate) -> tuple[str, ...]:
    """What a node shows, the most important first: the verdict, the time by card, then the phases."""
    lines: list[str] = [message("estimate_verdict", verdict=_begun(estimate.verdict), machine=estimate.machine.name)]
    lines += [message("estimate_place", place=_place(time, brief=True), words=_in_row(time)) for time in estimate.times]
    lines += [*_in_other(estimate), *_unknown(estimate), *estimate.notes, *_advice(estimate)]
    lines.append(message("estimate_request_on", request=_request(estimate), machine=_where(estimate)))
    lines += [
        message("estimate_phase", phase=_phase_name(need), part=need.part, need=_need(estimate, need))
        for need in estimate.needs
    ]
    return (*lines, message("estimate_ram", size=size(estimate.ram), steps=_steps(estimate)))


def _in_row(time: Time) -> str:
    """Time, cost and verdict of one row."""
    if not time.seconds:
        return time.verdict
    words = {"time": in_words(time.seconds), "verdict": time.verdict}
    return (
        message("estimate_time_cost", cost=_money(time.cost), **words)
        if time.cost
        else message("estimate_time", **words)
    )


def _in_other(estimate: Estimate) -> list[str]:
    """That the cards compute in another precision than this machine, where they do."""
    here, there = (m.recipe.dtype for m in (estimate.model, on_cards(estimate.model, estimate.machine)))
    return [] if here == there else [message("estimate_precision", here=here, there=there)]


def _request(estimate: Estimate) -> str:
    r, model = estimate.request, estimate.model
    sizes = {"frames": r.frames, "width": r.width, "height": r.height, "steps": r.steps}
    named = {"title": model.title, "variant": model.variant, "dtype": model.recipe.dtype}
    return message("estimate_request", **named, **sizes)


def _where(estimate: Estimate) -> str:
    machine = estimate.machine
    words = {"name": machine.name, "room": size(machine.room)}
    return message("machine_cpu", **words) if machine.cpu else message("machine_card", **words)


def _title(estimate: Estimate) -> Iterator[str]:
    yield f"# {_request(estimate)}"
    yield ""
    yield f"**{_begun(estimate.verdict)}** on {_where(estimate)}."
    yield from (f"- {line}" for line in (*_in_other(estimate), *_advice(estimate), *estimate.notes))


HELPS = {
    "encode": message("advise_encoder"),
    "sample": message("advise_fewer"),
    "decode": message("advise_tile"),
}


def _advice(estimate: Estimate) -> Iterator[str]:
    """What would help where it does not fit, or fits badly."""
    failing = [need for need in estimate.needs if need.verdict(estimate.machine) == FAILS]
    for need in sorted(failing, key=lambda need: -need.least(estimate.machine)):
        yield message(
            "part_does_not_fit", part=need.part, size=size(need.least(estimate.machine)), helps=HELPS[need.phase]
        )
    moving = [need for need in estimate.needs if need.verdict(estimate.machine) == MOVES]
    if moving:
        yield message("weights_layer_by_layer")
    if any(can_shrink(estimate.model, need) for need in moving):
        yield SMALLER
    if not estimate.machine.cpu and estimate.ram > estimate.machine.ram:
        yield message("ram_short", size=size(estimate.ram), ram=size(estimate.machine.ram))


def _need(estimate: Estimate, need: Need) -> str:
    resident = need.resident(estimate.machine)
    sizes = {"weights": size(need.weights), "working": size(need.working), "verdict": need.verdict(estimate.machine)}
    if resident < need.weights:
        return message("estimate_need_moved", moved=size(need.weights - resident), **sizes)
    return message("estimate_need", **sizes)


def _memory(estimate: Estimate) -> Iterator[str]:
    machine = estimate.machine
    yield "## Memory"
    yield ""
    head = ("Phase", "Part", "Weights", "Stay on the device", "Wait in RAM", "Working memory", "")
    yield from table(
        head,
        (
            (
                _phase_name(n),
                n.part,
                size(n.weights),
                size(n.resident(machine)),
                size(n.weights - n.resident(machine)),
                size(n.working),
                n.verdict(machine),
            )
            for n in estimate.needs
        ),
    )
    yield ""
    ratio, tiling = estimate.model.facts.spatial_ratio, estimate.tiling
    whole = tiling.size == 0 and not tiling.offload_state
    yield f"- Decoding takes {'the whole frame at once' if whole else tiling.words(ratio)}."
    if estimate.cache:
        yield f"- {estimate.model.cache.title} keeps {size(estimate.cache)}, which the working memory contains."
    yield f"- RAM: {size(estimate.ram)} for all weights together, {size(_waiting(estimate))} while the network works."


def _waiting(estimate: Estimate) -> float:
    """Bytes of weights in RAM while the network works."""
    if estimate.machine.cpu:
        return estimate.ram
    return estimate.ram - min(need.resident(estimate.machine) for need in estimate.needs if need.phase == "sample")


def _steps(estimate: Estimate) -> str:
    steps = estimate.steps
    return message(
        "estimate_steps", computed=_count(steps.computed), total=steps.total, branches=_count(steps.branches)
    )


def _count(span: Span) -> str:
    low, high = round(span[0]), round(span[1])
    return between(f"{low}", f"{high}")


def _computing(estimate: Estimate) -> Iterator[str]:
    steps, forward = estimate.steps, estimate.forward
    sampled = [operations(forward.total * count) for count in steps.branches]
    share = f"{forward.attention / max(forward.total, 1):.0%}"
    yield "## Computing"
    yield ""
    yield f"- {_steps(estimate)}"
    if len(steps.parts) > 1:
        yield f"- Steps of each expert: {', '.join(f'{part} {count}' for part, count in steps.parts.items())}."
    yield ""
    rows = (
        ("One forward of one branch", f"{operations(forward.total)}, of which attention {share}"),
        (_reading(n.part for n in estimate.needs if n.phase == "encode"), operations(estimate.encode.total)),
        ("Sample", between(*sampled)),
        ("Decode", operations(estimate.decode.total)),
    )
    yield from table(("Of what", "Operations"), rows)


def _place(time: Time, brief: bool = False) -> str:
    if not time.memory:
        return time.where
    return f"{time.memory} GB" if brief else f"{time.memory} GB ({time.where})"


def _money(span: Span) -> str:
    return between(*(message("under_cent") if value < 0.01 else number(value) for value in span))


def _unknown(estimate: Estimate) -> list[str]:
    """Why there is no time of this machine, where there is none."""
    if any(not time.memory for time in estimate.times):
        return []
    return [message("rate_unknown", machine=estimate.machine.name)]


def _time(estimate: Estimate) -> Iterator[str]:
    yield "## Time"
    yield ""
    yield from (line for reason in _unknown(estimate) for line in (reason, ""))
    priced = bool(estimate.price)
    head = ("Where", "Time", *(("Cost",) if priced else ()), "Basis", "")
    rows = (
        (
            _place(t),
            in_words(t.seconds) if t.seconds else "",
            *((_money(t.cost) if t.cost else "",) if priced else ()),
            t.basis,
            t.verdict,
        )
        for t in estimate.times
    )
    yield from table(head, rows)


def _fits(estimate: Estimate) -> Iterator[str]:
    yield "## What fits where"
    yield ""
    memories = list(estimate.fits[0][1])
    yield from table(
        ("Size", *(f"{memory} GB" for memory in memories)),
        ((f"{r.width}x{r.height}, {r.frames} frames", *verdicts.values()) for r, verdicts in estimate.fits),
    )
    yield ""
    dtype, most = on_cards(estimate.model, estimate.machine).recipe.dtype, estimate.machine.limit
    limit = f"; at most {size(most)} of weights on the card, as the Memory node says" if most else ""
    yield f"NVIDIA cards with nothing else on them, and the model in {dtype}{limit}."


BASIS = (
    "Memory: the weights as their files' headers say, and the working memory by rules tested against measured peaks.",
    "Operations: by PyTorch's own counter on the networks without weights; a multiplication and an addition are two.",
    "Weights that wait in RAM come over PCI Express, beside the computing at best, on top of it at worst.",
    "Loading from disk is left out.",
)


def _basis(estimate: Estimate) -> Iterator[str]:
    least, most = utilisation()
    yield "## Where the numbers come from"
    yield ""
    yield from (f"- {line}" for line in BASIS)
    runs = f"{len(published())} published whole runs reach {least:.0%} to {most:.0%}"
    yield f"- published: peak rates by the cards' makers, of which {runs} (samplers/cards.json names each source)."
    if estimate.model.speed is not None:
        yield "- What the Speed node sets is not in the times; it mostly makes them shorter."
    if estimate.rates is not None:
        products, attention = (f"{operations(rate)}S" for rate in estimate.rates)
        yield f"- measured: here just now, {products} in products of this model's shape and {attention} in attention."
        yield f"- The other work of a forward is assumed, not measured, to add up to {BESIDE - 1:.0%} to that."


# ---------------------------------------------------------------- for programs


def facts(estimate: Estimate) -> dict[str, object]:
    """All of an estimate as plain numbers: bytes, operations, seconds. Spans are [least, most]."""
    model, r, machine, steps = estimate.model, estimate.request, estimate.machine, estimate.steps
    return {
        "version": VERSION,
        "model": {
            "family": model.name,
            "variant": model.variant,
            "precision": model.recipe.dtype,
            "precision_on_cards": on_cards(model, machine).recipe.dtype,
            "weights": model.recipe.storage or "as in the file",
        },
        "request": {
            **{name: getattr(r, name) for name in ("width", "height", "frames", "steps", "guidance", "sampler")},
            "preset": r.preset or "default",
        },
        "machine": {"name": machine.name, "cpu": machine.cpu, "room": round(machine.room), "ram": _finite(machine.ram)},
        "verdict": estimate.verdict,
        "memory": {
            "phases": [_phase(estimate, need) for need in estimate.needs],
            "cache": estimate.cache,
            "ram": estimate.ram,
            "tile": estimate.tiling.size * model.facts.spatial_ratio,
        },
        "computing": {
            "predictions": steps.total,
            "computed": list(steps.computed),
            "branches": list(steps.branches),
            "experts": dict(steps.parts),
            "forward": estimate.forward.total,
            "attention": estimate.forward.attention,
            "encode": estimate.encode.total,
            "decode": estimate.decode.total,
            "total": list(estimate.operations),
        },
        "time": [_row(time) for time in estimate.times],
        "fits": [
            {
                "width": s.width,
                "height": s.height,
                "frames": s.frames,
                "cards": {str(k): v for k, v in verdicts.items()},
            }
            for s, verdicts in estimate.fits
        ],
        "measured": None
        if estimate.rates is None
        else dict(zip(("products", "attention"), estimate.rates, strict=True)),
        "sources": {name: source(name) for name in sorted({run["source"] for run in published()})},
        "notes": list(estimate.notes),
    }


def _finite(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _phase(estimate: Estimate, need: Need) -> Mapping[str, object]:
    resident = need.resident(estimate.machine)
    return {
        "phase": need.phase,
        "part": need.part,
        "weights": need.weights,
        "kept": resident,
        "moved": need.weights - resident,
        "working": need.working,
        "verdict": need.verdict(estimate.machine),
    }


def _row(time: Time) -> Mapping[str, object]:
    return {
        "where": time.where,
        "memory": time.memory,
        "seconds": None if time.seconds is None else list(time.seconds),
        "cost": None if time.cost is None else list(time.cost),
        "basis": time.basis,
        "verdict": time.verdict,
    }
