"""The cluster file of the guide, as Ray itself reads one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"


def cluster_file(page: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    return yaml.safe_load(block)


def test_ray_takes_it() -> None:
    """In both languages it is one file, and no name in it is unknown to Ray."""
    util = pytest.importorskip("ray.autoscaler._private.util", reason="the extra `test` has it")
    config = cluster_file("cluster.md")
    assert cluster_file("cluster.zh.md") == config
    util.validate_config(util.prepare_config(copy.deepcopy(config)))
    misspelt = {**config, "head_start_commands": []}
    with pytest.raises(Exception, match="head_start_commands"):
        util.validate_config(util.prepare_config(misspelt))
