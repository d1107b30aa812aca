"""The rules of the repository that a reader relies on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution", "latent_preview")
MAY_USE = {"loaders": ("loaders",), "samplers": ("samplers", "loaders"), "nodes": ("nodes", "samplers", "loaders")}
FAMILIES = [path.parent.name for path in sorted((ROOT / "loaders" / "families").glob("*/__init__.py"))]


def _imports(file: Path) -> list[tuple[int, str, int]]:
    """(dots, module, line) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, node.lineno) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, name, node.lineno) for name in names]
    return found


@pytest.mark.parametrize("folder", MAY_USE)
def test_imports_go_one_way(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        depth = len(file.relative_to(ROOT).parts) - 1
        for dots, module, line in _imports(file):
            target = folder if 0 < dots <= depth else module.split(".")[0]
            if dots > depth:
                assert target in MAY_USE[folder], f"{file}:{line} imports {module}"
            elif dots == 0:
                hosts = ("nodes",) if (ROOT / "nodes/host") in file.parents else ()  # ComfyUI has a module of this name
                ours = {"nodes", "loaders", "samplers"}.difference(hosts)
                assert target not in ours, f"{file}:{line}: absolute import of {module}"
                assert folder == "nodes" or target not in HOST, f"{file}:{line} imports the host"


OWN_FILES = (  # read JSON of the pack alone
    "loaders/messages.py",
    "loaders/spec.py",
    "loaders/weights/allowed/rules.py",
    "nodes/host/names.py",
    "samplers/estimate/cards.py",
)
HOST_FILES = ("nodes/host/refusals.py",)  # read what ComfyUI itself has written
WHOLE_FILES = ("loaders/files.py", "nodes/host/files.py", "samplers/long/job.py")  # read what the pack has written
READER = "loaders/weights/json_files.py"


def _reads_json(tree: ast.AST) -> bool:
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return bool(names & {"JSONDecoder", "raw_decode"}) or any(
        isinstance(node, ast.Attribute)
        and node.attr in ("load", "loads")
        and isinstance(node.value, ast.Name)
        and node.value.id == "json"
        for node in ast.walk(tree)
    )


def test_json_of_others_is_read_in_one_place() -> None:
    """Which bounds its bytes, its depth and its numbers; nobody else calls json's own readers."""
    files = [file for folder in MAY_USE for file in (ROOT / folder).rglob("*.py")]
    readers = {
        file.relative_to(ROOT).as_posix() for file in files if _reads_json(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert READER in readers
    assert readers <= {READER, *OWN_FILES, *WHOLE_FILES, *HOST_FILES}


def test_no_test_imports_another() -> None:
    """What tests share lies in tests/support, so that one can be read, moved and run alone."""
    modules = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
                assert not named & modules, f"{file}:{node.lineno} imports a test"


@pytest.mark.parametrize("family", FAMILIES)
def test_families_do_not_import_each_other(family: str) -> None:
    others = [f for f in FAMILIES if f != family]
    for file in (ROOT / "loaders" / "families" / family).glob("*.py"):
        for _, module, line in _imports(file):
            assert not {*module.split(".")} & {*others}, f"{file}:{line} imports {module}"


def test_importing_the_engine_costs_nothing() -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(ROOT)!r}])\n"
        "pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "import pack.loaders.families.ltx, pack.samplers.denoise, pack.samplers.decode\n"
        "print(sorted({'diffusers', 'transformers', 'comfy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dependencies_are_told_once_and_never_torch() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert required
    for line in required:
        assert f'"{line}"' in project, f"{line} is not in pyproject.toml"
        assert not line.startswith("torch"), "ComfyUI brings its own torch"


SCRIPTS = sorted(path for path in (ROOT / "web").rglob("*.*js") if path.parent.name != "vendor")


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda p: p.name)
def test_scripts_of_the_page_look_alike(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        assert len(line) <= 120, f"{file.name}:{number} has {len(line)} columns"
        before = lines[number - 2] if number > 1 else ""
        grown = len(line) - len(line.lstrip()) - (len(before) - len(before.lstrip()))
        comment = line.lstrip().startswith("*")
        assert not before or not line or comment or grown <= 2, f"{file.name}:{number}: indent by 2"
