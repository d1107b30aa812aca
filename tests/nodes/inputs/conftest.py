"""The pack's nodes in this process, for tests that call them as ComfyUI would."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.support.card import seen_by_comfyui


@pytest.fixture(scope="session")
def nodes(comfyui: Path) -> Iterator[list[Any]]:
    """The pack's nodes, as ComfyUI gets them, in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    with seen_by_comfyui():
        from reelwire import nodes

        with ThreadPoolExecutor() as pool:  # tests of the page leave an event loop running in this thread
            listed = pool.submit(asyncio.run, nodes.ReelwireExtension().get_node_list())
        yield listed.result()
    sys.path.remove(str(comfyui))
