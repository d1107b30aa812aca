"""What GitHub, pre-commit and the registry read: it parses, and what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = [ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def strings(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_path_and_module_is_there(file: Path) -> None:
    words = [word.strip("'\"") for text in strings(read(file)) for word in re.split(r"[\s()]+", text)]
    here = {path.name for path in ROOT.iterdir()}
    paths = [word for word in words if word in here or word.split("/")[0] in here - {"reelwire"}]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = [new for old, new in pairwise(words) if old == "-m" and new.startswith("tools.")]
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_the_steps_name_files_of_the_repository() -> None:
    """The check above sees them: it would pass if it split the lines wrongly."""
    words = {word for file in WORKFLOWS for text in strings(read(file)) for word in re.split(r"[\s'\"()]+", text)}
    assert {".ci/run", "requirements.txt", "pyproject.toml", "CHANGELOG.md", "tests/samplers"} <= words


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_has_jobs_with_steps_and_few_rights(file: Path) -> None:
    workflow = read(file)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all({"uses", "run"} & set(step) for step in job["steps"])


def test_hooks_have_the_versions_of_ci() -> None:
    hooks = [hook for repository in read(FILES[0])["repos"] for hook in repository["hooks"]]
    pinned = {package for hook in hooks for package in hook.get("additional_dependencies", ())}
    assert pinned
    assert all(f'"{package}"' in PROJECT for package in pinned)


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda f: f.stem)
def test_forms_ask_under_names_of_their_own(file: Path) -> None:
    form = read(file)
    assert {"name", "description", "body"} <= form.keys()
    ids = [item["id"] for item in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(item["type"] in ("input", "textarea", "dropdown", "checkboxes") for item in form["body"])


def test_a_report_asks_for_what_is_needed() -> None:
    body = read(ROOT / ".github" / "ISSUE_TEMPLATE" / "report.yml")["body"]
    needed = {item["id"] for item in body if item.get("validations", {}).get("required")}
    assert {"versions", "card", "workflow", "log"} <= needed


def test_the_release_is_the_changelogs_newest() -> None:
    version = re.findall(r'^version = "(.+)"$', PROJECT, re.M)
    newest = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[0]
    assert [newest[0]] == version


@pytest.mark.parametrize("key", ["Icon", "Banner"])
def test_pictures_of_the_registry_are_in_the_repository(key: str) -> None:
    address = re.search(rf'^{key} = "https://raw.githubusercontent.com/reelwire/reelwire/main/(.+)"$', PROJECT, re.M)
    assert address
    svg = (ROOT / address[1]).read_text(encoding="utf-8")
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    assert width / height == pytest.approx({"Icon": 1, "Banner": 21 / 9}[key])
    assert key != "Icon" or width <= 400
