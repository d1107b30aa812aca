"""What a node says to people: while it runs, and what stays on it when it is done."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping

from comfy_api.latest import io
from torch import Tensor

from ...loaders.common.door import open_images, open_mask
from ...loaders.messages import Message, data, inputs_named, message, quoted
from .arrivals import came_empty
from .notes import displayed, send

MOST_NOTES = 100  # that stay on a node
LONGEST_NOTE = 2000  # characters of one that is no message of ours


class Report:
    """The messages of one run of a node, in order."""

    def __init__(self, cls: type[io.ComfyNode]) -> None:
        self._node, self._messages = displayed(cls.hidden.unique_id), list[str]()
        self._full = False
        self.tell(*(message("came_empty", input=inputs_named(name)) for name in came_empty.get()))

    def __contains__(self, text: str) -> bool:
        """Whether this was told already."""
        return text in self._messages

    def tell(self, *messages: str, level: int = logging.WARNING) -> None:
        """Show messages on the node, where they stay, and log them for those who run without the page."""
        room = max(MOST_NOTES - len(self._messages), 0)
        shown = [text if isinstance(text, Message) else quoted(text, LONGEST_NOTE) for text in messages[:room]]
        if len(messages) > room and not self._full:
            shown.append(message("more_notes", count=len(messages) - room))
            self._full = True
        for text in shown:
            logging.log(level, "Reelwire: %s", text)
        self._messages += shown
        self._send(shown, passing=False)

    def images(self, name: str, images: Tensor) -> Tensor:
        """An IMAGE as the models take it, with what was changed told; raises InputError for what is none."""
        opened, notes = open_images(name, images)
        self.tell(*notes)
        return opened

    def mask(self, name: str, mask: Tensor) -> Tensor:
        """A MASK as the models take it, with what was changed told; raises InputError for what is none."""
        opened, notes = open_mask(name, mask)
        self.tell(*notes)
        return opened

    def show(self, *messages: str) -> None:
        """Show messages on the node until the next ones come, or until it is done."""
        self._send(messages, passing=True)

    def ui(self, output: Mapping[str, object] | None = None, result: str = "") -> dict[str, object]:
        """What stays on the node, for its output: `result`, all messages, and what else it shows.

        Always under the same keys, as the host joins the outputs of a node that runs over a list by those of the first;
        and as texts, because it counts everything else as a file that was made.
        """
        lines = [*([result] if result else []), *self._messages]
        return {
            **(output or {}),
            "text": [str(line) for line in lines],
            "reelwire": [json.dumps(data(line)) for line in lines],
        }

    def _send(self, messages: Iterable[str], passing: bool) -> None:
        """Send messages to the page; passing ones go with the next."""
        if notes := [data(text) for text in messages]:
            send("reelwire.note", {"node": self._node, "messages": notes, "passing": passing})
