"""The structure of the repository in numbers, against its limits: `python -m tools.house [--all] [--tighten]`.

Prints one row for each limit and what breaks it, and exits with 1 where one is broken. A number that a limit does not
allow yet stands in `house.json`, where it may only go down: `--tighten` writes the present numbers there, and drops a
row that its limit allows. `--all` lists every place that counts, not only the broken ones.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .source import FUNCTIONS, PRODUCT, Function, House, Source, circles

RATCHET = Path(__file__).with_name("house.json")

CIRCLES = 0  # two files that import each other can only be read together
FILES_PER_FOLDER = 14  # a folder's listing is taken in at one look
ARROWS = 50  # between the rooms of loaders/, so that a room can be changed without reading all others
FAMILIES_NAMED = 0  # a family is added by its folder and one row of nodes/loaders.py
FUNCTION_LINES = 60  # a function fits a screen
FUNCTION_MEDIAN = 9  # most functions are read without scrolling, as k-diffusion's
STATEMENTS = 40  # statements of one function: more is two functions
FILE_LINES = 500  # a file is read in one sitting
COLUMNS = 120  # as the formatter and E501
LONG_LINES = 0  # wider lines are not read to their end
SKIPS = 0  # the formatter's word is law, but for tables of data
ANYS = 99  # in the product: each one is a place where mypy looks away
DOCSTRINGS = 0  # a public function says what it returns or does


@dataclass(frozen=True)
class Measure:
    """One number of the house. limit: the most that is allowed; places: where it comes from, one line each."""

    name: str
    value: float
    limit: float
    places: list[str]


def measures(house: House) -> list[Measure]:
    """Every number of a house, in the order of the table."""
    return [measure(house) for measure in MEASURES]


# ---------------------------------------------------------------- rooms


def import_circles(house: House) -> Measure:
    """Groups of files that import each other; imports for types alone count."""
    groups = [" <-> ".join(".".join(module) for module in group) for group in circles(house.imports)]
    return Measure("circles between files", len(groups), CIRCLES, groups)


def files_per_folder(house: House) -> Measure:
    """The Python files of the fullest folder."""
    counts = Counter("/".join(file.package) or "." for file in house.files)
    places = [f"{folder}: {count} files" for folder, count in counts.most_common()]
    return Measure("files in the fullest folder", max(counts.values()), FILES_PER_FOLDER, places)


def room_arrows(house: House) -> Measure:
    """Imports from one direct child of loaders/ to another; all families are one room."""
    arrows = {
        (module[1], target[1])
        for module, targets in house.imports.items()
        for target in targets
        if module[0:1] == target[0:1] == ("loaders",) and len(module) > 1 and len(target) > 1
    }
    places = [f"{start} -> {end}" for start, end in sorted(arrows) if start != end]
    return Measure("arrows between the rooms of loaders/", len(places), ARROWS, places)


# what each family's folder is called in code: (in snake case, at the beginning of a word in camel case)
FAMILY_NAMES = {
    "cogvideox": ("cog[_ -]?video(?:x)?", "CogVideo"),
    "hunyuan_video": ("hunyuan(?:[_ -]?video)?", "HunyuanVideo"),
    "ltx": ("ltxv?(?:[_ -]?video)?", "LTX"),
    "mochi": ("mochi", "Mochi"),
    "svd": ("svd|stable[_ -]?video(?:[_ -]?diffusion)?", "SVD|StableVideo"),
    "wan": ("wan", "Wan"),
}
OTHERS_NAMED_ALIKE = re.compile(r"linalg\.svd\w*|CogVideoXD(?:DIM|PM)Scheduler")  # torch's, diffusers'


def family_pattern(root: Path) -> re.Pattern[str]:
    """What finds the names of the families that have a folder."""
    folders = sorted(path.parent.name for path in (root / "loaders" / "families").glob("*/__init__.py"))
    names = [FAMILY_NAMES.get(name, (name, name.title().replace("_", ""))) for name in folders]
    snake, camel = ("|".join(words) for words in zip(*names, strict=True))
    return re.compile(rf"(?<![A-Za-z])(?i:{snake})(?![A-Za-z])|(?:{camel})(?=[A-Z0-9])")


def families_named(house: House) -> Measure:
    """Code and texts outside of a family's folder that name it; comments, docstrings and the nodes' one table may."""
    pattern, places = family_pattern(house.root), []
    for file in house.select(*PRODUCT):
        own = file.package[:2] == ("loaders", "families") and len(file.package) > 2
        if own or file.name == "nodes/loaders.py":
            continue
        for line, text in _code(file):
            if match := pattern.search(OTHERS_NAMED_ALIKE.sub("", text)):
                places.append(f"{file.name}:{line}: {match[0]}")
    return Measure("families named outside their folder", len(places), FAMILIES_NAMED, places)


def _code(file: Source) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a file, without comments and docstrings."""
    lines = dict(enumerate(file.lines, 1))
    for node in file.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[number] = ""
    for number, column, _ in _comments(file):
        lines[number] = lines[number][:column]
    yield from lines.items()


def _comments(file: Source) -> Iterator[tuple[int, int, str]]:
    """(line, column, text) of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type == tokenize.COMMENT:
            yield (*token.start, token.string)


# ---------------------------------------------------------------- functions and files


def _functions(files: list[Source]) -> Iterator[tuple[str, Function]]:
    for file in files:
        for function in file.functions:
            yield f"{file.name}:{function.lineno} {function.name}", function


def _longest(sizes: Mapping[str, int], unit: str) -> list[str]:
    return [f"{place}: {size} {unit}" for place, size in sorted(sizes.items(), key=lambda item: -item[1])]


def function_lines(house: House) -> Measure:
    """The lines of the longest function."""
    sizes = {place: _lines_of(function) for place, function in _functions(house.files)}
    return Measure("lines of the longest function", max(sizes.values()), FUNCTION_LINES, _longest(sizes, "lines"))


def function_median(house: House) -> Measure:
    """The median length of the product's functions."""
    sizes = {place: _lines_of(function) for place, function in _functions(house.select(*PRODUCT))}
    return Measure("median lines of a function", median(sizes.values()), FUNCTION_MEDIAN, _longest(sizes, "lines"))


def function_statements(house: House) -> Measure:
    """The statements of the function that has most."""
    sizes = {place: _statements_of(function) for place, function in _functions(house.files)}
    return Measure("statements of the largest function", max(sizes.values()), STATEMENTS, _longest(sizes, "statements"))


def _lines_of(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _statements_of(function: Function) -> int:
    """Statements inside, nested functions' too, the docstring not."""
    inside = sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1
    return inside - (ast.get_docstring(function, clean=False) is not None)


def file_lines(house: House) -> Measure:
    """The lines of the longest file."""
    sizes = {file.name: len(file.lines) for file in house.files}
    return Measure("lines of the longest file", max(sizes.values()), FILE_LINES, _longest(sizes, "lines"))


def long_lines(house: House) -> Measure:
    """Lines wider than the formatter makes them."""
    places = [
        f"{file.name}:{number}: {len(line)} columns"
        for file in house.files
        for number, line in enumerate(file.lines, 1)
        if len(line) > COLUMNS
    ]
    return Measure(f"lines over {COLUMNS} columns", len(places), LONG_LINES, places)


# ---------------------------------------------------------------- words to the tools


def format_skips(house: House) -> Measure:
    """Statements that the formatter is kept off and that are no table of data."""
    places = []
    keeps_off = re.compile(r"fmt: ?(?:skip|off)")
    for file in filter(lambda file: keeps_off.search(file.text), house.files):
        for line, _, text in _comments(file):
            if keeps_off.search(text) and not _is_table(_statement_at(file, line)):
                places.append(f"{file.name}:{line}")
    return Measure("`fmt: skip` outside tables", len(places), SKIPS, places)


def _statement_at(file: Source, line: int) -> ast.AST | None:
    """The smallest statement or decorator around a line."""
    candidates: list[ast.stmt | ast.expr] = []
    for node in file.nodes:
        if isinstance(node, ast.stmt):
            candidates.append(node)
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            candidates += node.decorator_list
    around = [node for node in candidates if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return min(around, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)


def _is_table(node: ast.AST | None) -> bool:
    """Whether a statement does nothing but name a display of constants, or a decorator hands some to a test."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        displayed = isinstance(node.value, (ast.Dict, ast.List, ast.Tuple, ast.Set))
        return displayed and node.value is not None and _is_data(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "parametrize":
        return all(map(_is_data, node.args))
    return False


def _is_data(node: ast.AST) -> bool:
    """Whether an expression is made of constants alone, negative ones and nested displays included."""
    parts = (ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.Set, ast.UnaryOp, ast.USub, ast.expr_context)
    return all(isinstance(part, parts) for part in ast.walk(node))


def anys(house: House) -> Measure:
    """Where the product says `Any`, imports of the word aside."""
    places = [
        f"{file.name}:{node.lineno}"
        for file in house.select(*PRODUCT)
        for node in file.nodes
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    return Measure("`Any` in loaders, samplers, nodes", len(places), ANYS, places)


HOST_METHODS = {"define_schema", "execute", "validate_inputs", "fingerprint_inputs", "get_node_list"}


def docstrings(house: House) -> Measure:
    """Public functions and methods of the product without a docstring; an override has that of what it overrides."""
    files = house.select(*PRODUCT)
    documented = HOST_METHODS | {
        function.name for file in files for function in _methods(file) if ast.get_docstring(function)
    }
    places = []
    for file in files:
        bare = [node for node in file.tree.body if isinstance(node, FUNCTIONS) and not ast.get_docstring(node)]
        bare += [m for m in _methods(file) if not ast.get_docstring(m) and m.name not in documented]
        places += [f"{file.name}:{f.lineno} {f.name}" for f in bare if not f.name.startswith("_")]
    return Measure("public functions without docstring", len(places), DOCSTRINGS, places)


def _methods(file: Source) -> list[Function]:
    """The methods of a file's public classes."""
    classes = [node for node in file.tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return [node for kind in classes for node in kind.body if isinstance(node, FUNCTIONS)]


MEASURES: tuple[Callable[[House], Measure], ...] = (
    import_circles,
    files_per_folder,
    room_arrows,
    families_named,
    function_lines,
    function_median,
    function_statements,
    file_lines,
    long_lines,
    format_skips,
    anys,
    docstrings,
)


# ---------------------------------------------------------------- the table


def ratchet(path: Path = RATCHET) -> dict[str, float]:
    """Numbers above their limits that stand for now, by name of measure."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def allowed(measure: Measure, table: Mapping[str, float]) -> float:
    """The most that a measure may be: its limit, or what stands in the table for now."""
    return max(measure.limit, table.get(measure.name, 0))


def broken(numbers: list[Measure], table: Mapping[str, float]) -> list[Measure]:
    """The measures that are over what is allowed."""
    return [measure for measure in numbers if measure.value > allowed(measure, table)]


def tightened(numbers: list[Measure], table: Mapping[str, float]) -> dict[str, float]:
    """The table with every number that went down, without those that their limit allows."""
    lower = {measure.name: min(measure.value, table.get(measure.name, 0)) for measure in numbers}
    return {measure.name: lower[measure.name] for measure in numbers if lower[measure.name] > measure.limit}


def rows(numbers: list[Measure], table: Mapping[str, float]) -> Iterator[str]:
    """The table for people."""
    yield f"{'':40} {'now':>6} {'limit':>6} {'for now':>8}"
    for measure in numbers:
        now = f"{table[measure.name]:g}" if measure.name in table else ""
        mark = "  BROKEN" if measure.value > allowed(measure, table) else ""
        yield f"{measure.name:40} {measure.value:6g} {measure.limit:6g} {now:>8}{mark}"


def main(argv: list[str]) -> int:
    """Prints the table; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description="The structure of the repository in numbers, against its limits.")
    parser.add_argument("--all", action="store_true", help="list every place that counts")
    parser.add_argument("--tighten", action="store_true", help="write lower numbers to house.json")
    options = parser.parse_args(argv)
    numbers, table = measures(House()), ratchet()
    print(*rows(numbers, table), sep="\n")
    for measure in numbers if options.all else broken(numbers, table):
        print(f"\n{measure.name}:", *measure.places[: None if options.all else 20], sep="\n  ")
    if options.tighten:
        RATCHET.write_text(json.dumps(tightened(numbers, table), indent=2) + "\n", encoding="utf-8")
    return 1 if broken(numbers, table) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
