"""What a cache did in a run: in numbers, in words, and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...loaders.denoiser import GUIDED
from ...loaders.messages import Message, data, listed, message
from .course import NEAR, Course, decibels
from .runner import Entry, Runner


@dataclass(frozen=True)
class Report:
    """What a cache did.

    title: of the policy.
    computed: (expert, branch) -> which of its forward passes were computed, in order.
    distances: (expert, branch) -> how far the signal had moved in each.
    seconds: of each step.
    expected, peak: bytes that the states should hold at most, and did.
    again: forward passes that were thrown away.
    """

    title: str
    computed: Mapping[tuple[str, str], tuple[bool, ...]]
    distances: Mapping[tuple[str, str], tuple[float | None, ...]]
    seconds: tuple[float, ...]
    peak: int
    notes: tuple[str, ...]
    again: int = 0
    expected: int = 0

    @property
    def ideal(self) -> float:
        """Forward passes over computed ones, those that were thrown away too."""
        every = [computed for passes in self.computed.values() for computed in passes]
        return len(every) / max(sum(every) + self.again, 1)

    @property
    def real(self) -> float | None:
        """How much longer the run would have taken if each step had taken as long as one that was computed whole."""
        count = len(self.seconds)
        whole = [all(f[i] for f in self.computed.values() if len(f) == count) for i in range(count)]
        long = sorted(s for s, w in zip(self.seconds[1:], whole[1:], strict=True) if w)  # the first one warms up
        if not long or any(len(f) != count for f in self.computed.values()):
            return None
        return count * long[len(long) // 2] / (sum(self.seconds[1:]) + long[len(long) // 2])

    def words(self) -> tuple[str, ...]:
        """What a person reads after the run."""
        parts = [message("cache_branch", name=name, computed=sum(f), count=len(f)) for name, f in self._named()]
        numbers = {
            "ideal": f"{self.ideal:.2f}",
            "held": size_in_words(self.peak),
            "expected": size_in_words(self.expected),
        }
        numbers |= {"cache": self.title, "branches": listed(parts)}
        if self.real is None:
            return (message("cache_report", **numbers), *self.notes)
        return (message("cache_report_real", real=f"{self.real:.2f}", **numbers), *self.notes)

    def _named(self) -> list[tuple[str, tuple[bool, ...]]]:
        """(name for people, which forward passes were computed) of each branch."""
        several = len({part for part, _ in self.computed}) > 1
        return [(in_words(part, branch, several), passes) for (part, branch), passes in self.computed.items()]

    def facts(self) -> dict[str, object]:
        """For a file's metadata."""
        return {
            "cache": self.title,
            "predictions": {name: "".join("x" if done else "." for done in passes) for name, passes in self._named()},
            "ideal": round(self.ideal, 3),
            "real": self.real and round(self.real, 3),
        }

    def chart(self) -> dict[str, object]:
        """For the page to draw: for each branch which steps were computed and how far the signal had moved."""
        rows = [
            {
                "name": data(name),
                "computed": list(computed),
                "distances": [d if d and math.isfinite(d) else None for d in distances],
            }
            for (name, computed), distances in zip(self._named(), self.distances.values(), strict=True)
        ]
        return {"title": self.title, "rows": rows}


def in_words(part: str, branch: str, several: bool) -> str:
    """What a person calls a branch of an expert. several: whether there are more experts than that one."""
    branches = {
        "cond": message("branch_cond"),
        "uncond": message("branch_uncond"),
        "cond_uncond": message("branch_cond_uncond"),
        "perturbed": message("branch_perturbed"),
        GUIDED: message("branch_guided"),
    }
    words = branches.get(branch, branch)
    if not several:
        return words
    titles = {"transformer": message("high_noise"), "transformer_2": message("low_noise")}
    return message("expert_branch", expert=titles.get(part, part), branch=words)


def size_in_words(count: int) -> str:
    """Bytes in the largest unit that they fill, as 1.23 GB."""
    units = (("GB", 2**30), ("MB", 2**20), ("KB", 2**10), ("bytes", 1))
    unit, size = next((name, size) for name, size in units if count >= size or size == 1)
    return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:.0f} {unit}"


def steps_so_far(runner: Runner) -> tuple[int, int]:
    """(how many steps of a run under way had anything computed, how many were made of what was stored)."""
    computed = dict[int, bool]()
    for entry in runner.entries:
        computed[entry.step] = computed.get(entry.step, False) or entry.computed
    whole = sum(computed.values())
    return whole, len(computed) - whole


def report(runner: Runner) -> Report:
    """What a finished run's cache did."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in runner.entries:
        groups.setdefault((entry.part, entry.branch), []).append(entry)
    distances = {key: tuple(map(_distance, entries)) for key, entries in groups.items()}
    known = [distance for row in distances.values() for distance in row if distance is not None]
    return Report(
        title=runner.policy.title,
        computed={key: tuple(entry.computed for entry in entries) for key, entries in groups.items()},
        distances=distances,
        seconds=tuple(runner.seconds[step] for step in sorted(runner.seconds)),
        again=sum(entry.again for entry in runner.entries),
        expected=runner.expected,
        peak=runner.peak,
        notes=(*runner.policy.notes(known), *planned_more(runner.courses), *nearness(runner.courses)),
    )


# dB, by which an estimate has to be better than what its words promise: with it 4 % of the runs of bench/caches.json
# that are told as unseen were farther off, without it 15 %
MARGIN = 5.0


def estimated_distance(courses: Sequence[Course]) -> float | None:
    """PSNR in dB of a corrected run's frames against the uncached ones, by the misses of its forecasts; None where no
    calibration tells what they weigh."""
    if not courses or not all(way.map.known.measured for way in courses):
        return None
    return decibels(sum(way.error for way in courses))


def planned_more(courses: Sequence[Course]) -> tuple[Message, ...]:
    """Why a short run computed more than its speed asked for, or all."""
    asked, planned, count = (sum(each) for each in zip((0, 0, 0), *map(_numbers, courses), strict=True))
    if all(way.near == -math.inf for way in courses):
        return ()
    if not all(way.map.known.measured for way in courses):
        return (message("short_unknown", count=count),)
    if all(way.map.count <= way.map.known.order + 2 for way in courses):
        return (message("short_few", count=count),)
    if asked == planned:
        return ()
    if planned == count:
        return (message("short_whole", count=count, near=round(NEAR)),)
    return (message("short_more", asked=asked, planned=planned, count=count, near=round(NEAR)),)


def _numbers(way: Course) -> tuple[int, int, int]:
    """How many steps were to be computed, how many were planned, and how many there are."""
    return way.asked, way.planned, way.map.count


def nearness(courses: Sequence[Course]) -> tuple[Message, ...]:
    """How near the video of a corrected run is to the uncached one, by the misses of its forecasts."""
    again = sum(max(way.computed[-1] + 1 - len(way.computed), 0) for way in courses if way.computed)
    gone_back = sum(way.rejected for way in courses)
    if not again:
        return (message("corrected_whole", back=gone_back),) if gone_back else ()
    said = message("corrected_again", count=again)
    distance = estimated_distance(courses)
    if distance is None:
        return (said,)
    said = message("corrected_back", count=again, back=gone_back) if gone_back else said
    lost = [message("corrected_lost")] if any(way.lost for way in courses) else []
    return (said, *lost, _near(distance))


def _near(distance: float) -> Message:
    """What a distance in dB means to who looks at the video."""
    known = {"distance": round(min(distance, 90))}
    distance -= MARGIN
    if distance >= 50:
        return message("near_unseen", **known)
    if distance >= 40:
        return message("near_hardly", **known)
    return message("near_details", **known) if distance >= 30 else message("near_astray", **known)


def _distance(entry: Entry) -> float | None:
    return None if entry.distance is None else float(entry.distance)
