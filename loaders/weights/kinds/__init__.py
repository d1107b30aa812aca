"""What a file seems to be, when it is not what was asked for: published relatives of the families, and all that people
choose by mistake."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ...messages import message
from ...spec import Relative, read_relatives, specs
from ..entry import Entry, strip_prefix

NETWORK_PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "transformer.", "model.")


@cache
def relatives() -> tuple[Relative, ...]:
    """The rows of all families, and those of models of other kinds."""
    rows = [row for spec in specs() for row in spec.relatives]
    return (*rows, *read_relatives(Path(__file__).with_name("others.json")))


def relative_of(entries: Mapping[str, Entry]) -> Relative | None:
    """The published model that these are the tensors of, which no loader reads; None for all others."""
    shapes = {key: entry.shape for key, entry in strip_prefix(entries, *NETWORK_PREFIXES).items()}
    return next((row for row in relatives() if row.fits(shapes)), None)


def kind_of(entries: Mapping[str, Entry]) -> str:
    """What a file seems to be, in words."""
    keys = strip_prefix(entries, *NETWORK_PREFIXES).keys()
    if family := next((spec.file_title for spec in specs() if keys & {*spec.file_keys}), ""):
        return family
    relative = relative_of(entries)
    return message("kind_unknown") if relative is None else relative.title
