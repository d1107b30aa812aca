"""Where the nodes of a template stand: no wire behind a node, no node under another one, also after a run.

All in the page's units. Boxes are (left, top, right, bottom) with a node's title bar; a wire is a list of points.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

PLAN = json.loads(Path(__file__).with_name("layout.json").read_text(encoding="utf-8"))
TITLE, SLOT, INSET = 30, 20, 10  # heights of a node's title bar and of one slot; how far inside a wire ends
GAP, BETWEEN, WITHIN, MARGIN = 50, 120, 90, 12  # between columns, nodes of two groups and of one, beside a wire
NOTE = "MarkdownNote"
PADDING, FOOT, HEAD = 20, 40, 40  # of a group around its nodes, below them, and for its title
VIEW = 16, 9  # how a screen is shaped
LANE, MOST_MOVES, LOWEST = 24, 400, 1200  # between two wires that go round; when a wire has to

Box = tuple[float, float, float, float]
Point = tuple[float, float]


class Wire(NamedTuple):
    """A link: (node, output slot) -> (node, input slot)."""

    source: int
    output: int
    target: int
    input: int


@dataclass
class Node:
    """A node as the page made it; position and size are what the layout sets."""

    id: int
    type: str
    width: float
    height: float
    x: float = 0
    y: float = 0
    column: int = 0
    rank: int = 0
    group: str = ""
    chart: float = 0

    @property
    def grown(self) -> float:
        """Its height after a run."""
        square = self.width + PLAN["squares"][self.type] if self.type in PLAN["squares"] else 0
        return max(self.height + PLAN["shows"].get(self.type, 0) + self.chart, square)

    @property
    def box(self) -> Box:
        return self.x, self.y - TITLE, self.x + self.width, self.y + self.grown

    def entry(self, slot: int) -> Point:
        return self.x + INSET, self.y + (slot + 0.7) * SLOT

    def exit(self, slot: int) -> Point:
        return self.x + self.width - INSET, self.y + (slot + 0.7) * SLOT


def curve(start: Point, end: Point, steps: int = 40) -> list[Point]:
    """The page's curve between two ends: a cubic one that leaves to the right and arrives from the left."""
    reach = 0.25 * ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    xs = (start[0], start[0] + reach, end[0] - reach, end[0])
    ys = (start[1], start[1], end[1], end[1])
    weights = lambda t: ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    along = lambda axis, t: sum(w * v for w, v in zip(weights(t), axis, strict=True))
    return [(along(xs, i / steps), along(ys, i / steps)) for i in range(steps + 1)]


def path(points: Iterable[Point]) -> list[Point]:
    """The whole way of a wire through the points that it is led by."""
    stops = list(points)
    return [p for start, end in pairwise(stops) for p in curve(start, end)]


def inside(points: Iterable[Point], box: Box, margin: float = 0) -> list[Point]:
    """The points of a way that lie in a box."""
    left, top, right, bottom = box
    return [p for p in points if left < p[0] < right and top - margin < p[1] < bottom + margin]


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass
class Layout:
    """Nodes in columns and the wires between them; `led` holds the points that wires are led by."""

    nodes: dict[int, Node]
    wires: list[Wire]
    led: dict[Wire, list[Point]] = field(default_factory=dict)
    gaps: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Beside a cache a sampler shows a chart too."""
        if any(node.type in PLAN["caches"] for node in self.nodes.values()):
            for node in self.nodes.values():
                node.chart = PLAN["charts"].get(node.type, 0)

    def arrange(self) -> None:
        """Give every node its place; where moving down does not help, make room for a wire, or lead it round."""
        self._columns()
        self._across()
        self._down()
        while (wire := self._settle()) is not None:
            source, target = self.nodes[wire.source].column, self.nodes[wire.target].column
            if target == source + 1:
                self.gaps[source] += GAP
            else:
                self.led[wire] = []
            self._across()
            self._down()
        for lane, wire in enumerate(self.led):
            self.led[wire] = self._round(wire, lane)

    def line(self, wire: Wire) -> list[Point]:
        start, end = self.nodes[wire.source].exit(wire.output), self.nodes[wire.target].entry(wire.input)
        return path([start, *self.led.get(wire, ()), end])

    def hits(self) -> Iterator[tuple[Wire, Node, list[Point]]]:
        """(wire, node, points) for each wire that runs behind a node."""
        for wire in self.wires:
            line = self.line(wire)
            for node in self.nodes.values():
                if node.id not in (wire.source, wire.target) and (points := inside(line, node.box)):
                    yield wire, node, points

    def _columns(self) -> None:
        """As far right as what comes after allows."""
        after = {name: [w.target for w in self.wires if w.source == name] for name in self.nodes}
        depth: dict[int, int] = {}

        def find(name: int) -> int:
            if name not in depth:
                depth[name] = max((find(target) + 1 for target in after[name]), default=0)
            return depth[name]

        last = max(map(find, self.nodes))
        for node in self.nodes.values():
            node.column = last - depth[node.id]
            node.rank = PLAN["order"].index(node.type) if node.type in PLAN["order"] else len(PLAN["order"])
        for wire in self.wires:  # what only shows something stands right behind its source
            if not after[wire.target] and self.nodes[wire.target].type in PLAN["only_show"]:
                self.nodes[wire.target].column = self.nodes[wire.source].column + 1

    def _stack(self, column: int) -> list[Node]:
        return sorted((n for n in self.nodes.values() if n.column == column), key=lambda n: (n.rank, n.id))

    def _across(self) -> None:
        x = 0.0
        for column in sorted({n.column for n in self.nodes.values()}):
            stack = self._stack(column)
            width = max(n.width for n in stack)
            for node in stack:  # all as wide as the widest, so that no wire crosses a corner
                node.x, node.width = x, width
            x += width + GAP + self.gaps[column]

    def _down(self) -> None:
        floor = self._floor()
        for column in {n.column for n in self.nodes.values()}:
            below, above = 0.0, ""  # where the last node ends, and its group
            for node in self._stack(column):
                free = below + (WITHIN if node.group == above else BETWEEN) if above else 0
                node.y = max(free, floor if node.group == "prompt" else 0)
                below, above = node.y + node.grown, node.group or "none"

    def _floor(self) -> float:
        """Where the group of prompts begins: below the loaders, where it stands in their columns too."""
        load = [n for n in self.nodes.values() if n.group == "load"]
        prompt = [n.column for n in self.nodes.values() if n.group == "prompt"]
        if not load or not prompt or min(prompt) > max(n.column for n in load):
            return 0
        return max(n.grown for n in load) + BETWEEN

    def note(self) -> Box:
        """Where the note stands, with nothing below, as it may grow: under what is read first or under the result."""
        nodes, width = list(self.nodes.values()), PLAN["note"][0]
        end = min(n.x for n in nodes if n.group not in ("load", "prompt", "measure")) - GAP
        last = max(n.x for n in nodes)
        places = [self._below(min(n.x for n in nodes), end), self._below(last, last + width)]
        return min(places, key=self._extent)

    def _below(self, left: float, right: float) -> Box:
        boxes = [*(n.box for n in self.nodes.values()), *groups(self.nodes.values()).values()]
        top = max(box[3] for box in boxes if box[0] < right and left < box[2]) + GAP + TITLE
        return left, top, right, top + PLAN["note"][1]

    def _extent(self, note: Box) -> float:
        """How far the page has to zoom out to show all of it."""
        left, top, right, bottom = around([note, *groups(self.nodes.values()).values()])
        return max((right - left) / VIEW[0], (bottom - top) / VIEW[1])

    def _settle(self) -> Wire | None:
        """Move nodes down out of the way of wires; the wire that cannot be helped so, or None."""
        for _ in range(MOST_MOVES):
            hit = next(((w, n, p) for w, n, p in self.hits() if w not in self.led), None)
            if hit is None:
                return None
            wire, node, points = hit
            self._lower(node, max(y for _, y in points) + MARGIN - node.box[1])
            if node.y > LOWEST:
                return wire
        return hit[0] if hit else None

    def _lower(self, node: Node, by: float) -> None:
        for other in self._stack(node.column):
            if (other.rank, other.id) >= (node.rank, node.id):
                other.y += by

    def _round(self, wire: Wire, lane: int) -> list[Point]:
        """Two points above all that stands between the wire's ends."""
        source, target = self.nodes[wire.source], self.nodes[wire.target]
        between = [n.box[1] for n in self.nodes.values() if source.column < n.column < target.column]
        y = min(between) - MARGIN - (lane + 1) * LANE
        return [(source.x + source.width + GAP / 2, y), (target.x - GAP / 2, y)]


def groups(nodes: Iterable[Node]) -> dict[str, Box]:
    """The box around the nodes of each group, as they are after a run."""
    boxes: dict[str, Box] = {}
    for node in nodes:
        box = (node.x - PADDING, node.y - TITLE - HEAD, node.x + node.width + PADDING, node.y + node.grown + FOOT)
        if node.group:
            boxes[node.group] = around((boxes.get(node.group, box), box))
    return boxes


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of them."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def of(template: Mapping[str, Any]) -> Layout:
    """The layout that a template in its UI form has."""
    nodes = {n["id"]: Node(n["id"], n["type"], *n["size"], *n["pos"]) for n in template["nodes"] if n["type"] != NOTE}
    wires = {link[0]: Wire(*link[1:5]) for link in template["links"]}
    points = {r["id"]: r for r in template["extra"].get("reroutes", ())}
    led: dict[Wire, list[Point]] = {}
    for link in template["extra"].get("linkExtensions", ()):
        at, line = link["parentId"], list[Point]()
        while at is not None:
            line.append(tuple(points[at]["pos"]))
            at = points[at].get("parentId")
        led[wires[link["id"]]] = line[::-1]
    return Layout(nodes, list(wires.values()), led)
