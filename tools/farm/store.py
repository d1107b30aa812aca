"""What a farm leaves on disk: one file for each job, whole or not there, and what is known of each."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .jobs import FarmJob, WrongError

LOG, LOCK, PART = "farm.log.jsonl", ".farm.lock", ".part"


@dataclass(frozen=True)
class Record:
    """How one job ended. file: its name; error: why there is none. tries: how often a worker died over it."""

    key: str
    digest: str
    file: str = ""
    seconds: float = 0.0
    ram: int = 0
    vram: int = 0
    machine: str = ""
    tries: int = 0
    error: str = ""


class Store:
    """A folder of results; one farm at a time is at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folder is ours for the block; what another run has left half-written is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(self.folder / LOCK, timeout=1, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")  # the operating system takes it back even when this process is killed
        except sqlite3.OperationalError as error:
            lock.close()
            raise WrongError(
                f"Another farm is writing to {self.folder}: wait for it, or choose another --output."
            ) from error
        try:
            for left in self.folder.glob(f".*{PART}"):
                left.unlink()
            self._read()
            yield
        finally:
            lock.close()

    def _read(self) -> None:
        """What earlier runs have noted; a last line that was cut short is left out."""
        with suppress(FileNotFoundError):
            for line in (self.folder / LOG).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError):
                    record = Record(**json.loads(line))
                    self.records[record.key] = record

    def missing(self, jobs: list[FarmJob]) -> list[FarmJob]:
        """The jobs that have no file yet. Raises WrongError where a file of that name was made of something else."""
        wrong = list[str]()
        left = list[FarmJob]()
        for job in jobs:
            record = self.records.get(job.key)
            if record is None or not record.file or not (self.folder / record.file).is_file():
                left.append(job)
            elif record.digest != job.digest:
                wrong.append(f"line {job.line}: {record.file} is there, and was made of other inputs")
        if wrong:
            remedy = "Give these jobs other names, delete the files, or choose another --output."
            raise WrongError("\n".join(["Nothing was started.", *wrong[:50], remedy]))
        return left

    def keep(self, job: FarmJob, ending: str, content: bytes) -> str:
        """Write a job's file, whole or not at all; its name."""
        name = f"{job.key}{ending}"
        draft = self.folder / f".{job.key}{PART}"
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / name)
        return name

    def note(self, record: Record) -> None:
        """Add what is known of a job."""
        self.records[record.key] = record
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
