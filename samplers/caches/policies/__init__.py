"""Policies: which steps are computed. A file here is a policy; what people choose from is found by its class."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path

from ..policy import Policy


@cache
def choices() -> dict[str, type[Policy]]:
    """Name -> policy of those that the node Cache offers, in its order. A file that fails takes down only itself."""
    classes: list[type[Policy]] = []
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        try:
            module = import_module(f".{path.stem}", __package__)
        except Exception:
            logging.exception("Reelwire: the cache in samplers/caches/policies/%s is missing", path.name)
            continue
        own = [kind for kind in vars(module).values() if getattr(kind, "__module__", "") == module.__name__]
        classes += [
            kind for kind in own if isinstance(kind, type) and issubclass(kind, Policy) and not isabstract(kind)
        ]
    offered = [(kind.position, kind.title.lower(), kind) for kind in classes if kind.position is not None]
    return {name: kind for _, name, kind in sorted(offered, key=lambda each: each[:2])}
