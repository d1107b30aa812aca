"""A node's functions as tests call them, whether they wait for others or not."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


def execute(node: Any, **inputs: Any) -> Any:
    """What a node makes of its inputs."""
    return waited_for(node.execute(**inputs))


def waited_for(result: Any) -> Any:
    """What a function gives, or what it gives once it is done."""
    if not inspect.iscoroutine(result):
        return result
    with ThreadPoolExecutor(1) as pool:  # a loop of its own: Playwright keeps one running in the test's thread
        return pool.submit(copy_context().run, asyncio.run, result).result()
