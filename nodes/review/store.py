"""Prompts that wait for a person, and what was decided of them: a file in ComfyUI's user folder that no route of the
host reads or writes."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ...loaders.files import alone_with, make_folder, read_whole, write_whole
from ...loaders.messages import CheckpointError, InputError, message, quoted, reason_of
from ...loaders.parts import JsonObject
from ...loaders.weights.json_files import MOST_BYTES, parse_object

HELD, RELEASED, DROPPED = "held", "released", "dropped"
ACTIONS = {"release": RELEASED, "drop": DROPPED, "undo": HELD}
MOST, ROOM = 500, MOST_BYTES // 2  # prompts, bytes of the file
SHOWN = 12  # characters of an id in words for people


@dataclass(frozen=True)
class Case:
    """A prompt that a list has matched.

    id: of its exact text. matched: the entries. state: one of HELD, RELEASED, DROPPED. count: how often it was queued
    while it was held. held, decided: seconds since 1970; decided is 0 before. by, address: who has decided, as the host
    knows users.
    """

    id: str
    text: str
    matched: tuple[str, ...]
    state: str = HELD
    count: int = 1
    held: int = 0
    decided: int = 0
    by: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        """By which people know it in logs."""
        return self.id[:SHOWN]


def id_of(prompt: str) -> str:
    """Of an exact text: one that was changed is another."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


class Store:
    """The cases on disk. Several processes may use one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cases(self) -> tuple[Case, ...]:
        """All, the newest first; raises CheckpointError for a file that is damaged: nothing passes then."""
        try:
            content = read_whole(self.path, MOST_BYTES + 1)
        except FileNotFoundError:
            return ()
        try:
            return tuple(_case(each) for each in parse_object(content)["prompts"])
        except (ValueError, KeyError, TypeError) as error:
            rule = message("review_damaged", file=self.path.name, error=reason_of(error))
            raise CheckpointError(rule, message("review_remove_file")) from error

    def find(self, prompt: str) -> Case | None:
        """What is known of a prompt."""
        return next((case for case in self.cases() if case.id == id_of(prompt)), None)

    def hold(self, prompt: str, matched: Sequence[str]) -> Case:
        """Put a prompt on the list, or count it once more; raises InputError where the list is full."""
        with self._changing() as cases:
            known = next((case for case in cases if case.id == id_of(prompt)), None)
            now, count = int(time.time()), (known.count + 1 if known is not None and known.state == HELD else 1)
            earlier = known.matched if known is not None else ()
            case = Case(id_of(prompt), prompt, tuple(dict.fromkeys((*matched, *earlier))), count=count, held=now)
            cases[:] = _bounded([case, *(each for each in cases if each.id != case.id)])
        words = ", ".join(map(repr, matched))
        logging.info("Reelwire: prompt %s is held for review: %s", case.name, quoted(words))
        return case

    def decide(self, id: str, action: str, by: str, address: str) -> Case:
        """Release or drop a case, or undo that; raises LookupError where there is no such case. It is logged."""
        with self._changing() as cases:
            at = next((i for i, case in enumerate(cases) if case.id == id), None)
            if at is None:
                raise LookupError(id)
            cases[at] = replace(
                cases[at],
                state=ACTIONS[action],
                decided=int(time.time()),
                by=quoted(by, 80).strip(),
                address=quoted(address, 80),
            )
            case = cases[at]
        logging.info("Reelwire: prompt %s: %s by %s (%s)", case.name, case.state, case.by, case.address)
        return case

    @contextmanager
    def _changing(self) -> Iterator[list[Case]]:
        """The cases, to be changed; they are then written at once, whole or not at all."""
        make_folder(self.path.parent)
        with alone_with(self.path):
            cases = list(self.cases())
            yield cases
            write_whole(self.path, _written(cases))


def _written(cases: Sequence[Case]) -> bytes:
    return json.dumps({"version": 1, "prompts": [asdict(case) for case in cases]}, ensure_ascii=False).encode()


def _bounded(cases: list[Case]) -> list[Case]:
    """As many cases as there is room for: the oldest decisions go first, which means that such a prompt is held anew.
    What waits is never dropped by itself: raises InputError where nothing else can go."""
    while len(cases) > MOST or len(_written(cases)) > ROOM:
        decided = [case for case in cases if case.state != HELD]
        if not decided:
            raise InputError("prompt", cases[0].text[:40], message("review_full", most=MOST), message("review_decide"))
        cases.remove(min(decided, key=lambda case: case.decided))
    return cases


def _case(entry: JsonObject) -> Case:
    """A case as it was written; raises ValueError or TypeError for what is none."""
    values = {field.name: entry[field.name] for field in fields(Case)}
    texts = (values[name] for name in ("id", "text", "state", "by", "address"))
    numbers = (values[name] for name in ("count", "held", "decided"))
    is_case = all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
    if not is_case or values["state"] not in ACTIONS.values() or values["id"] != id_of(values["text"]):
        raise ValueError(message("unlike_published"))
    return Case(**values | {"matched": tuple(map(str, values["matched"]))})
