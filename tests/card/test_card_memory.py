"""All of test_host_memory.py where weights wait in RAM and compute on a card, as they do for people who have one."""

from __future__ import annotations

import pytest
from reelwire.tests.nodes.test_host_memory import *  # noqa: F403

pytestmark = [pytestmark, pytest.mark.on_card]  # noqa: F405
