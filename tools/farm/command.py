"""The farm's own process: reads the list, hires workers, and writes what they make."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ...loaders.messages import InputError
from ...samplers.parallel.cluster import RayWire, Reference, Worker
from ...samplers.parallel.crew import Crew, LostError, Ticket, UnfitError
from ...samplers.parallel.versions import versions
from .jobs import FarmJob, WrongError, read_jobs, read_workflow
from .options import add_arguments
from .report import write_reports
from .store import Record, Store
from .worker import FarmGreeting, FarmWork, Made, Unmade

MODULE = "tools.farm.worker"
PAUSE = 0.05
LEAVE_SECONDS = 16.0  # a worker may take to clear up


class FarmWire(RayWire):
    """Workers with a ComfyUI each, which ends with its worker. One whose ComfyUI is gone is lost too."""

    def answer(self, reference: Reference) -> object:
        thing = super().answer(reference)
        if isinstance(thing, Unmade) and thing.is_lost:
            raise LostError(thing.words, thing.machine)
        return thing

    def dismiss(self, worker: Worker) -> None:
        with suppress(Exception):
            self._ray.wait([self._call(worker, "leave", beside=True)], timeout=LEAVE_SECONDS)
        super().dismiss(worker)


def main(arguments: Sequence[str]) -> int:
    """Make all files of a list; the status of the command."""
    options = parsed(arguments)
    store = Store(options.output)
    try:
        workflow = read_workflow(options.workflow)
        if options.save and options.save not in workflow:
            raise WrongError(f"--save {options.save}: the workflow has the nodes {', '.join(workflow)}.")
        jobs = read_jobs(options.jobs, workflow)
        with store.opened():
            return _run(options, store, jobs)
    except (WrongError, InputError, UnfitError) as error:
        print(f"\n{error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return 130
    return 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, as run.py hands them on with what it has found: ComfyUI, and its base directory where that is
    another folder."""
    parser = argparse.ArgumentParser(prog="run.py farm")
    add_arguments(parser)
    for name in ("--comfyui", "--python", "--host", "--base"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.output = options.output or options.jobs.with_suffix(".farm")
    return options


def _run(options: argparse.Namespace, store: Store, jobs: list[FarmJob]) -> int:
    left = store.missing(jobs)
    print(f"  {len(jobs)} jobs, {len(jobs) - len(left)} done before. They go to {store.folder}", flush=True)
    try:
        if left:
            _make(options, store, left)
    finally:
        page, _ = write_reports(store, jobs)
        print(f"\n  Report: {page}", flush=True)
    failed = [job for job in jobs if not store.records[job.key].file]
    for job in failed[:20]:
        print(f"  line {job.line}: {store.records[job.key].error}", file=sys.stderr)
    return 1 if failed else 0


def _make(options: argparse.Namespace, store: Store, jobs: list[FarmJob]) -> None:
    greeting = FarmGreeting(options.host, options.base, bool(options.base), (), versions())
    wire = FarmWire(options.address, options.workers, greeting, MODULE)
    try:
        wire.check(options.workers)
        crew: Crew[Worker, Reference] = Crew(wire, options.workers)
    except BaseException:
        wire.close()
        raise
    try:
        waiting = {crew.submit(FarmWork(job.key, job.prompt, options.save)): job for job in jobs}
        done, printed = 0, set[str]()
        while waiting:
            for ticket in [ticket for ticket in waiting if ticket.future.done()]:
                job, done = waiting.pop(ticket), done + 1
                record = _record(store, job, ticket)
                store.note(record)
                said = record.error or f"{record.seconds:.1f} s on {record.machine}"
                print(f"  {done}/{len(jobs)} {job.key}: {said}", flush=True)
            for words in [str(loss) for ticket in [*waiting] for loss in ticket.losses]:
                if words not in printed:
                    printed.add(words)
                    print(f"  {words}", flush=True)
            time.sleep(PAUSE)
    finally:
        crew.close()


def _record(store: Store, job: FarmJob, ticket: Ticket) -> Record:
    """A finished job, its file written."""
    plain = Record(job.key, job.digest, tries=ticket.tries, machine=ticket.machine)
    try:
        answer = ticket.future.result()
    except (InputError, UnfitError):
        raise
    except Exception as error:  # noqa: BLE001 - the others go on
        return replace(plain, error=str(error))
    if isinstance(answer, Made):
        file, made = store.keep(job, answer.ending, answer.content), answer
        return replace(plain, file=file, seconds=made.seconds, ram=made.ram, vram=made.vram, machine=made.machine)
    assert isinstance(answer, Unmade)
    return replace(plain, error=answer.words, machine=answer.machine)
