"""The list of jobs: a JSON object a line, or CSV, checked against the workflow as a whole before anything starts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from ...loaders.parts import Argument, JsonObject

NAME = "name"  # the column that names a job's file; without it, what the job is made of does
MOST_WRONG = 50  # lines that are told at once
_NAMES = re.compile(r"[\w][\w.\- ]{0,99}")
_SWITCH = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}
Workflow = dict[str, JsonObject]


class WrongError(Exception):
    """A list or a workflow that cannot be run: all that is wrong with it, in words."""


@dataclass(frozen=True)
class FarmJob:
    """One file to make. key: its name without an ending. digest: of what it is made of. prompt: as ComfyUI takes it."""

    key: str
    digest: str
    line: int
    inputs: Mapping[str, object]
    prompt: Workflow


def read_workflow(path: Path) -> Workflow:
    """A workflow in ComfyUI's API form. Raises WrongError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongError(f"The workflow {path} cannot be read: {error}") from error
    if isinstance(content, dict) and "nodes" in content and "links" in content:
        raise WrongError(
            f"{path} is a workflow as the page saves it. The farm takes its API form: Workflow > Export (API)."
        )
    nodes = content.values() if isinstance(content, dict) else ()
    if not nodes or not all(isinstance(n, dict) and isinstance(n.get("inputs"), dict) for n in nodes):
        raise WrongError(f"{path} is no workflow in ComfyUI's API form: Workflow > Export (API) writes one.")
    return dict(content)


def read_jobs(path: Path, workflow: Workflow) -> list[FarmJob]:
    """All jobs of a list. Raises WrongError that names every wrong line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise WrongError(f"The list {path} cannot be read: {error}") from error
    wrong, jobs, seen = list[str](), list[FarmJob](), dict[str, int]()
    for number, row in _rows(text, path.suffix.lower() == ".csv", wrong):
        faults, job = _job(number, row, workflow)
        if job is not None and (earlier := seen.setdefault(job.key.casefold(), number)) != number:
            faults.append(f"it would write the file {job.key} of line {earlier}: give each a {NAME} of its own")
        wrong += [f"line {number}: {fault}" for fault in faults]
        if job is not None:
            jobs.append(job)
    if wrong:
        rest = [f"... and {len(wrong) - MOST_WRONG} more"] if len(wrong) > MOST_WRONG else []
        raise WrongError("\n".join([f"Nothing was started: {path.name} does not fit.", *wrong[:MOST_WRONG], *rest]))
    if not jobs:
        raise WrongError(f"There is no job in {path}.")
    return jobs


def _rows(text: str, is_csv: bool, wrong: list[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(line, its values by their names), of those that can be read; what is wrong with the others goes to `wrong`."""
    if is_csv:
        reader = csv.DictReader(io.StringIO(text), restkey="")
        for values in reader:
            if "" in values or None in values.values():
                wrong.append(f"line {reader.line_num}: it does not have as many values as the first line has names")
                continue
            yield reader.line_num, {name: value for name, value in values.items() if value != ""}
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            wrong.append(f"line {number}: it is no JSON: {error}")
            continue
        if isinstance(content, dict):
            yield number, content
        else:
            wrong.append(f"line {number}: it is no JSON object, as {{'Video Sampler.seed': 1}}")


def _job(number: int, row: Mapping[str, object], workflow: Workflow) -> tuple[list[str], FarmJob | None]:
    """(what is wrong with a line, its job where nothing is)."""
    prompt: Workflow = {key: {**node, "inputs": dict(node["inputs"])} for key, node in workflow.items()}
    faults = list[str]()
    for name, value in row.items():
        if name == NAME:
            continue
        try:
            key, field = _place(name, workflow)
            prompt[key]["inputs"][field] = _fitting(value, workflow[key]["inputs"][field], name)
        except WrongError as error:
            faults.append(str(error))
    given = row.get(NAME)
    if given is not None and not (isinstance(given, str) and _NAMES.fullmatch(given)):
        faults.append(f"{NAME} = {given!r}: letters, digits, spaces and _ - . make a file's name")
    if faults:
        return faults, None
    bare = {
        key: {name: node[name] for name in ("class_type", "inputs") if name in node} for key, node in prompt.items()
    }
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:16]
    return [], FarmJob(str(given or digest), digest, number, dict(row), prompt)


def _place(name: str, workflow: Workflow) -> tuple[str, str]:
    """(node, input) that a name means: "Title.input", "id.input", or "input" where one node alone has it."""
    node, dot, field = name.rpartition(".")
    if not dot:
        found = [
            key for key, each in workflow.items() if field in each["inputs"] and not _is_link(each["inputs"][field])
        ]
        if len(found) == 1:
            return found[0], field
        if found:
            places = ", ".join(f"{_title(workflow, key)}.{field}" for key in found)
            raise WrongError(f"{name}: several nodes have it; write one of {places}")
        known = sorted({f for each in workflow.values() for f, v in each["inputs"].items() if not _is_link(v)})
        raise WrongError(f"{name}: no node of the workflow has such an input{_near(field, known)}")
    found = [node] if node in workflow else [key for key in workflow if node in _titles(workflow, key)]
    if not found:
        known = [_title(workflow, key) for key in workflow]
        raise WrongError(f"{name}: the workflow has no node of that title or number{_near(node, known)}")
    if len(found) > 1:
        raise WrongError(f"{name}: the nodes {', '.join(found)} have that title; write the number")
    inputs = workflow[found[0]]["inputs"]
    if field not in inputs:
        raise WrongError(f"{name}: the node has no input {field}{_near(field, list(inputs))}")
    if _is_link(inputs[field]):
        raise WrongError(f"{name}: this input comes from the node {_title(workflow, inputs[field][0])}: set it there")
    return found[0], field


def _title(workflow: Workflow, key: str) -> str:
    return next(iter(_titles(workflow, key)), key)


def _titles(workflow: Workflow, key: str) -> list[str]:
    """What a node is called: in the workflow, on the page in each language, in code."""
    node = workflow.get(key, {})
    kind = str(node.get("class_type") or "")
    names = [str(node.get("_meta", {}).get("title") or ""), *_shown().get(kind, ()), kind]
    return [name for name in names if name]


@cache
def _shown() -> Mapping[str, list[str]]:
    """Our nodes -> how the page calls them: the workflows that come with the pack do not say so."""
    names = dict[str, list[str]]()
    for language in ("en", "zh"):
        file = Path(__file__).parents[2] / "locales" / language / "nodeDefs.json"
        for kind, node in json.loads(file.read_text(encoding="utf-8")).items():
            names.setdefault(kind, []).append(str(node.get("display_name", "")))
    return names


def _near(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known[:20])}"


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _fitting(value: object, like: Argument, name: str) -> object:
    """A value of the kind that the workflow has there; a text of CSV becomes one."""
    if isinstance(like, bool):
        known = _SWITCH.get(str(value).lower())
        if known is not None:
            return known
        raise WrongError(f"{name} = {value!r}: true or false is wanted")
    if isinstance(like, int | float):
        number = _number(value)
        if number is None or isinstance(value, bool):
            raise WrongError(f"{name} = {value!r}: a number is wanted, as {like}")
        if isinstance(like, int) and number != int(number):
            raise WrongError(f"{name} = {value!r}: a whole number is wanted, as {like}")
        return int(number) if isinstance(like, int) else float(number)
    if isinstance(like, str) and not isinstance(value, str):
        raise WrongError(f"{name} = {value!r}: a text is wanted, as {like[:40]!r}")
    return value


def _number(value: object) -> int | float | None:
    """A number, or what a text says; None where it is none, or endless."""
    try:
        return int(str(value))
    except ValueError:
        pass
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
