"""Caches against each other on the trained models:  python bench/caches.py [--models tiny_ltx tiny_wan] [--prompts 16]

One process, the same weights, prompts, noise and steps for all; the uncached run first and last. For each setting: how
many of the steps were computed, how many times faster the denoising was, and how far the video is from the uncached one
(PSNR and SSIM of the frames, PSNR of their differences for motion, relative distance of the latents). Calibrations come
from three runs of prompts that are not among the tested, and "once" from the first of them. Writes caches.json,
caches.svg and caches_estimates.svg beside this file, and prints a table of each method at 1.5x, 2x and 3x. `--methods`
measures some methods anew and keeps the others' figures, if they are of as many prompts; `--table` measures nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from figures.caches import FEWER, OURS, PEER, STEPS, at_rates, best, draw, draw_estimates, ranks_alike
from pack import MODELS, THERE, import_pack, open_trained
from torch import Tensor

import_pack()
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Conditioning, Keyframe, Request
from reelwire.loaders.spec import spec_of
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.calibration import calibrate
from reelwire.samplers.caches.course import Course, decibels
from reelwire.samplers.caches.policies.cache_dit import CacheDiT
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.external import (
    DiffusersFirstBlock,
    DiffusersMagCache,
    DiffusersSeaCache,
    DiffusersTaylorSeer,
)
from reelwire.samplers.caches.policies.first_block import FirstBlock
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policies.sencache import USUAL, SenCache
from reelwire.samplers.caches.policies.spectrum import Spectrum
from reelwire.samplers.caches.policies.teacache import TeaCache, calibrated, published_fits
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.report import estimated_distance
from reelwire.samplers.caches.store import Calibration
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.samplers.solvers import TABLES, run_predictions
from reelwire.training import world

SPEEDS, INTERVALS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0), (2, 3, 4, 5, 6, 8)
PUBLISHED = (0.03, 0.06, 0.1, 0.2, 0.3, 0.5)  # thresholds of TeaCache with its authors' coefficients
GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.5, 3.0)  # of Spectrum's distances between computed steps
LIMITS = (0.07, 0.1, 0.15, 0.25, 0.4, 0.7)  # of SenCache, about the published ones
# solvers that draw noise, or go along the steps of distilled models: another video, however many steps
OTHER_VIDEOS = ("dpm++ 2m sde", "euler ancestral", "stochastic", "distilled", "dpm")


@dataclass(frozen=True)
class Fewer:
    """An uncached run of so many steps; sampler: "" for the model's own."""

    steps: int
    sampler: str = ""


Setting = Policy | Fewer | None  # None: the uncached run


@dataclass(frozen=True)
class Method:
    """kind: ours, a peer as published, or fewer steps; settings: what is swept -> a policy or fewer steps."""

    kind: str
    settings: Mapping[str, Policy | Fewer]


def fewer_steps(model: VideoModel) -> dict[str, Method]:
    """Fewer steps of the model's own solver, and of each other one that draws no noise: at as many predictions."""
    table, own = TABLES[model.solvers], model.complete(Request(steps=STEPS)).sampler
    counts = (24, 20, 15, 12, 10, 8)
    steps = lambda name, count: next(n for n in range(1, STEPS) if len(table[name].levels(n)) >= count)
    sweep = lambda name, sampler: {
        f"steps {n}": Fewer(n, sampler) for n in dict.fromkeys(steps(name, count) for count in counts)
    }
    others = {name: f"fewer steps, {name}" for name in table if name not in (own, *OTHER_VIDEOS)}
    return {
        "fewer steps": Method(FEWER, sweep(own, "")),
        **{title: Method(FEWER, sweep(name, name)) for name, title in others.items()},
    }


def rivals_of_2026(calibration: Calibration, published: tuple[str, str]) -> dict[str, Method]:
    """Spectrum and SenCache: as they are published, and over what they can be set to."""
    spectrum = lambda **fixed: {f"growth {v:g}": Spectrum(threshold=v, **fixed) for v in GROWTHS}
    rows = tuple((b.part, b.name, b.by_latents, b.by_time) for b in calibration.branches)
    known = spec_of(published[0]).cache_limits
    limits, own = known or USUAL, "published" if known else "as by default"
    sen = lambda most, share: {
        f"limit {v:g}": SenCache(threshold=v, early=v * share, longest=most, sensitivities=rows) for v in LIMITS
    }
    share = limits.early / limits.threshold
    return {
        "Spectrum": Method(PEER, spectrum()),
        "SenCache": Method(PEER, {own: SenCache(sensitivities=rows), **sen(limits.longest, share)}),
        "Spectrum, polynomials alone": Method(PEER, spectrum(share=1.0)),
        "SenCache, one limit": Method(PEER, sen(STEPS, 1.0)),
    }


def methods(model: VideoModel, calibration: Calibration, published: tuple[str, str]) -> dict[str, Method]:
    """Every method by its name."""
    return {
        **caches(calibration, published),
        **rivals_of_2026(calibration, published),
        **fewer_steps(model),
    }


def caches(calibration: Calibration, published: tuple[str, str]) -> dict[str, Method]:
    """Ours, and the peers that were there before 2026."""
    grams, once = tuple(calibration.grams.items()), tuple((part, runs[:1]) for part, runs in calibration.grams.items())
    ratios = tuple((b.part, b.name, (1.0, *b.ratios)) for b in calibration.branches)
    fit, sizes = (calibrated(calibration), ratios[0][2]) if ratios else (None, ())  # of a UNet there are none
    by = lambda name, values, policy: {f"{name} {value:g}": policy(value) for value in values}
    tea = lambda polynomial, order: (
        lambda value: TeaCache(threshold=value, polynomial=polynomial, order=order, warmup=order + 1)
    )
    outside = lambda kind, **more: lambda value: kind(**{"threshold": value, "order": 0, **more})
    ours = next(iter(published_fits(spec_of(published[0])).get(published[1], ())), None)
    theirs = (0.05, 0.1, 0.15, 0.25, 0.4, 0.7)
    return {
        "plan, calibrated": Method(OURS, by("speed", SPEEDS, lambda v: Plan(speed=v, grams=grams))),
        "plan, calibrated once": Method(OURS, by("speed", SPEEDS, lambda v: Plan(speed=v, grams=once))),
        "plan, not calibrated": Method(OURS, by("speed", SPEEDS, lambda v: Plan(speed=v))),
        "corrected plan, calibrated": Method(OURS, by("speed", SPEEDS, lambda v: Corrected(speed=v, grams=grams))),
        "corrected plan, not calibrated": Method(OURS, by("speed", SPEEDS, lambda v: Corrected(speed=v))),
        "FORA stack, follow": Method(OURS, by("interval", INTERVALS, lambda v: FORA(interval=v, order=1, warmup=2))),
        "TeaCache calibrated, follow": Method(OURS, by("threshold", theirs, tea(fit, 1))),
        "first block, ours": Method(
            OURS, by("threshold", (0.02, 0.05, 0.1, 0.15, 0.25, 0.4), lambda v: FirstBlock(threshold=v, order=1))
        ),
        **({"TeaCache, published": Method(PEER, by("threshold", PUBLISHED, tea(ours, 0)))} if ours else {}),
        "TeaCache, calibrated": Method(PEER, by("threshold", theirs, tea(fit, 0))),
        "FORA, published": Method(PEER, by("interval", INTERVALS, lambda v: FORA(interval=v, granularity="module"))),
        "MagCache": Method(
            PEER, by("threshold", (0.03, 0.06, 0.12, 0.24, 0.5, 1.0), lambda v: MagCache(threshold=v, ratios=ratios))
        ),
        "EasyCache": Method(
            PEER, by("threshold", (0.02, 0.05, 0.1, 0.2, 0.4, 0.8), lambda v: EasyCache(threshold=v, warmup=5))
        ),
        "diffusers FirstBlockCache": Method(
            PEER, by("threshold", (0.02, 0.05, 0.1, 0.15, 0.25, 0.4), outside(DiffusersFirstBlock))
        ),
        "diffusers TaylorSeer": Method(PEER, by("interval", INTERVALS, lambda v: DiffusersTaylorSeer(interval=v))),
        "diffusers SeaCache": Method(
            PEER, by("threshold", (0.1, 0.2, 0.3, 0.5, 0.8, 1.2), outside(DiffusersSeaCache, order=1))
        ),
        "diffusers MagCache": Method(
            PEER,
            by(
                "threshold",
                (0.03, 0.06, 0.12, 0.24, 0.5, 1.0),
                outside(DiffusersMagCache, ratios=sizes, longest=4),
            ),
        ),
        "cache-dit DBCache": Method(PEER, by("threshold", (0.04, 0.08, 0.12, 0.2, 0.3, 0.5), outside(CacheDiT))),
        "cache-dit DBCache + TaylorSeer": Method(
            PEER, by("threshold", (0.04, 0.08, 0.12, 0.2, 0.3, 0.5), outside(CacheDiT, order=1))
        ),
    }


# ---------------------------------------------------------------- distances


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over frames, of [T, H, W, 3] in 0..1; 100 where they are equal."""
    error = (a - b).square().mean((1, 2, 3)).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), a Gaussian window of 11 pixels with a deviation of 1.5."""
    axis = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(axis, axis) / axis.sum() ** 2
    smooth = lambda x: F.conv2d(x.flatten(0, 1)[:, None], window[None, None])
    a, b = a.movedim(-1, 1), b.movedim(-1, 1)
    ma, mb = smooth(a), smooth(b)
    va, vb, vab = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


# ---------------------------------------------------------------- runs


def prompt_of(scene: world.Scene) -> str:
    """An English prompt for a scene of the trained models' world."""
    motion = world.EN_WORDS.get(scene.motion, ["moving " + scene.motion])[0]
    return f"a {scene.colour} {scene.shape} {motion} on a {scene.background} background"


def asked(model: VideoModel, scene: world.Scene) -> tuple[Conditioning, Request]:
    """What is asked of a model for a scene: its prompt; where it takes a picture in place of one, the first frame."""
    if () in (model.facts.pictures or ((),)):
        return model.encode(prompt_of(scene), ""), Request()
    usual = model.complete(Request())
    picture = world.first_frame(scene, usual.height, usual.width, random.Random(str(scene)))
    return model.encode("", ""), Request(keyframes=(Keyframe(picture[None], 0),))


def refusal(model: VideoModel, method: Method) -> str:
    """Why a model does not take a method's policies; "" where it does."""
    try:
        for setting in method.settings.values():
            if isinstance(setting, Policy):
                setting.check_model(model)
    except InputError as error:
        return str(error)
    return ""


class Bench:
    """One model with its test prompts, and what the uncached run made of them. courses: of the newest run."""

    def __init__(self, model: VideoModel, prompts: int, steps: int = STEPS) -> None:
        train, held_out = world.split()
        scenes = held_out[:: max(len(held_out) // prompts, 1)][:prompts]
        self.model, self.steps = model, steps
        self.courses: list[Course] = []
        self.asked = [asked(model, scene) for scene in scenes]
        others = [asked(model, train[i]) for i in (100, 7, 50)]
        runs = [
            calibrate(
                model, other, replace(request, seed=200 + i, steps=steps), lambda *_: None, model.stacks is not None
            )[0]
            for i, (other, request) in enumerate(others)
        ]
        self.calibration = runs[0].joined(runs[1]).joined(runs[2])
        self.base = [self.run(None, i) for i in range(prompts)]
        self.frames = [self.decode(latents) for latents, *_ in self.base]

    def run(self, setting: Setting, prompt: int) -> tuple[Tensor, float, float, float | None]:
        """(latents, computed predictions, seconds, what the run says of its PSNR)."""
        fewer = setting if isinstance(setting, Fewer) else Fewer(self.steps)
        policy = None if isinstance(setting, Fewer) else setting
        runs: list[Any] = []
        begin = time.perf_counter()
        model = replace(self.model, cache=policy)
        conditioning, request = self.asked[prompt]
        request = replace(request, seed=prompt, steps=fewer.steps)
        prepared = plan(model, replace(request, sampler=fewer.sampler) if fewer.sampler else request)
        latents = sample(model, conditioning, prepared, lambda *a: runs.append(a[2]))
        seconds = time.perf_counter() - begin
        entries = runs[-1].cache.entries if policy else []
        share = sum(e.computed + e.again for e in entries) / len(entries) if entries else 1.0
        computed = run_predictions(model, prepared.request) * share
        self.courses = runs[-1].cache.courses if policy else []
        return latents, computed, seconds, estimated_distance(self.courses)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat(list(stream_frames(self.model, latents)))

    def score(self, setting: Setting) -> dict[str, Any]:
        rows, said = [], []
        for i, (latents, _, seconds, _) in enumerate(self.base):
            sampled, computed, took, estimated = self.run(setting, i)
            said.append(estimated)
            a, b = self.decode(sampled), self.frames[i]
            rows.append(
                (
                    computed,
                    psnr(a, b),
                    ssim(a, b),
                    psnr(a.diff(dim=0), b.diff(dim=0)),
                    float((sampled - latents).norm() / latents.norm()),
                    seconds / took,
                )
            )
        columns = [list(column) for column in zip(*rows, strict=True)]
        mean = lambda values: sum(values) / len(values)
        estimates = [round(value, 2) for value in said if value is not None]
        return {
            "computed": mean(columns[0]),
            "psnr": mean(columns[1]),
            "psnr_median": median(columns[1]),
            "psnr_worst": min(columns[1]),
            "psnr_each": [round(value, 2) for value in columns[1]],
            "ssim": mean(columns[2]),
            "motion_psnr": mean(columns[3]),
            "latents": mean(columns[4]),
            "faster": median(columns[5]),
            "computed_each": [round(value, 2) for value in columns[0]],
            **({"estimated_each": estimates} if len(estimates) == len(said) else {}),
        }


def measured(name: str, prompts: int, wanted: Sequence[str], known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known of a model, after each of the methods that are wanted was measured anew, and at last whether the
    uncached runs came out the same again. wanted: parts of names of methods."""
    bench = Bench(open_trained(name), prompts)
    table: dict[str, Any] = dict(known.get("methods", {})) if known.get("prompts") == prompts else {}
    record = lambda same: {
        "steps": STEPS,
        "prompts": prompts,
        "uncached_runs_equal": same,
        "methods": table,
        "best": dict(best(table)),
    }
    for method, entry in methods(bench.model, bench.calibration, MODELS[name].published).items():
        if wanted and not any(part in method for part in wanted):
            continue
        if refused := refusal(bench.model, entry):
            print(f"{name} {method:<30} {refused}", flush=True)
            continue
        table[method] = {
            "kind": entry.kind,
            "rows": [{"setting": s, **bench.score(p)} for s, p in entry.settings.items()],
        }
        for row in table[method]["rows"]:
            print(f"{name} {method:<30} {_line(row)}", flush=True)
        yield record(False)
    again = [bench.run(None, i)[0] for i in range(prompts)]
    yield record(all(torch.equal(a, b[0]) for a, b in zip(again, bench.base, strict=True)))


class PlanAnyway(Plan):
    """A plan in a run of any length."""

    def pays(self, predictions: int) -> bool:
        return True


class CorrectedAnyway(Corrected):
    """A corrected plan in a run of any length, however far from the uncached video."""

    near: ClassVar[float] = -math.inf

    def pays(self, predictions: int) -> bool:
        return True


def few_steps(name: str, prompts: int, steps: int) -> Iterator[str]:
    """Rows in Markdown, each of so many computed steps of a run of `steps`: the dB that the calibration expects, and
    mean (worst) PSNR against all of them, of the corrected plan, the plan, and a run of no more steps than that."""
    bench = Bench(open_trained(name), prompts, steps)
    grams = tuple(bench.calibration.grams.items())
    for computed in range(steps - 1, 2, -1):
        speed = steps / computed
        rows = [bench.score(CorrectedAnyway(speed=speed, grams=grams))]
        expected = decibels(sum(way.map.least(way.planned) for way in bench.courses))
        rows += [bench.score(PlanAnyway(speed=speed, grams=grams)), bench.score(Fewer(computed))]
        cells = [f"{row['psnr']:.1f} ({row['psnr_worst']:.1f}), {row['computed']:.1f}" for row in rows]
        yield f"| {name}, {computed} of {steps} | {expected:.1f} | {' | '.join(cells)} |"


def _line(row: Mapping[str, Any]) -> str:
    """One setting of a method, for the terminal."""
    quality = f"{row['psnr']:6.2f} dB (worst {row['psnr_worst']:5.2f})"
    return f"{row['setting']:<15} {row['computed']:5.1f} steps {quality} {row['faster']:5.2f} x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=THERE, default=THERE)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=[], help="parts of their names; none: all")
    parser.add_argument("--few", nargs="+", type=int, help="steps of short runs, of which tables are printed alone")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    for name, steps in product(arguments.models, arguments.few or ()):
        for line in few_steps(name, arguments.prompts, steps):
            print(line, flush=True)
    if arguments.few:
        return
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in () if arguments.table else arguments.models:
        for record in measured(name, arguments.prompts, arguments.methods, result.get(name, {})):
            result = {known: {**result, name: record}[known] for known in MODELS if known in {*result, name}}
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            arguments.out.with_suffix(".svg").write_text(draw(result), encoding="utf-8")
            estimates = arguments.out.with_name(f"{arguments.out.stem}_estimates.svg")
            estimates.write_text(draw_estimates(result), encoding="utf-8")
        print(name, json.dumps(result[name]["best"], indent=1))
    print("\n".join([*at_rates(result), *ranks_alike(result)]))


if __name__ == "__main__":
    main()
