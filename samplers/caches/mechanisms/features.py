"""The hidden states behind the last block, whatever went into the first one (Spectrum)."""

from __future__ import annotations

from .blocks import Blocks


class Features(Blocks):
    """Stores what the last block gives; a reused pass runs only what comes behind it."""

    whole = True
