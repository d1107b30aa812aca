"""Calibrations on disk: a JSON file beside the checkpoint, and which of its records a run can use."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from ...loaders.files import alone_with, cause_unwritten, check_writable, write_whole
from ...loaders.messages import CheckpointError, message
from ...loaders.parts import JsonObject
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ...loaders.weights.json_files import MOST_INDEX, excerpt, open_file, parse_object, read_bytes
from ..solvers import prediction_count, run_predictions

ENDING = ".reelwire-cache.json"
MOST_RUNS = 9
MOST = 1e300  # of any number
MOST_STEPS = 1000  # of a record: as many as any schedule has
T = TypeVar("T")
D = TypeVar("D", "Key", "Branch")
Gram = tuple[tuple[float, ...], ...]
_unwritten: dict[tuple[Path, str], tuple[Calibration, ...]] = {}  # file, fingerprint -> what the disk did not take
FURTHER = ("low_noise", "module")  # parts of a recipe that hold weights of the network, beside the checkpoint
SAMPLE = 2**16  # bytes that are hashed at each of a few places of a large file


@dataclass(frozen=True)
class Key:
    """What a record was made with.

    size: the power of two nearest to the number of tokens.
    left_out: of `steps` predictions, how many video-to-video left out at the start.
    files: names and fingerprints of further files with weights of the network; those of older records are not known.
    method: of guidance, where Guidance has chosen one; else empty. Versions before it call a file with one damaged.
    """

    steps: int
    sampler: str
    guidance: float
    shift: float
    size: int
    loras: tuple[str, ...] = ()
    left_out: int = 0
    files: tuple[str, ...] = ()
    method: str = ""

    def fits(self, other: Key) -> bool:
        """Whether a record of this key can be of use to a run of the other one: as many predictions, by the same
        weights."""
        same_files = not self.files or self.files == other.files
        return same_files and (self.steps, self.left_out) == (other.steps, other.left_out)

    def distance(self, other: Key) -> int:
        """In how many ways the record of this key is not of the other one's run."""
        return sum(a != b for a, b in zip(astuple(self), astuple(other), strict=True))

    def differs(self, other: Key) -> tuple[str, ...]:
        """What is not the same, in words."""
        words = {
            "sampler": message("word_sampler"),
            "guidance": message("word_guidance"),
            "method": message("word_guidance"),
            "shift": message("word_shift"),
            "size": message("word_size"),
            "loras": message("word_loras"),
        }
        return tuple(dict.fromkeys(w for name, w in words.items() if getattr(self, name) != getattr(other, name)))


@dataclass(frozen=True)
class Branch:
    """What one branch of one expert showed.

    part, name: expert and branch.
    moves: how far the signal moved in each step.
    ratios: of the residual's size to that of the step before.
    signal, coefficients, low, high, quality: TeaCache's polynomial, the range that it was fitted on, and its R^2.
    by_latents, by_time: how sensitive the network is in each step, the mean of so many `measured` runs.
    """

    part: str
    name: str
    moves: tuple[float, ...]
    ratios: tuple[float, ...]
    signal: str
    coefficients: tuple[float, ...]
    low: float
    high: float
    quality: float
    by_latents: tuple[float, ...] = ()
    by_time: tuple[float, ...] = ()
    measured: int = 0

    def joined(self, earlier: Branch) -> Branch:
        """This one, with the sensitivities of both."""
        runs = self.measured + earlier.measured
        share = self.measured / max(runs, 1)
        return replace(
            self,
            by_latents=_mean(self.by_latents, earlier.by_latents, share),
            by_time=_mean(self.by_time, earlier.by_time, share),
            measured=runs,
        )


def _mean(a: tuple[float, ...], b: tuple[float, ...], share: float) -> tuple[float, ...]:
    """The mean of two rows of numbers, of which one may be empty; share: the first one's."""
    if len(a) != len(b):
        return a or b
    return tuple(share * x + (1 - share) * y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Calibration:
    """One record. grams: expert -> scalar products of its steps' x0 predictions, for each run that was made."""

    key: Key
    grams: Mapping[str, tuple[Gram, ...]]
    branches: tuple[Branch, ...] = field(default=())

    @property
    def runs(self) -> int:
        """How many runs the record joins."""
        return max(map(len, self.grams.values()))

    def joined(self, later: Calibration) -> Calibration:
        """The latest MOST_RUNS runs of both, with the later one's branches and the sensitivities of both."""
        earlier = {(branch.part, branch.name): branch for branch in self.branches}
        known = [(branch, earlier.get((branch.part, branch.name))) for branch in later.branches]
        branches = tuple(branch.joined(before) if before else branch for branch, before in known)
        grams = {part: (*runs, *later.grams[part])[-MOST_RUNS:] for part, runs in self.grams.items()}
        return replace(later, grams=grams, branches=branches)


def key_of(model: VideoModel, request: Request) -> Key:
    """The key of a complete request."""
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    loras = tuple(sorted(f"{lora.file.name} {lora.identity}" for lora in model.loras))
    size = round(math.log2(max(tokens, 1)))
    count = prediction_count(model, request)
    left_out = count - run_predictions(model, request)
    files = tuple(
        f"{file.name} {fingerprint(file)}" for part, file in sorted(model.recipe.files.items()) if part in FURTHER
    )
    return Key(
        count, request.sampler, request.guidance, request.shift, size, loras, left_out, files, _method(model, request)
    )


def _method(model: VideoModel, request: Request) -> str:
    """The method of guidance that a node has chosen; empty where it is the plain one, a preset's, or none is on."""
    method, of_preset = model.guidance.method, request.program is not None and request.program.stg is not None
    embedded = getattr(model.facts, "embedded", False)
    is_on = (model.guidance.true_scale if embedded else request.guidance) > 1
    return method if is_on and method != "cfg" and not (method == "stg" and of_preset) else ""


def file_of(checkpoint: Path) -> Path:
    """The file with the calibrations of a checkpoint."""
    return checkpoint.with_name(checkpoint.name + ENDING)


def check_place(checkpoint: Path) -> None:
    """Raise OSError, before an hour of sampling, where no file can be written beside the checkpoint."""
    file = file_of(checkpoint)
    try:
        check_writable(file, replaced=True)
    except OSError as error:
        values = {"file": file.name, "checkpoint": checkpoint.name, "error": cause_unwritten(error)}
        raise OSError(message("calibration_unwritable", **values)) from error


def fingerprint(checkpoint: Path) -> str:
    """A hash of a checkpoint's headers, sizes and samples of its weights: a whole one would take minutes. Raises
    CheckpointError where a file of it is gone or cannot be read."""
    files = sorted(checkpoint.rglob("*.safetensors")) if checkpoint.is_dir() else [checkpoint]
    return _fingerprint(tuple((file, _state(file)) for file in files), checkpoint.is_dir())


State = tuple[int, ...] | None


def _state(file: Path) -> State:
    """What changes when a file is written to, or another takes its name; None where it is gone."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@lru_cache(64)
def _fingerprint(files: tuple[tuple[Path, State], ...], with_names: bool) -> str:
    """The same, read once for each state of the files."""
    digest = hashlib.sha256()
    for file, _ in files:
        with open_file(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            digest.update(f"{file.name if with_names else ''} {size}".encode())
            for place in (0, size // 3, size // 2, max(size - SAMPLE, 0)):
                stream.seek(place)
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()[:16]


def read(checkpoint: Path) -> tuple[Calibration, ...]:
    """The records of a checkpoint; none where there is no file, or one of other weights. Raises CheckpointError for a
    damaged one."""
    file = file_of(checkpoint)
    state = _state(file)
    if state is None and not any(path == file for path, _ in _unwritten):
        return ()
    weights = fingerprint(checkpoint)
    return _with(_stored(file, state, weights), _unwritten.get((file, weights), ()))


@lru_cache(64)
def _stored(file: Path, state: State, weights: str) -> tuple[Calibration, ...]:
    """What a file holds of weights with this fingerprint, read once for each of its states."""
    content = _content(file, state)
    try:
        if content is None or content["checkpoint"] != weights:
            return ()
        return tuple(_calibration(record) for record in content["records"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file) from error


@lru_cache(16)
def _content(file: Path, state: State) -> JsonObject | None:
    """A file as it lies on disk, read once for each of its states; None where there is none."""
    try:
        return None if state is None else parse_object(read_bytes(file, MOST_INDEX), MOST_INDEX)
    except CheckpointError:
        raise
    except ValueError as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> CheckpointError:
    return CheckpointError(message("calibration_damaged", file=file.name), message("delete_calibration"))


def _calibration(record: JsonObject) -> Calibration:
    """A record of a file; raises ValueError, KeyError, TypeError or AttributeError for what is none."""
    grams = {part: tuple(map(_gram, runs[:MOST_RUNS])) for part, runs in record["grams"].items()}
    sizes = [{len(gram) for gram in runs} for runs in grams.values()]
    if not grams or any(len(size) != 1 for size in sizes):
        raise ValueError(excerpt(sizes))
    return Calibration(_typed(Key, record["key"]), grams, tuple(_typed(Branch, b) for b in record["branches"]))


def _gram(rows: list[list[float]]) -> Gram:
    """Scalar products of all steps with all."""
    if not 0 < len(rows) <= MOST_STEPS or any(len(row) != len(rows) for row in rows):
        raise ValueError(len(rows))
    return tuple(tuple(map(_real, row)) for row in rows)


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST:
        raise ValueError(excerpt(value))
    return value


_FIELDS: Mapping[str, Callable[[object], object]] = {
    "int": lambda value: _exactly(int, value),
    "str": lambda value: _exactly(str, value),
    "float": _real,
    "tuple[str, ...]": lambda values: tuple(_exactly(str, value) for value in _exactly(list, values)),
    "tuple[float, ...]": lambda values: tuple(_real(value) for value in _exactly(list, values)),
}


def _exactly(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise TypeError(excerpt(value))
    return value


def _typed(kind: type[D], values: JsonObject) -> D:
    """A dataclass of a JSON object, each value of the type that its field has."""
    types = {field.name: str(field.type) for field in fields(kind)}
    checked: JsonObject = {name: _FIELDS[types[name]](value) for name, value in values.items()}
    return kind(**checked)


def stale(checkpoint: Path) -> bool:
    """Whether the file beside a checkpoint was made for other weights."""
    file = file_of(checkpoint)
    content = _content(file, _state(file))
    return content is not None and content.get("checkpoint") != fingerprint(checkpoint)


def add(checkpoint: Path, calibration: Calibration, weights: str = "") -> Calibration:
    """Put a record into the file, joined with an earlier one of the same key; returns what is there now.

    weights: the checkpoint's fingerprint when the run began that made the record; "": as it is now. Raises OSError
    where it cannot be written, in words: `read` knows it all the same, and the next call tries again; CheckpointError
    for a record of weights that are not there any more.
    """
    file, now = file_of(checkpoint), fingerprint(checkpoint)
    if weights not in ("", now):
        raise CheckpointError(message("calibration_of_others", file=checkpoint.name), message("calibrate_anew"))
    late = (*_unwritten.pop((file, now), ()), calibration)
    try:
        with alone_with(file):  # another process may add one at this moment
            records = _with(_stored(file, _state(file), now), late)
            content = {"checkpoint": now, "records": [_as_json(record) for record in records]}
            write_whole(file, json.dumps(content).encode())
    except (OSError, MemoryError, CheckpointError) as error:
        _unwritten[file, now] = late
        raise OSError(message("calibration_in_memory", file=file.name, error=cause_unwritten(error))) from error
    return next(record for record in records if record.key == calibration.key)


def _as_json(calibration: Calibration) -> JsonObject:
    """A record as the file has it; without what versions before would not know, where it is empty."""
    record = asdict(calibration)
    for name in ("files", "method"):
        if not record["key"][name]:
            del record["key"][name]
    return record


def _with(records: tuple[Calibration, ...], more: tuple[Calibration, ...]) -> tuple[Calibration, ...]:
    """Records with more of them, each joined with an earlier one of the same key."""
    by_key = {record.key: record for record in records}
    for record in more:
        earlier = by_key.get(record.key)
        is_alike = earlier is not None and _sizes(record) == _sizes(earlier)
        by_key[record.key] = earlier.joined(record) if earlier is not None and is_alike else record
    return tuple(by_key.values())


def _sizes(calibration: Calibration) -> dict[str, int]:
    """Steps of each expert."""
    return {part: len(runs[0]) for part, runs in calibration.grams.items()}


def match(records: tuple[Calibration, ...], key: Key) -> tuple[Calibration | None, tuple[str, ...]]:
    """(the record of the same predictions that differs least, in what it differs)."""
    fitting = [c for c in records if c.key.fits(key)]
    if not fitting:
        return None, ()
    best = min(fitting, key=lambda c: c.key.distance(key))
    return best, best.key.differs(key)
