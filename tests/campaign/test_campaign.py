"""The campaign sees each kind of fault, and its short form finds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.campaign import kinds
from reelwire.tests.campaign.bases import form_of, make_bases
from reelwire.tests.campaign.command import BAD, SHARES, Table, keep, shared
from reelwire.tests.campaign.edits import Case, edited, read_tensors
from reelwire.tests.campaign.host_kinds import HOST_KINDS, Tried, host_cases
from reelwire.tests.campaign.kinds import KINDS, cases_of
from reelwire.tests.campaign.pool import Pool
from reelwire.tests.support.host import Host

KEPT = sorted((Path(__file__).parent / "cases").glob("*.json"))
SHORT = {
    "safetensors": 6,
    "config": 10,
    "tokenizer": 4,
    "lora": 4,
    "gguf": 4,
    "job": 6,
    "calibration": 2,
    "timeline": 40,
}
PROOFS = ("ran", "words", "noisy", "raw", "outside", "socket", "memory", "died", "hung")


@pytest.fixture(scope="module")
def work(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    make_bases(folder / "bases", tiny_models)
    return folder


def test_each_kind_of_fault_is_seen(tmp_path: Path) -> None:
    cases = [Case("proof", "", name, ()) for name in PROOFS]
    answers = {case.target: answer for case, answer in Pool(tmp_path, 1, warm=False, busy=1.0).run(cases)}
    verdicts = {name: answer["verdict"] for name, answer in answers.items()}
    assert verdicts == {
        **{name: name for name in ("ran", "words", "noisy", "raw", "hung")},
        "outside": "ran",
        "memory": "ran",
        "socket": "raw",
        "died": "raw",
    }
    assert {name: [*answer["seen"]] for name, answer in answers.items() if answer["seen"]} == {
        name: [name] for name in ("outside", "socket", "memory")
    }


def test_a_seed_tells_the_cases(work: Path) -> None:
    for kind in ("config", "safetensors", "timeline"):
        first, again, other = (list(cases_of(kind, work / "bases", seed, 5)) for seed in (3, 3, 4))
        assert first == again
        assert first != other


def test_what_is_kept_is_the_case(work: Path, tmp_path: Path) -> None:
    """Written and read again it makes the same bytes, and is small."""
    for case in cases_of("safetensors", work / "bases", 5, 20):
        keep(tmp_path, case, {"verdict": "raw", "text": "", "place": ""}, ["raw"])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 20
    for file in files:
        case = Case.load(file)
        data = kinds.read(work / "bases" / case.base / case.target)
        made = next(c for c in cases_of("safetensors", work / "bases", 5, case.number + 1) if c.number == case.number)
        assert file.stat().st_size < 4000
        assert edited(data, form_of(case.target), case.edits) == edited(data, form_of(case.target), made.edits)


def test_edits_of_a_header(work: Path) -> None:
    data = kinds.read(work / "bases" / "loras" / "tiny-wan2.1-lora.safetensors")
    _, tensors = read_tensors(data)
    name = next(iter(tensors))
    changed = edited(data, "safetensors", (["tensor", "scalar", name, None], ["meta", "x", {"a": 1}]))
    metadata, after = read_tensors(changed)
    assert (after[name][1], metadata["x"]) == ([], '{"a": 1}')
    assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in tensors.items() if k != name}
    assert edited(b'{"a": [1]}', "json", (["set", ["a", 0], "@@deep:3@@"],)) == b'{"a": [[[[]]]]}'


def test_the_table_counts() -> None:
    table = Table(7)
    table.add(Case("config", "", "", ()), {"verdict": "ran", "text": "", "place": "", "seen": {}})
    faults = table.add(
        Case("config", "", "", ()), {"verdict": "raw", "text": "", "place": "", "seen": {"socket": "x at y:1"}}
    )
    assert faults == ["raw", "socket"]
    assert "| config | 2 | 1 | 0 | 0 | 1 | 0 | 0 | 1 | 0 |" in table.markdown()
    assert {*SHARES} == {*KINDS} - {"proof"} | {*HOST_KINDS}
    assert sum(shared(10_000, [*SHARES]).values()) == pytest.approx(10_000, abs=len(SHARES))


def faults_of(answers: list[tuple[Case, dict[str, Any]]]) -> list[str]:
    return [
        f"{case.kind} {case.target} {json.dumps(case.edits)[:300]}: {answer}"
        for case, answer in answers
        if {answer["verdict"], *answer["seen"]} & {*BAD}
    ]


def test_the_short_form(work: Path) -> None:
    """A few cases of each kind that the engine reads, and those that were found once."""
    cases = [case for kind, count in SHORT.items() for case in cases_of(kind, work / "bases", 1, count)]
    kept = [case for case in map(Case.load, KEPT) if case.kind in KINDS]
    pool = Pool(work, 1)
    answers = list(pool.run([*kept, *cases]))
    assert len(answers) == len(cases) + len(kept)
    assert not faults_of(answers), "\n".join(faults_of(answers))
    assert not pool.calls


def test_the_short_form_of_prompts(work: Path, host: Host) -> None:
    tried = Tried(host, work)
    cases = [case for case in host_cases(work, {"prompt": 60}, 1) if case.target == "ltx_t2v.json"]
    cases += [case for case in map(Case.load, KEPT) if case.kind in HOST_KINDS]
    assert len(cases) >= 4
    answers = [(case, tried.run(case)) for case in cases]
    assert not faults_of(answers), "\n".join(faults_of(answers))
    host.check()
