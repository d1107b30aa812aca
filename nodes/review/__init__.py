"""Prompts that hold words of a list: refused, or held until a person decides."""

from __future__ import annotations

from dataclasses import asdict

from ...loaders.parts import JsonObject
from .node import ReviewPrompt as ReviewPrompt
from .node import store as store
from .store import ACTIONS as ACTIONS

NODES = [ReviewPrompt]


def listed() -> JsonObject:
    """What waits and what was decided, for the page."""
    return {"prompts": [asdict(case) for case in store().cases()]}


def decide(id: str, action: str, by: str, address: str) -> JsonObject:
    """Decide of one; raises LookupError where there is none of this id."""
    return asdict(store().decide(id, action, by, address))
