"""What one clip on several cards sends, by arithmetic:  python bench/ranks/wire.py prints the tables.

Bytes that leave one rank. tests/samplers/parallel counts the collectives of real runs, and they are these.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 80  # bytes that say of which kind and shape a tensor is that all ranks are handed
FLAG = 8  # bytes by which ranks agree, at each step, whether to go on


@dataclass(frozen=True)
class Network:
    """What the wire sees of a network. row: numbers of a token behind the last layer; item: bytes of a number; prompt:
    tokens of a prompt among those of the video."""

    layers: int
    hidden: int
    row: int
    item: int = 2
    prompt: int = 0


def context_forward(network: Network, tokens: int, ranks: int, batch: int = 1) -> int:
    """Bytes that leave one rank in a forward pass: queries, keys, values and what attention gives go all to all in each
    layer, what it gives for its heads of a prompt to all, and so do the rows at the end."""
    own = batch * tokens // ranks
    exchanged = 4 * network.layers * own * network.hidden * network.item * (ranks - 1) // ranks
    prompt = network.layers * batch * network.prompt * network.hidden // ranks * network.item * (ranks - 1)
    return exchanged + prompt + own * network.row * network.item * (ranks - 1)


def context_step(network: Network, tokens: int, ranks: int, forwards: int) -> int:
    """Bytes that leave the first rank in a step."""
    return forwards * context_forward(network, tokens, ranks) + FLAG * (ranks - 1)


def prediction_step(numbers: int, item: int, ranks: int) -> int:
    """Bytes that leave one rank in a step in which it hands one prediction to all others."""
    return (numbers * item + HEAD) * (ranks - 1)


@dataclass(frozen=True)
class Clip:
    """A published size. heads: of an attention; latents: numbers of them; forwards: in a step."""

    title: str
    network: Network
    heads: int
    tokens: int
    latents: int
    steps: int
    forwards: int = 2


CLIPS = (
    Clip("Wan2.1 1.3B, 832x480, 81 frames", Network(30, 1536, 64), 12, 21 * 30 * 52, 16 * 21 * 60 * 104, 50),
    Clip("Wan2.1 14B, 1280x720, 81 frames", Network(40, 5120, 64), 40, 21 * 45 * 80, 16 * 21 * 90 * 160, 50),
    Clip("Wan2.2 5B, 1280x704, 121 frames", Network(30, 3072, 192), 24, 31 * 22 * 40, 48 * 31 * 44 * 80, 50),
    Clip("LTX-Video 2B, 704x512, 161 frames", Network(28, 2048, 128), 32, 21 * 16 * 22, 128 * 21 * 16 * 22, 40),
    Clip("LTX-Video 13B, 1216x704, 121 frames", Network(48, 4096, 128), 32, 16 * 22 * 38, 128 * 16 * 22 * 38, 30),
    Clip(
        "HunyuanVideo, 1280x720, 129 frames",
        Network(60, 3072, 64, prompt=256),
        24,
        33 * 45 * 80,
        16 * 33 * 90 * 160,
        50,
        forwards=1,
    ),
    Clip(
        "CogVideoX-5B, 720x480, 49 frames",
        Network(42, 3072, 64, prompt=226),
        48,
        13 * 30 * 45,
        16 * 13 * 60 * 90,
        50,
    ),
)
OTHERS = {  # latents of families whose branches alone can be shared out
    "Mochi, 848x480, 163 frames": 12 * 28 * 60 * 106,
    "SVD-XT, 1024x576, 25 frames": 4 * 25 * 72 * 128,
}


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _context(clip: Clip, ranks: int, steps: int = 1) -> str:
    """Of so many steps, where heads and tokens divide."""
    if clip.heads % ranks or clip.tokens % ranks:
        return "does not divide"
    return _size(steps * context_step(clip.network, clip.tokens, ranks, clip.forwards))


def table() -> str:
    """The tables of docs/cluster-one-clip.md."""
    lines = [
        "| context, two forward passes a step (HunyuanVideo one) | 2 cards | 4 cards | 8 cards | a clip on 4 |",
        "|---|---|---|---|---|",
    ]
    for clip in CLIPS:
        steps = [_context(clip, ranks) for ranks in (2, 4, 8)]
        lines.append(f"| {clip.title} | {' | '.join(steps)} | {_context(clip, 4, clip.steps)} |")
    lines += ["", "| branches or experts, one prediction a step | bytes of a step |", "|---|---|"]
    for title, numbers in {**{clip.title: clip.latents for clip in CLIPS}, **OTHERS}.items():
        lines.append(f"| {title} | {_size(prediction_step(numbers, 2, 2))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
