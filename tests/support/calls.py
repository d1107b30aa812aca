"""A node's `execute` as tests call it, whether it waits for others or not."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def execute(node: Any, **inputs: Any) -> Any:
    """What a node makes of its inputs."""
    result = node.execute(**inputs)
    return asyncio.run(result) if inspect.iscoroutine(result) else result
