"""What a file seems to be, when it is not what was asked for: published relatives of the families, and all that people
choose by mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from ...messages import either, message
from ...spec import Relative, read_relatives, specs
from ..entry import Entry, strip_prefix

NETWORK_PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "transformer.", "model.")

_OF_UNET = ("input_blocks_", "output_blocks_", "middle_block_", "down_blocks_", "up_blocks_", "mid_block_")
_IN_TIME = "temporal_", "time_stack"


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


def kind_of_layers(layers: Iterable[str]) -> str:
    """Whose layers these names are, with dots or with underscores for them, in words; "" where they tell nothing."""
    named = {*layers}
    flat = {layer.replace(".", "_") for layer in named}
    titled = [*((spec.file_title, spec.file_keys) for spec in specs()), *((row.title, row.has) for row in relatives())]
    known = [(title, key.removesuffix(".weight")) for title, keys in titled for key in keys]
    if exact := next((title for title, layer in known if layer in named), ""):
        return exact
    if alike := dict.fromkeys(title for title, layer in known if layer.replace(".", "_") in flat):
        return either(*alike)
    is_of_time = any(word in layer for layer in flat for word in _IN_TIME)
    is_picture = any(layer.startswith(_OF_UNET) for layer in flat) and not is_of_time
    return message("kind_image_model") if is_picture else ""
