"""What tooltips say of the families, from their specs; in English, as all texts of nodes are written."""

from __future__ import annotations

from collections.abc import Iterable

from ..loaders.spec import specs


def titles_with(feature: str) -> str:
    """The families that have a feature, as "A and B"."""
    return _both(spec.short_title for spec in specs() if feature in spec.features)


def frame_rules(long: bool = False) -> str:
    """How many frames the clips of each family have, or a long video that is made of such clips."""
    titles: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for spec in specs():
        titles.setdefault((spec.frame_counts, spec.frame_step), []).append(spec.short_title)
    most_first = sorted(titles, key=lambda rule: (-len(titles[rule]), rule))
    words = [f"{_both(titles[rule])} {_frame_rule(*rule, long)}" for rule in most_first]
    if not long:
        words[0] = f"{_both(titles[most_first[0]])} make {_frame_rule(*most_first[0], long)} frames"
    return ", ".join(words)


def _frame_rule(counts: tuple[int, ...], step: int, long: bool) -> str:
    if step:
        return f"{step}n+1"
    return " or ".join(f"{count - 1}n+1" if long else str(count) for count in counts)


def _both(titles: Iterable[str]) -> str:
    *most, last = titles
    return f"{', '.join(most)} and {last}" if most else last
