"""Which tests run with `--extensive` alone: those that differ from one that always runs in the model and in nothing else."""

from __future__ import annotations

import re

# part of a test's name -> the parameters that are left out
LEFT_OUT = {
    "test_tiles.py::": r"ltx 0\.9\.[01]\b",  # 0.9.5 has the same code for tiles, and more of it
}
_RULES = [(name, re.compile(rf"\[.*(?:{parameters})")) for name, parameters in LEFT_OUT.items()]


def is_extensive(nodeid: str) -> bool:
    """Whether a test is left out where nobody asks for all of them."""
    return any(name in nodeid and rule.search(nodeid) for name, rule in _RULES)
