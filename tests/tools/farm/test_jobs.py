"""The list of a farm's jobs: read, checked as a whole, and kept on disk one file each."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.support.host import ROOT
from reelwire.tools.farm.command import main
from reelwire.tools.farm.jobs import FarmJob, WrongError, read_jobs, read_workflow
from reelwire.tools.farm.report import write_reports
from reelwire.tools.farm.store import LOCK, PART, Record, Store

WORKFLOW = ROOT / "workflows" / "api" / "ltx_t2v.json"


@pytest.fixture
def workflow() -> dict[str, Any]:
    return read_workflow(WORKFLOW)


def listed(folder: Path, *lines: object, name: str = "jobs.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return file


def wrong(folder: Path, workflow: dict[str, Any], *lines: object, name: str = "jobs.jsonl") -> list[str]:
    """What is said of each line."""
    with pytest.raises(WrongError) as error:
        read_jobs(listed(folder, *lines, name=name), workflow)
    return str(error.value).splitlines()[1:]


def test_inputs_by_all_their_names(tmp_path: Path, workflow: dict[str, Any]) -> None:
    node = next(key for key, each in workflow.items() if each["class_type"] == "ReelwireSampler")
    workflow[node]["_meta"] = {"title": "My sampler"}
    names = ["", "My sampler.", "Video Sampler.", "视频采样.", f"{node}.", "ReelwireSampler."]
    lines = [{f"{name}seed": 5} for name in names]
    for line in lines:
        (job,) = read_jobs(listed(tmp_path, line), workflow)
        assert job.prompt[node]["inputs"]["seed"] == 5
        assert workflow[node]["inputs"]["seed"] != 5
    digests = {read_jobs(listed(tmp_path, line), workflow)[0].digest for line in lines}
    assert len(digests) == 1, "what a job is called does not count"


def test_csv_is_made_of_the_workflows_kinds(tmp_path: Path, workflow: dict[str, Any]) -> None:
    file = listed(tmp_path, "name,positive,seed,guidance,loop", 'a,"one, two",7,3,true', "b,three,8,,", name="jobs.csv")
    first, second = read_jobs(file, workflow)
    sampler = next(n["inputs"] for n in first.prompt.values() if n["class_type"] == "ReelwireSampler")
    assert (sampler["seed"], sampler["guidance"], sampler["loop"]) == (7, 3.0, True)
    assert isinstance(sampler["guidance"], float)
    assert (first.key, second.key) == ("a", "b")
    plain = next(n["inputs"] for n in workflow.values() if n["class_type"] == "ReelwireSampler")
    other = next(n["inputs"] for n in second.prompt.values() if n["class_type"] == "ReelwireSampler")
    assert other["guidance"] == plain["guidance"], "an empty cell leaves it as it is"


def test_all_wrong_lines_are_told_at_once(tmp_path: Path, workflow: dict[str, Any]) -> None:
    said = wrong(
        tmp_path,
        workflow,
        {"sead": 1},
        "no json",
        {"seed": 1.5},
        {"seed": "x"},
        {"positive": 3},
        {"loop": "perhaps"},
        {"model": "x"},
        {"ReelwireSampler.conditioning": "x"},
        {"Nobody.seed": 1},
        {"fps": 24},
        {"name": "../up"},
        "[1]",
        {"seed": 10**400},
    )
    assert [line.partition(":")[0] for line in said] == [f"line {n}" for n in range(1, 13)]
    hints = ("seed", "JSON", "whole", "number", "text", "true or false", "model", "link", "title", "several", "letters")
    for line, hint in zip(said, hints, strict=False):
        assert hint in line or "node" in line, line


def test_two_jobs_of_one_name(tmp_path: Path, workflow: dict[str, Any]) -> None:
    assert len(wrong(tmp_path, workflow, {"name": "a", "seed": 1}, {"name": "A", "seed": 2})) == 1
    assert len(wrong(tmp_path, workflow, {"seed": 1}, {"seed": 1})) == 1
    assert wrong(tmp_path, workflow, "name,seed", "a,1,2", name="x.csv")[0].startswith("line 2")


@pytest.mark.parametrize("content", ['{"nodes": [], "links": []}', "[]", "{}", '{"1": 3}', "no json"])
def test_a_workflow_of_another_form(tmp_path: Path, content: str) -> None:
    file = tmp_path / "w.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(WrongError):
        read_workflow(file)


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1:9"])
def test_an_address_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    pytest.importorskip("ray", reason="the extra `test` has it")
    file = listed(tmp_path, {"seed": 1})
    assert main([str(file), "--workflow", str(WORKFLOW), "--address", address]) == 1
    assert address in capsys.readouterr().err
    assert not list((tmp_path / "jobs.farm").glob("*.mp4"))


# ---------------------------------------------------------------- on disk


def made(store: Store, job: FarmJob, content: bytes = b"video") -> None:
    store.note(Record(job.key, job.digest, store.keep(job, ".mp4", content), 1.5, 2**30, 0, "here (1)"))


def test_it_goes_on_where_it_was(tmp_path: Path, workflow: dict[str, Any]) -> None:
    jobs = read_jobs(listed(tmp_path, {"seed": 1}, {"seed": 2, "name": "b"}, {"seed": 3}), workflow)
    folder = tmp_path / "out"
    store = Store(folder)
    with store.opened():
        assert store.missing(jobs) == jobs
        made(store, jobs[0])
        made(store, jobs[1])
    (folder / f".x{PART}").write_bytes(b"half")
    with (folder / "farm.log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"key": "cut sho')
    again = Store(folder)
    with again.opened():
        assert again.missing(jobs) == [jobs[2]]
        assert not (folder / f".x{PART}").exists()
        (folder / f"{jobs[0].key}.mp4").unlink()
        assert again.missing(jobs) == [jobs[0], jobs[2]]
        other = read_jobs(listed(tmp_path, {"seed": 9, "name": "b"}), workflow)
        with pytest.raises(WrongError, match=r"b\.mp4"):
            again.missing(other)
        page, table = write_reports(again, jobs)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows][1:] == ["b.mp4", ""]
    assert rows[1]["ram"] == str(2**30)
    assert page.read_text(encoding="utf-8").count("<tr") == 4


def test_one_farm_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    with store.opened(), pytest.raises(WrongError, match="Another farm"), Store(tmp_path / "out").opened():
        pass
    with store.opened():
        assert (tmp_path / "out" / LOCK).exists()


def test_words_of_strangers_are_text_on_the_page(tmp_path: Path, workflow: dict[str, Any]) -> None:
    jobs = read_jobs(listed(tmp_path, {"positive": "<script>alert(1)</script>"}), workflow)
    store = Store(tmp_path / "out")
    with store.opened():
        store.note(Record(jobs[0].key, jobs[0].digest, error="<b>no</b>"))
        page, _ = write_reports(store, jobs)
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>no" not in text


@pytest.mark.parametrize("page", ["cluster.md", "cluster.zh.md"])
def test_the_guides_list_fits_the_workflow_that_it_names(tmp_path: Path, workflow: dict[str, Any], page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"--workflow {WORKFLOW.name}" in text
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith('{"name"')]
    jobs = read_jobs(listed(tmp_path, *lines), workflow)
    assert [job.key for job in jobs] == ["fox_1", "fox_2"]
    assert jobs[1].prompt["4"]["inputs"]["fps"] == 24
