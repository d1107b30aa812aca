"""A pack of custom nodes without a node: on SIGUSR1 its ComfyUI prints what each of its threads does."""

from __future__ import annotations

import faulthandler
import signal
import sys
from typing import Any

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

if hasattr(signal, "SIGUSR1") and sys.__stderr__ is not None:
    faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
