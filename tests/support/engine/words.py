"""What is said to people, where a test looks at its key and its values."""

from __future__ import annotations

from reelwire.loaders.messages import Message


def worded(text: object) -> Message:
    """The same, which is a message and not a plain string."""
    assert isinstance(text, Message), text
    return text
