"""The graphs that run on ComfyUI's page: ours, and one of ComfyUI's own nodes alone, beside which it is laid.

Both make a video that is shown on its node, in about the same time, are changed in as many widgets between runs, and
are refused, fail and are interrupted at the same ones. What the stock graph lacks, as no node of ComfyUI's makes it
without published weights: pictures while it is sampled (it shows those of its frames, once), and the chart of a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..support.host import Prompt, node
from ..support.page.node_views import DECODE, SAMPLER, film, keyframes

OURS, STOCK = "", "stock"
Changes = list[list[Any]]  # of widgets: [id of the node, name, value]


@dataclass(frozen=True)
class PageGraph:
    """changes: what differs in a run that ends as its kind says, by the kind and the number of the run; interrupt: the
    event of the page's at which a run is interrupted."""

    prompt: Prompt
    changes: Callable[[str, int], Changes]
    interrupt: str


def _ours() -> PageGraph:
    prompt = keyframes(0, 8)
    prompt["2"] = film("")["2"]  # a cache, which has a chart
    prompt[SAMPLER]["inputs"]["model"] = ["2", 0]

    def changes(kind: str, number: int) -> Changes:
        return [
            [SAMPLER, "seed", number],
            [SAMPLER, "steps", 8 if kind == "interrupted" else 4],
            ["7", "frame", 8 if kind == "error" else 0],  # where the next one is
            [DECODE, "filename_prefix", "/outside" if kind == "refused" else "page/soak"],
        ]

    return PageGraph(prompt, changes, "b_preview_with_metadata")


def _stock() -> PageGraph:
    prompt = {
        "1": node("EmptyImage", width=128, height=128, batch_size=17, color=255),
        "2": node("ImageAddNoise", image=["1", 0], seed=0, strength=0.5),
        "3": node("ImageBlur", image=["2", 0], blur_radius=15, sigma=4.0),  # takes as long as the sampling of ours
        "4": node("ImageBlur", image=["3", 0], blur_radius=15, sigma=4.0),
        "5": node("PreviewImage", images=["4", 0]),
        "6": node("CreateVideo", images=["4", 0], fps=25.0),
        "7": node("SaveVideo", video=["6", 0], filename_prefix="page/stock", format="auto", codec="auto"),
    }

    def changes(kind: str, number: int) -> Changes:
        return [
            ["2", "seed", number],
            ["3", "blur_radius", 14 if kind == "interrupted" else 15],
            ["1", "batch_size", 0 if kind == "refused" else 17],
            ["7", "filename_prefix", "/outside" if kind == "error" else "page/stock"],
        ]

    return PageGraph(prompt, changes, "executing")


GRAPHS: dict[str, Callable[[], PageGraph]] = {OURS: _ours, STOCK: _stock}
