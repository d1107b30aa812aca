"""What the videos of a comparison have cost: as rows for people, and as numbers for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...loaders.messages import Message, message, quoted
from ...loaders.parts import JsonObject
from ...loaders.spec import specs
from ...samplers.estimate.cards import number
from ...samplers.estimate.report import size as memory_size
from .. import host
from ..words import clock, file_size
from .clips import Clip

UNKNOWN = message("figure_unknown")
HEADS = {
    "video": message("compare_video"),
    "model": message("compare_model"),
    "picture": message("compare_picture"),
    "time": message("compare_time"),
    "cost": message("compare_cost"),
    "memory": message("compare_memory"),
    "file": message("compare_file"),
}
FIRST_NUMBER = 3  # column


@dataclass(frozen=True)
class Entry:
    """One video. label: what a person calls it; note: how it was made, empty where it does not say it; run: what that
    has cost, None where that is not known."""

    label: str
    clip: Clip
    note: JsonObject
    run: host.Run | None


@dataclass(frozen=True)
class Table:
    """The comparison. price: of an hour, 0 where nobody said it."""

    entries: tuple[Entry, ...]
    price: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names; the first FIRST_NUMBER hold words, the others numbers."""
        return "video", "model", "picture", "time", *(("cost",) if self.price else ()), "memory", "file"

    def head(self) -> list[Message]:
        """What stands above the columns."""
        return [HEADS[name] for name in self.columns]

    def rows(self) -> list[list[str]]:
        """A row for each video, in the columns' order."""
        return [self._row(entry) for entry in self.entries]

    def _row(self, entry: Entry) -> list[str]:
        run, label = entry.run, entry.label
        cost = [_cost(run.seconds / 3600 * self.price) if run else UNKNOWN] if self.price else []
        file = file_size(entry.clip.size) if entry.clip.size else message("figure_none")
        return [label, model_words(entry.note), picture_words(entry.clip), _time(run), *cost, _memory(run), file]

    def facts(self) -> dict[str, object]:
        """All of it as plain numbers: bytes, seconds; null for what is not known."""
        return {"version": 1, "price_per_hour": self.price or None, "videos": [self._facts(e) for e in self.entries]}

    def _facts(self, entry: Entry) -> dict[str, object]:
        clip, run, note = entry.clip, entry.run, entry.note
        return {
            "input": clip.name,
            "label": entry.label,
            **{name: note.get(name) for name in ("family", "variant", "seed")},
            "width": clip.width,
            "height": clip.height,
            "frames": clip.count,
            "fps": float(clip.fps),
            "seconds": float(clip.seconds),
            "file_bytes": clip.size or None,
            "sampling_seconds": run.sampling if run else None,
            "decoding_seconds": run.decoding if run else None,
            "run_seconds": run.seconds if run else None,
            "peak_memory_bytes": (run.peak or None) if run else None,
            "device": (run.device or "cpu") if run else None,
            "cost": run.seconds / 3600 * self.price if run and self.price else None,
        }


def default_label(note: Mapping[str, object], clip: Clip, file: str) -> str:
    """What a video is called where nobody named it: its model, else its file, else its input."""
    return model_words(note) if note.get("family") else quoted(file, 80) or clip.name


def model_words(note: Mapping[str, object]) -> str:
    """The model that made a video, as its family's title and its variant."""
    family, variant = str(note.get("family", "")), str(note.get("variant", ""))
    if not family:
        return UNKNOWN
    title = next((spec.title for spec in specs() if spec.name == family), family)
    return quoted(f"{title} {variant}".strip(), 100)


def picture_words(clip: Clip) -> Message:
    """Size, frames and rate of a video."""
    values = {"width": clip.width, "height": clip.height, "count": clip.count, "fps": f"{float(clip.fps):.4g}"}
    return message("compare_picture_words", **values)


def caption(entry: Entry) -> list[str]:
    """What stands beside a video in the grid, beside its label."""
    known = [_time(entry.run), *([_memory(entry.run)] if entry.run.peak else [])] if entry.run else []
    return [picture_words(entry.clip), *known]


def _time(run: host.Run | None) -> str:
    return clock(run.seconds) if run else UNKNOWN


def _memory(run: host.Run | None) -> str:
    return memory_size(run.peak) if run and run.peak else UNKNOWN


def _cost(value: float) -> str:
    return message("under_cent") if value < 0.01 else number(value)


def basis(entries: Sequence[Entry], price: float) -> list[Message]:
    """Where the figures come from, and why some are unknown."""
    lines = [message("compare_basis_time"), message("compare_basis_memory")]
    lines += [message("compare_basis_cost", price=number(price))] if price else []
    lines += [message("compare_basis_unknown")] if any(e.run is None for e in entries) else []
    on_cpu = any(e.run is not None and not e.run.device for e in entries)
    return [*lines, *([message("compare_basis_processor")] if on_cpu else [])]
