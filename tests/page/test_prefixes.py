"""Tokens of a file name prefix: the page writes out what widgets hold, and leaves dates to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.page.node_views import DECODE, SAMPLER, film
from reelwire.tests.support.page.pages import exported, load

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.parametrize(
    ("prefix", "sent"),
    [
        ("clips/%ReelwireSampler.seed%", "clips/31"),
        ("%ReelwireSampler.seed%_%date:yyyy-MM-dd%/%ReelwireTeaCache.threshold%", "31_%date:yyyy-MM-dd%/0.2"),
        ("%width%_%Nobody.seed%", "%width%_%Nobody.seed%"),
        ("plain", "plain"),
    ],
)
def test_a_prefix_is_sent_with_what_widgets_hold(page: Page, prefix: str, sent: str) -> None:
    """The workflow keeps it as it was typed."""
    load(page, film(prefix, seed=31), "prefixes")
    prompt, workflow = exported(page)
    assert prompt[DECODE]["inputs"]["filename_prefix"] == sent
    assert prompt[SAMPLER]["inputs"]["seed"] == 31
    (decode,) = [node for node in workflow["nodes"] if node["type"] == "ReelwireDecodeToVideo"]
    assert prefix in decode["widgets_values"]
