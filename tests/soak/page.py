"""ComfyUI's page in Chromium, on which runs with previews follow each other, and what it holds meanwhile.

Of every ten runs one is refused, one fails and one is interrupted: their words come and go beside charts and videos.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import psutil

from ...bench.export_workflow import open_page
from ..support.host import Host
from ..support.page.pages import RENDERERS, choose, load, prepare, render_with, renew, run
from .graphs import GRAPHS, OURS, STOCK, PageGraph
from .samples import FLAT, curves, ends_of, growth

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

PAGE_WARM = 80  # runs: the page lists the last 64
EVERY = 10  # runs between two samples
# Counts blob URLs, and of blob URLs, elements and event listeners those that a script of ours has made and that are
# there still. The page's own tooltips bind three listeners more to their buttons at each update, and its floating panel
# of the queue keeps a dozen elements a run: the one is undone here, the other is left shut (DOCKED), so that less hides
# what is ours.
COUNT = """(() => {
    const isOurs = () => new Error().stack.includes("/extensions/reelwire/");
    const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL], urls = new Map();
    URL.createObjectURL = thing => {
        const url = create.call(URL, thing);
        urls.set(url, isOurs());
        return url;
    };
    URL.revokeObjectURL = url => { urls.delete(url); revoke.call(URL, url); };

    const elements = [], make = document.createElement;
    document.createElement = function (...options) {
        const element = make.apply(this, options);
        if (isOurs()) elements.push(new WeakRef(element));
        return element;
    };

    const listeners = [], bound = new WeakMap();
    const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
    const isGone = each => !each.target.deref() || !each.listener.deref() || each.signal?.deref()?.aborted;
    EventTarget.prototype.addEventListener = function (type, listener, options) {
        const stack = new Error().stack;
        if (listener && stack.includes("/extensions/reelwire/"))
            listeners.push({ type, target: new WeakRef(this), listener: new WeakRef(listener),
                             signal: options?.signal && new WeakRef(options.signal) });
        if (stack.includes("bindEvents (") && stack.includes("primevue") && this instanceof HTMLElement) {
            const before = bound.get(this) ?? bound.set(this, {}).get(this);
            if (before[type]) remove.call(this, type, before[type], options);
            before[type] = listener;
        }
        return add.call(this, type, listener, options);
    };
    EventTarget.prototype.removeEventListener = function (type, listener, options) {
        const index = listeners.findLastIndex(
            each => each.type === type && each.target.deref() === this && each.listener.deref() === listener);
        if (index >= 0) listeners.splice(index, 1);
        return remove.call(this, type, listener, options);
    };

    window.counted = () => [
        urls.size, [...urls.values()].filter(Boolean).length,
        elements.filter(each => each.deref()).length, listeners.filter(each => !isGone(each)).length];
})()"""
DOCKED = "Comfy.Queue.QPOV2"
# what the page lets grow by itself (of each of its toasts it keeps some 50 kB, of each row of a node that goes its
# elements); ours are counted apart, and what a run adds to these is laid beside a stock graph's: how much more of it
# than stock's is clearly more
OF_THE_PAGE = {"heap": 10_000, "nodes": 2, "listeners": 2}
TIMES = 1.25  # that, and so many times as much as stock's
SET = """values => {
    for (const [id, name, value] of values)
        app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === name).value = value;
}"""
INTERRUPT = """event => app.api.addEventListener(
    event, () => app.api.fetchApi("/interrupt", { method: "POST" }), { once: true })"""


@dataclass(frozen=True)
class PageSample:
    """After a number of runs, garbage collected: bytes of JavaScript's heap, DOM nodes, event listeners, blob URLs in
    all and ours, elements and listeners that are ours, and bytes that are the host's alone.
    """

    run: int
    heap: int
    nodes: int
    listeners: int
    blobs: int
    our_blobs: int
    our_elements: int
    our_listeners: int
    host: int


@dataclass
class PageResult:
    """samples: renderer -> after every few runs, of our graph; stock: of one of ComfyUI's own nodes; ends: how many
    runs ended how."""

    samples: dict[str, list[PageSample]] = field(default_factory=dict)
    stock: dict[str, list[PageSample]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)

    def faults(self) -> list[str]:
        """What is not flat, or grows by more than in a stock graph, and runs that failed, in words."""
        failed = [f"{kind or 'ours'}: {ended}" for kind, ended in self._failed()]
        grown = {renderer: growth(samples, warm_of(samples)) for renderer, samples in self.samples.items()}
        return (
            failed
            + [
                f"{renderer}: {name} grew by {share:.2%}"
                for renderer, shares in grown.items()
                for name, share in shares.items()
                if share > FLAT and name not in OF_THE_PAGE
            ]
            + [
                f"{renderer}: {name} grew by {ours:,.1f} a run, in a stock graph by {stock:,.1f}"
                for renderer, rows in self.beside().items()
                for name, (ours, stock) in rows.items()
                if ours > TIMES * max(stock, 0) + OF_THE_PAGE[name]
            ]
        )

    def _failed(self) -> Iterator[tuple[str, str]]:
        """(kind of graph, what was wrong) where fewer than half of its runs went through, of which seven in ten are
        left alone: what such runs let a page keep says nothing."""
        for kind in (OURS, STOCK):
            ends = {end: times for end, times in self.ends.items() if end.startswith(STOCK) == (kind == STOCK)}
            succeeded = ends.get(f"{kind} success".strip(), 0)
            if 2 * succeeded < sum(ends.values()):
                yield kind, f"{succeeded} of {sum(ends.values())} runs went through"

    def beside(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Renderer -> what is of the page -> by how much a run of ours, and one of the stock graph, lets it grow: of as
        many runs, as the page keeps less and less of each."""
        rows = dict[str, dict[str, tuple[float, float]]]()
        for renderer, stock in self.stock.items():
            ours = self.samples[renderer]
            last = min(ours[-1].run, stock[-1].run)
            ours, stock = ([each for each in samples if each.run <= last] for samples in (ours, stock))
            rows[renderer] = {name: (per_run(ours, name), per_run(stock, name)) for name in OF_THE_PAGE}
        return rows


def warm_of(samples: Sequence[PageSample]) -> int:
    """The run from which on growth counts."""
    return min(PAGE_WARM, samples[-1].run // 3)


def per_run(samples: Sequence[PageSample], name: str) -> float:
    """By how much each run lets a number grow once the page is warm."""
    later = [each for each in samples if each.run >= warm_of(samples)]
    before, after = ends_of(curves(later)[name])
    first, last = ends_of([(each.run, each.run) for each in later])
    return (after - before) / max(last - first, 1)


@dataclass(frozen=True)
class Watched:
    """A page whose garbage can be collected and whose things are counted."""

    page: Page
    session: CDPSession
    host: Host

    def sample(self, number: int) -> PageSample:
        """What there is now."""
        for _ in range(2):  # what finalisers let go
            self.session.send("HeapProfiler.collectGarbage")
        heap = self.session.send("Runtime.getHeapUsage")["usedSize"]
        counters = self.session.send("Memory.getDOMCounters")
        blobs, our_blobs, elements, listeners = self.page.evaluate("() => window.counted()")
        own = psutil.Process(self.host.pid).memory_full_info().uss
        return PageSample(
            number,
            int(heap),
            counters["nodes"],
            counters["jsEventListeners"],
            blobs,
            our_blobs,
            elements,
            listeners,
            own,
        )


def watched(page: Page, host: Host) -> Watched:
    """The page of a host, loaded anew so that all is counted."""
    page.add_init_script(COUNT)
    choose(page, DOCKED, True)
    renew(page)
    return Watched(page, page.context.new_cdp_session(page), host)


def soak_page(
    watch: Watched,
    renderer: str,
    goes_on: Callable[[int], bool],
    tell: Callable[[str], None],
    every: int = EVERY,
    kind: str = OURS,
) -> tuple[list[PageSample], Counter[str]]:
    """(samples, how many runs ended how) of a graph of GRAPHS in one renderer, while `goes_on` of the number of runs
    says so."""
    page, samples, ends = watch.page, list[PageSample](), Counter[str]()
    render_with(page, renderer)
    graph, title = GRAPHS[kind](), " ".join(filter(None, ("soak", kind, "in", renderer)))
    load(page, graph.prompt, title)
    for number in count():
        if number % every == 0 or not goes_on(number):
            watch.host.send("/history", {"clear": True})
            samples.append(watch.sample(number))
            tell(f"{number:5} runs, {title}, {dict(ends)}, {samples[-1]}")
        if not goes_on(number):
            return samples, ends
        ends[_perform(page, graph, number)] += 1
    raise AssertionError("unreachable")


def _perform(page: Page, graph: PageGraph, number: int) -> str:
    """One run; how it ended."""
    kind = {1: "refused", 4: "error", 7: "interrupted"}.get(number % 10, "success")
    page.evaluate(SET, graph.changes(kind, number))
    if kind == "refused":
        page.evaluate("() => app.queuePrompt(0, 1)")
        return kind
    if kind == "interrupted":
        page.evaluate(INTERRUPT, graph.interrupt)
    return run(page)[0].removeprefix("execution_")


def _before(end: float, number: int) -> bool:
    return time.monotonic() < end


def soak_pages(host: Host, minutes: float, tell: Callable[[str], None], stock: bool = False) -> PageResult:
    """The same number of minutes in each renderer. stock: half of them with a graph of ComfyUI's own nodes."""
    result, kinds = PageResult(), (OURS, STOCK) if stock else (OURS,)
    for renderer in RENDERERS:
        for kind in kinds:
            end = time.monotonic() + 60 * minutes / len(RENDERERS) / len(kinds)
            with open_page(host.url) as page:
                prepare(page, 1)
                goes_on = partial(_before, end)
                samples, ends = soak_page(watched(page, host), renderer, goes_on, tell, kind=kind)
            (result.stock if kind else result.samples)[renderer] = samples
            result.ends += Counter({f"{kind} {ended}".strip(): times for ended, times in ends.items()})
    return result
