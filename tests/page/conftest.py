"""The page in each renderer and in Chinese."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.page.pages import RENDERERS, choose_language, render_with
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def screenshots(request: pytest.FixtureRequest) -> Screenshots:
    return Screenshots.of(request.config)


@pytest.fixture(scope="module", params=RENDERERS)
def view(page: Page, request: pytest.FixtureRequest) -> Iterator[tuple[Page, str]]:
    """(the page, its renderer); no error of a pack's script may come while it is looked at."""
    errors: list[str] = []
    listen = lambda error: errors.extend([error.stack] if "/extensions/" in (error.stack or "") else [])
    page.on("pageerror", listen)
    render_with(page, request.param)
    yield page, request.param
    render_with(page, "LiteGraph")
    page.remove_listener("pageerror", listen)
    assert not errors


@pytest.fixture
def chinese(page: Page) -> Iterator[Page]:
    """The page in Chinese."""
    choose_language(page, "zh")
    yield page
    choose_language(page, "en")
