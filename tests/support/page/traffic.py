"""What ComfyUI's page asks for and complains about while it is listened to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..host import PACK

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request


@dataclass
class Traffic:
    """Requests to another host than this one, and what the console said of ours."""

    home: str
    abroad: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def asked(self, request: Request) -> None:
        place = urlsplit(request.url)
        if place.scheme in ("http", "https", "ws", "wss") and place.netloc != self.home:
            self.abroad.append(request.url)

    def said(self, line: ConsoleMessage) -> None:
        ours = f"/extensions/{PACK}/" in line.location["url"] or "Reelwire" in line.text
        if ours and line.type in ("error", "warning"):
            self.complaints.append(f"{line.text} {line.location['url']}")


@contextmanager
def listen(page: Page, url: str) -> Iterator[Traffic]:
    """What comes from now on to the end of the block, of a page of the host at this address."""
    traffic = Traffic(urlsplit(url).netloc)
    page.on("request", traffic.asked)
    page.on("console", traffic.said)
    yield traffic
    page.remove_listener("request", traffic.asked)
    page.remove_listener("console", traffic.said)
