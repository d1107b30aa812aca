"""The examples of the developers' documents, which tests run as they stand."""

from __future__ import annotations

import re

from .host import ROOT


def code_blocks(page: str) -> list[str]:
    """The Python code of a page in docs/, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
