"""A node's functions as tests call them, whether they wait for others or not."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def execute(node: Any, **inputs: Any) -> Any:
    """What a node makes of its inputs."""
    return waited_for(node.execute(**inputs))


def waited_for(result: Any) -> Any:
    """What a function gives, or what it gives once it is done."""
    return asyncio.run(result) if inspect.iscoroutine(result) else result
