"""The Comfy registry takes the pack: its config, what scanners say of the files, and an install of the archive."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from reelwire.bench.templates import blueprints, notes
from reelwire.tests.support.archive import archive, packed
from reelwire.tests.support.host import PACK, ROOT, Host, boot, workflow

SNAPSHOT = ROOT / "tests" / "nodes" / "node_snapshot.json"
MOST_BYTES = 20 << 20  # of the archive
# what a pack may say that it runs on (docs.comfy.org/registry/specifications): another value voids them all
ENVIRONMENTS = {f"Environment :: GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")} | {
    "Environment :: NPU :: Huawei Ascend"
}
HARMLESS = {
    "B101",  # asserts narrow types
    "B105",  # names of tokens and of keys in files, taken for passwords
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_config_is_what_the_registry_reads(config: dict[str, Any]) -> None:
    project, comfy = config["project"], config["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == "Apache-2.0", "an SPDX name"
    assert "Apache License" in (ROOT / project["license-files"][0]).read_text(encoding="utf-8")
    assert {"Repository", "Documentation", "Bug Tracker"} <= {*project["urls"]}
    assert {*comfy} == {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"}
    environments = [line for line in project["classifiers"] if line.startswith("Environment ::")]
    assert environments
    assert {*environments} <= ENVIRONMENTS


def test_the_registrys_check_finds_nothing() -> None:
    """`comfy node validate`: exec, eval, and two statements on a line."""
    done = run("ruff", "check", "--isolated", "--select", "S102,S307,E702", *_python())
    assert done.returncode == 0, done.stdout


def test_bandit_finds_nothing() -> None:
    """What the registry's scan is like: a pack that is flagged is held back until a person has looked at it."""
    done = run("bandit", "-q", "-f", "json", *_python())
    found = [result for result in json.loads(done.stdout)["results"] if result["test_id"] not in HARMLESS]
    assert [f"{r['filename']}:{r['line_number']}: {r['test_id']} {r['issue_text']}" for r in found] == []


def _python() -> list[str]:
    files = [file for file in packed() if file.endswith(".py")]
    assert len(files) > 100
    return files


def test_the_archive_holds_what_users_need() -> None:
    """Every file of the product, and nothing of the workshop."""
    files = packed()
    assert {"__init__.py", "requirements.txt", "pyproject.toml", "LICENSE", "README.md"} <= {*files}
    for folder in ("loaders", "samplers", "nodes", "web", "locales", "workflows", "subgraphs"):
        there = {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / folder).rglob("*.*") if path.is_file()}
        assert {path for path in there if "__pycache__" not in path} - {*files} == set()
    top = {file.split("/")[0] for file in files}
    assert not top & {"tests", "bench", "tools", "training", "docs", "run.py", ".ci"}


# ---------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def installed(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI with nothing but the archive in custom_nodes, as the Manager leaves it there."""
    base = tmp_path_factory.mktemp("installed")
    file = archive(base / "pack.zip")
    assert file.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(file) as made:
        made.extractall(base / "custom_nodes" / PACK)
    with boot(comfyui, base, kind=Host) as host:
        yield host


def test_what_it_requires_is_there() -> None:
    """The Manager installs requirements.txt; here it has been."""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        wanted = Requirement(line)
        assert wanted.specifier.contains(version(wanted.name)), line


def test_all_nodes_are_registered(installed: Host) -> None:
    known = installed.get("/object_info")
    ours = {name for name, node in known.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    assert ours == {*json.loads(SNAPSHOT.read_text(encoding="utf-8"))}


def test_templates_blueprints_and_texts_are_served(installed: Host) -> None:
    titles = {card["title"] for card in notes.CARDS.values()}
    assert titles <= {*installed.get("/workflow_templates")[PACK]}
    assert {*blueprints.BLUEPRINTS} <= {entry["name"] for entry in installed.get("/global_subgraphs").values()}
    assert installed.get("/i18n")["zh"]["reelwire"]["messages"]
    for file in ("reelwire.js", "docs/ReelwireSampler/zh.md"):
        assert installed.read(f"/extensions/{PACK}/{file}")


def test_a_template_runs(installed: Host) -> None:
    (video,) = installed.videos(installed.post(workflow("any_t2v", {"3.steps": 2})))
    assert video.stat().st_size > 0
