"""What the work of a VAE holds beside its weights at its peak, by the widths of its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CoderPeak:
    """What a VAE of a published size holds, in bytes a pixel of a frame in a type of 16 bits, and `full` times that in float32
    (`full_thrifty` times where a decode is thrifty: norms compute in float32 in every type).

    width: channels at full resolution that this was counted for; decode, thrifty: of a tile, and where memory is short;
    encode, still: of a tile of a clip, of a single frame; grows: more with each frame of the clip; whole: of each frame of
    a clip that is encoded at once; clip: frames whose decode is counted, where it sees all at once, 0 where their number
    makes no difference; chunk: as many at a time where memory is short.
    """

    width: int
    decode: int
    thrifty: int
    encode: int
    still: int
    grows: int = 0
    whole: int = 0
    clip: int = 0
    chunk: int = 0
    full: float = 2.0
    full_thrifty: float = 2.0

    def decoding(self, tile: int, thrifty: bool, frames: int, float32: bool = False) -> float:
        """Bytes for a tile of so many pixels."""
        most, each, full = (
            (self.chunk, self.thrifty, self.full_thrifty) if thrifty else (self.clip, self.decode, self.full)
        )
        return tile * each * (full if float32 else 1) * (min(frames, most) if most else 1) / (most or 1)


def base_width(config: Mapping[str, Any]) -> int:
    """Channels of a VAE's decoder at full resolution; 0 where nothing tells."""
    found = (
        config.get("decoder_base_dim")
        or config.get("base_dim")
        or config.get("decoder_block_out_channels")
        or config.get("block_out_channels")
        or 0
    )
    return found[0] if isinstance(found, (list, tuple)) else found
