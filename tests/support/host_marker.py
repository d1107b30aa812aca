"""Which tests need a process of their own beside pytest's: `-m "not host"` runs the fast half, the engine's."""

from __future__ import annotations

import pytest

MARK = "host"
# a ComfyUI, its page in a browser, or Ray's processes
FIXTURES = {"host", "page", "card_host", "dynamic_card_host", "card_host_of", "toy_host", "ray_crew"}


def mark_hosts(items: list[pytest.Item]) -> None:
    """Mark the tests that use one of FIXTURES, and those that run in the process that has the pretend card."""
    for item in items:
        if FIXTURES & {*getattr(item, "fixturenames", ())} or item.get_closest_marker("on_card"):
            item.add_marker(MARK)
