"""What is said to people, where a test looks at its keys and its values and not at its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from reelwire.loaders.messages import Message, message_of


def worded(text: object) -> Message:
    """The same, which is a message and not a plain string."""
    assert isinstance(text, Message), text
    return text


def parts(text: object) -> list[Message]:
    """The messages that a text is made of, itself first."""
    inner = [part for value in getattr(text, "values", {}).values() for part in parts(value)]
    return [text, *inner] if isinstance(text, Message) else []


@contextmanager
def refuses(kind: type[Exception], *keys: str, **values: object) -> Iterator[None]:
    """An error of this kind whose message has these keys in it, the first one with these values, written as text."""
    with pytest.raises(kind) as error:
        yield
    said = {part.key: part.values for part in parts(message_of(error.value))}
    assert {*keys} - said.keys() == set(), error.value
    assert {name: str(said[keys[0]][name]) for name in values} == {name: str(value) for name, value in values.items()}
