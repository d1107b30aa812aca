"""Ray: a cluster of this machine's cards, or one that is there already, and its workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ...loaders.messages import InputError, message
from ...loaders.parts import Argument
from . import bootstrap
from .address import check_reachable, check_there, has_token, stays_here
from .crew import LostError
from .packing import packed, unpacked

PACK = Path(__file__).parents[2]
SETTINGS = {  # nothing is reported to anybody, and little is printed
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray's own switch: with 0 all of a local cluster listens on 127.0.0.1
TRIES = "3"  # times that a cluster is asked to let this process in, a second or two each; Ray's own are 20
JOIN_SECONDS, JOIN_EVERY = 60.0, 0.5  # for the first machine with room to join a cluster, and between two looks
Worker = Argument  # Ray's handle of an actor, untyped
Reference = Argument  # Ray's reference to an answer, untyped
Ray = Argument  # the module, which is imported when it is asked for


def import_ray(address: str) -> Ray:
    """Ray, set to stay on this machine or to reach others; raises InputError where it is not installed.

    It must come before whoever else in this process imports Ray with its own settings."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    is_local = stays_here(address)
    os.environ[LOOPBACK] = "0" if is_local else "1"
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", TRIES)
        if has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray itself looks for the token after it needs it
    check_there()
    import ray
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = not is_local  # where another pack has imported Ray before
    return ray


def connect(address: str, workers: int = 0) -> tuple[Ray, bool]:
    """(Ray, connected to a cluster by its address, or to a new one of this machine; whether it was not before). Raises
    InputError, in seconds."""
    check_there()
    check_reachable(address)
    ray = import_ray(address)
    if ray.is_initialized():
        _check_same(ray, address)
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            cpus = {} if torch.cuda.is_available() else {"num_cpus": max(workers, os.cpu_count() or 1)}
            ray.init(include_dashboard=False, **cpus, **quiet)
    except Exception as error:
        with suppress(Exception):
            ray.shutdown()
        raise _refusal(address, error) from error
    return ray, True


def _check_same(ray: Ray, address: str) -> None:
    """Raise InputError where this process is connected to another cluster."""
    here = ray.get_runtime_context().gcs_address
    if address and address != here:
        raise InputError("address", repr(address), message("other_cluster", address=here), message("restart_comfyui"))


def _refusal(address: str, error: Exception) -> InputError:
    """Why Ray did not connect, in words."""
    text = f"{type(error).__name__}: {error}"
    low = text.lower()
    if "version mismatch" in low:
        rule, remedy = message("ray_versions", error=text), message("ray_same_versions")
    elif isinstance(error, ConnectionError) or "token" in low or "authenticat" in low:
        rule, remedy = message("ray_token"), message("ray_token_remedy")
    elif address:
        rule, remedy = message("ray_refused", error=text), message("ray_join_first", address=address)
    else:
        return InputError("model", message("with_parallel"), message("ray_refused", error=text), "")
    return InputError("address", repr(address), rule, remedy)


class RayWire:
    """Workers that are Ray actors, each with one card, or one CPU where the cluster has no cards."""

    def __init__(self, address: str, workers: int, greeting: object, module: str = "samplers.parallel.worker") -> None:
        """module: of the pack, whose OFFERED a worker answers with. greeting: what its `hello` is told."""
        self._ray, self._is_ours = connect(address, workers)
        self._greeting, self._is_local, self._module, self._asked = greeting, not address, module, workers
        self._ray.cloudpickle.register_pickle_by_value(bootstrap)

    def check(self, workers: int, pause: Callable[[], None] = lambda: time.sleep(JOIN_EVERY)) -> None:
        """Raise InputError where more workers are asked for than this machine has room for, or where a cluster has room
        for none and gets none soon. pause: between two looks; what it raises ends the wait."""
        self._asked = workers
        end = time.monotonic() + JOIN_SECONDS * (not self._is_local)
        while not (room := self.room()) and time.monotonic() < end:
            pause()
        if not room or (self._is_local and workers > room):
            raise InputError("workers", workers, message("workers_rule", count=room), message("workers_remedy"))

    @property
    def _kind(self) -> str:
        """What each worker takes one of."""
        return "GPU" if self._ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"

    def room(self) -> int:
        """The cards of the cluster; of one without cards as many CPUs as are asked for, else one of each machine."""
        there = int(self._ray.cluster_resources().get(self._kind, 0))
        if self._kind == "GPU" or self._asked:
            return there
        return min(there, sum(node["Alive"] for node in self._ray.nodes()))

    def hire(self) -> tuple[Worker, Reference]:
        """A worker on the machine with the most room, and its greeting."""
        gpus = 1 if self._kind == "GPU" else 0
        options = {"num_cpus": 0 if gpus else 1, "num_gpus": gpus, "max_restarts": 0, "concurrency_groups": {"side": 1}}
        actor = self._ray.remote(**options)(bootstrap.Worker)
        worker = actor.options(scheduling_strategy="SPREAD").remote(str(PACK))
        return worker, self._call(worker, "hello", self._greeting)

    def _call(self, worker: Worker, function: str, *arguments: object, beside: bool = False) -> Reference:
        method = worker.call.options(concurrency_group="side") if beside else worker.call
        return method.remote(f"{self._module}:{function}", packed(arguments))

    def give(self, worker: Worker, job: object) -> Reference:
        return self._call(worker, "work", job)

    def look(self, worker: Worker) -> Reference:
        return self._call(worker, "look", True, beside=True)

    def halt(self, worker: Worker) -> None:
        self._call(worker, "halt", beside=True)

    def rest(self, worker: Worker) -> None:
        self._call(worker, "rest")

    def ready(self, references: list[Reference], seconds: float) -> list[Reference]:
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        return list(ready)

    def answer(self, reference: Reference) -> object:
        """What a worker says; the name of its machine from a greeting, unless something is not the same there."""
        errors = self._ray.exceptions
        gone = errors.RayActorError, errors.NodeDiedError, errors.WorkerCrashedError, errors.ObjectLostError
        try:
            thing = unpacked(self._ray.get(reference))
        except gone as error:
            raise LostError(_short(error)) from error
        except errors.RayTaskError as error:
            raise RuntimeError(message("worker_cannot_start", reason=_short(error.cause))) from error
        if isinstance(thing, tuple):  # a greeting
            name, wrong = thing
            if wrong:
                raise InputError(
                    "model", message("with_parallel"), message("worker_other", machine=name, what=wrong[0])
                )
            return name
        return thing

    def dismiss(self, worker: Worker) -> None:
        self._ray.kill(worker)

    def close(self) -> None:
        """Leave the cluster; one that was started for this ends."""
        if self._is_ours:
            self._ray.shutdown()


def _short(error: BaseException) -> str:
    """The first line of what Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "exit" in line.lower()), lines[0] if lines else type(error).__name__)[:200]
