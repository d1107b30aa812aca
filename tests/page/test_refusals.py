"""What is refused before a run, on ComfyUI's page: as many errors as mistakes, each at its own input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.page.node_views import DECODE, SAMPLER, TOASTS, film, parts
from reelwire.tests.support.page.pages import MOUNTED, becomes, choose_language, load
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

MISTAKES: dict[str, dict[str, Any]] = {SAMPLER: {"width": 100, "height": -8}, DECODE: {"filename_prefix": "a:b"}}
COUNTED = """() => Object.entries(app.extensionManager.lastNodeErrors ?? {}).flatMap(
    ([id, { errors }]) => errors.map(({ extra_info }) => [id, extra_info.input_name])).sort()"""
# the inputs that are drawn as wrong; in Nodes 2.0 those whose label is red, by what it says
RINGED = """() => LiteGraph.vueNodesMode
    ? [...document.querySelectorAll("[data-node-id] .text-node-stroke-error")].map(label =>
        [label.closest("[data-node-id]").dataset.nodeId, label.innerText.trim()]).filter(([, name]) => name).sort()
    : app.rootGraph.nodes.flatMap(node => node.inputs.filter(input => input.hasErrors).map(
        input => [String(node.id), input.name])).sort()"""
LABELS = {"en": ["width", "height", "filename_prefix"], "zh": ["宽度", "高度", "文件名前缀"]}


@pytest.mark.parametrize("language", LABELS)
def test_three_mistakes_are_three_errors_at_three_inputs(
    view: tuple[Page, str], language: str, screenshots: Screenshots
) -> None:
    page, renderer = view
    graph = film("page/mistakes")
    for name, values in MISTAKES.items():
        graph[name]["inputs"] |= values
    choose_language(page, language)
    try:
        load(page, graph, f"mistakes in {language} {renderer}")
        page.evaluate("() => app.queuePrompt(0, 1)")
        expected = sorted([name, field] for name, values in MISTAKES.items() for field in values)
        becomes(page, COUNTED, expected)
        page.wait_for_function(MOUNTED)
        labels = dict(zip(LABELS["en"], LABELS[language], strict=True))
        if renderer == "Nodes 2.0":
            expected = sorted([name, labels[field]] for name, field in expected)
        becomes(page, RINGED, expected)
        becomes(page, f"() => ({TOASTS})().length", len(MISTAKES))
        screenshots.take(page, f"mistakes {language} {renderer}")
        for name, values in MISTAKES.items():
            (error,) = page.evaluate(parts(("error",)), name)
            assert [labels[field] for field in values if f"{labels[field]} = " not in error] == [], error
    finally:
        choose_language(page, "en")
