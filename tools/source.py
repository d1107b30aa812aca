"""The Python files of the repository as syntax trees, and the imports between them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = "reelwire"  # the name that tests and scripts import the repository by
PRODUCT = ("loaders", "samplers", "nodes")
FOLDERS = (*PRODUCT, "bench", "training", "tools", "tests")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file. path: of the file; name: its path below the root, with slashes."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[Function]:
        """Every function, nested ones and methods too."""
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    @property
    def module(self) -> tuple[str, ...]:
        """The parts of its dotted name below the pack; those of the folder for an `__init__.py`."""
        parts = self.name.removesuffix(".py").split("/")
        return tuple(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> tuple[str, ...]:
        """The folder that one dot in an import means."""
        return tuple(self.name.split("/")[:-1])

    def within(self, *folders: str) -> bool:
        """Whether the file lies below one of these folders."""
        return self.name.startswith(tuple(f"{folder}/" for folder in folders))


@dataclass(frozen=True)
class House:
    """All Python files below a root, and which imports which."""

    root: Path = ROOT
    files: list[Source] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", list(_files(self.root)))

    def select(self, *folders: str) -> list[Source]:
        """The files below these folders."""
        return [file for file in self.files if file.within(*folders)]

    @cached_property
    def by_module(self) -> Mapping[tuple[str, ...], Source]:
        return {file.module: file for file in self.files}

    @cached_property
    def imports(self) -> Mapping[tuple[str, ...], set[tuple[str, ...]]]:
        """Module -> the modules of the repository that it imports anywhere, under TYPE_CHECKING too."""
        return {file.module: set(self._imported(file)) - {file.module} for file in self.files}

    def _imported(self, file: Source) -> Iterator[tuple[str, ...]]:
        for node in file.nodes:
            if isinstance(node, ast.ImportFrom):
                base = _base(file, node)
                targets = [] if base is None else [(*base, alias.name) for alias in node.names]
                modules = (t if t in self.by_module else t[:-1] for t in targets)
                yield from (module for module in modules if module in self.by_module)
            elif isinstance(node, ast.Import):
                names = [tuple(alias.name.split(".")) for alias in node.names]
                yield from (name[1:] for name in names if name[0] == PACK and name[1:] in self.by_module)


def _base(file: Source, node: ast.ImportFrom) -> tuple[str, ...] | None:
    """The module that a from-import starts at, None outside of the repository."""
    inside = tuple(node.module.split(".")) if node.module else ()
    if node.level:
        return (*file.package[: len(file.package) - node.level + 1], *inside)
    return inside[1:] if inside[:1] == (PACK,) else None


def _files(root: Path) -> Iterator[Source]:
    """The files of the known folders and of the root, in order; the state folder of run.py is not among them."""
    for path in sorted(root.glob("*.py")):
        yield Source(path, path.name)
    for folder in FOLDERS:
        for place, folders, names in os.walk(root / folder):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith(".py"):
                    path = Path(place) / name
                    yield Source(path, path.relative_to(root).as_posix())


def circles(arrows: Mapping[tuple[str, ...], set[tuple[str, ...]]]) -> list[list[tuple[str, ...]]]:
    """The groups of modules that import each other, by reachability; each group sorted."""
    reach = {start: _reachable(arrows, start) for start in arrows}
    groups = {tuple(sorted(m for m in reach[start] if start in reach.get(m, ()))) for start in arrows}
    return sorted([*group] for group in groups if group)


def _reachable(arrows: Mapping[tuple[str, ...], set[tuple[str, ...]]], start: tuple[str, ...]) -> set[tuple[str, ...]]:
    """What a module imports, and what that imports, and so on; itself only by a circle."""
    reached: set[tuple[str, ...]] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached
