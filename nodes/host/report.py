"""What a node says to people: while it runs, and what stays on it when it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any


def message(text: str) -> dict[str, Any]:
    """A message as the page gets it; what has no key is shown as it is."""
    return {"key": getattr(text, "key", ""), "values": dict(getattr(text, "values", {})), "text": str(text)}


class Report:
    """The messages of one run of a node, in order."""

    def __init__(self, cls: Any) -> None:
        self._node, self._messages = cls.hidden.unique_id, list[str]()

    def __contains__(self, text: str) -> bool:
        """Whether this was told already."""
        return text in self._messages

    def tell(self, *messages: str, level: int = logging.WARNING) -> None:
        """Show messages on the node, where they stay, and log them for those who run without the page."""
        for text in messages:
            logging.log(level, "Reelwire: %s", text)
        self._messages += messages
        self._send(messages, passing=False)

    def show(self, *messages: str) -> None:
        """Show messages on the node until the next ones come, or until it is done."""
        self._send(messages, passing=True)

    def ui(self, shown: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What stays on the node, for its output: all that was told, and what else it shows; None where that is nothing."""
        told = {"text": list(self._messages), "reelwire": [message(text) for text in self._messages]}
        return {**(shown or {}), **(told if self._messages else {})} or None

    def _send(self, messages: Iterable[str], passing: bool) -> None:
        from server import PromptServer

        server, notes = PromptServer.instance, [message(text) for text in messages]
        if notes:
            data = {"node": self._node, "messages": notes, "passing": passing}
            server.send_sync("reelwire.note", data, server.client_id)
