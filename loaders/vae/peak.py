"""What the work of a VAE holds beside its weights at its peak, by the widths of its config."""

from __future__ import annotations

from dataclasses import dataclass

from ..parts import Config

CUDNN = 128 << 20  # bytes that its convolutions take on a CUDA card, however small what they work on


@dataclass(frozen=True)
class CoderPeak:
    """What a VAE of a published size holds, in bytes a pixel of a frame in a type of 16 bits.

    width: channels at full resolution that this was counted for.
    decode, offloaded: of a tile, and of one whose state waits in RAM because memory is short.
    encode, still: of a tile of a clip, and of a single frame.
    grows: more with each frame of the clip.
    whole: of each frame of a clip that is encoded at once.
    clip: frames whose decode is counted, where it sees all at once; 0 where their number makes no difference.
    chunk: as many at a time where memory is short.
    full, full_offloaded: times that in float32; less than 2, as norms compute in float32 in every type.
    workspaces: share of a decode, and of a single frame's encode, that cuDNN's convolutions take beside on a CUDA card,
    measured by bench/card/engine.py; 0 where CUDNN and what is asked for anyway hold it.
    """

    width: int
    decode: int
    offloaded: int
    encode: int
    still: int
    grows: int = 0
    whole: int = 0
    clip: int = 0
    chunk: int = 0
    full: float = 2.0
    full_offloaded: float = 2.0
    workspaces: float = 0.0

    def decoding(self, tile: int, offload_state: bool, frames: int, float32: bool = False) -> float:
        """Bytes for a tile of so many pixels."""
        most, each, full = self.clip, self.decode, self.full
        if offload_state:
            most, each, full = self.chunk, self.offloaded, self.full_offloaded
        return tile * each * (full if float32 else 1) * (min(frames, most) if most else 1) / (most or 1)


def base_width(config: Config) -> int:
    """Channels of a VAE's decoder at full resolution; 0 where nothing tells."""
    keys = ("decoder_base_dim", "base_dim", "decoder_block_out_channels", "block_out_channels")
    width = next((config[key] for key in keys if config.get(key)), 0)
    return width[0] if isinstance(width, (list, tuple)) else width
