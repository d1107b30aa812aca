"""What a cluster that cannot be joined, and a worker that is of no use, are told as: by what Ray itself raises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from reelwire.loaders.messages import InputError
from reelwire.samplers.parallel.cluster import RayWire, _refusal
from reelwire.samplers.parallel.crew import LostError
from reelwire.samplers.parallel.packing import packed
from reelwire.samplers.parallel.versions import differences, versions

ADDRESS = "10.0.0.5:6379"
TOKEN = ConnectionError(f"Failed to connect to Ray cluster at {ADDRESS}")  # as Ray 2.60 says of another token
UNAUTHENTICATED = RuntimeError("Failed to get cluster ID: Unauthenticated: InvalidAuthToken: the token does not match")
VERSIONS = RuntimeError(
    "Version mismatch: The cluster was started with:\n    Ray: 2.49.0\n    Python: 3.12.3\n"
    "This process was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
)
ELSEWHERE = ValueError("Can't find a `node_ip_address.txt` file; no raylet runs here")
SAID = {  # what is raised -> (the input that is named, the key of the rule)
    "another token": (UNAUTHENTICATED, ADDRESS, "address", "ray_token"),
    "nobody lets it in": (TOKEN, ADDRESS, "address", "ray_token"),
    "other versions": (VERSIONS, ADDRESS, "address", "ray_versions"),
    "no part of the cluster": (ELSEWHERE, ADDRESS, "address", "ray_refused"),
    "a start of its own": (RuntimeError("no room in /tmp"), "", "model", "ray_refused"),
}


@pytest.mark.parametrize("name", SAID)
def test_why_a_cluster_cannot_be_joined(name: str) -> None:
    error, address, named, key = SAID[name]
    refusal = _refusal(address, error)
    assert refusal.name == named
    assert key in {getattr(refusal.rule, "key", ""), getattr(refusal.remedy, "key", "")} or key in str(refusal.rule)


def wire_that_hears(answer: Any) -> RayWire:
    """A wire whose workers have all said the same, or raised it."""
    from ray import exceptions

    def get(reference: object) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return packed(answer)

    wire = object.__new__(RayWire)
    wire._ray = SimpleNamespace(get=get, exceptions=exceptions)
    return wire


def test_a_worker_with_other_versions_is_named() -> None:
    pytest.importorskip("ray", reason="the extra `test` has it")
    wrong = differences({**versions(), "torch": "1.0"})
    with pytest.raises(InputError, match=r"far \(7\)") as refused:
        wire_that_hears(("far (7)", [*wrong])).answer(None)
    assert "1.0" in str(refused.value)
    assert wire_that_hears(("near (8)", [])).answer(None) == "near (8)"


def test_a_death_and_a_pack_that_is_not_there() -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="the extra `test` has it")
    with pytest.raises(LostError):
        wire_that_hears(exceptions.WorkerCrashedError()).answer(None)
    missing = exceptions.RayTaskError("call", "traceback", FileNotFoundError("/nowhere/__init__.py"))
    with pytest.raises(RuntimeError, match="/nowhere") as error:
        wire_that_hears(missing).answer(None)
    assert error.value.args[0].key == "worker_cannot_start"
