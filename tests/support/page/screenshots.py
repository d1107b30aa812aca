"""Pictures of the page for people to look at: `pytest --screenshots FOLDER` keeps them, without it none are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

OPTION = "--screenshots"


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, metavar="FOLDER", help="keep pictures of ComfyUI's page in this folder")


@dataclass(frozen=True)
class Screenshots:
    """Where pictures go; nowhere if folder is None."""

    folder: Path | None

    @classmethod
    def of(cls, config: pytest.Config) -> Screenshots:
        """As the command line asks for them."""
        return cls(config.getoption(OPTION))

    def take(self, page: Page, name: str, of: str | None = None) -> None:
        """Keep what the page shows as <folder>/<name>.png; letters, digits and dashes are left of the name. of: the
        selector of a part of it, as docs/ shows them."""
        if self.folder is not None:
            file = "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
            shown = page if of is None else page.locator(of).locator("visible=true").first
            shown.screenshot(path=self.folder / f"{file}.png")
