"""What a computation holds beside the weights at its peak, from headers alone: forwards, text encoders, VAEs.

A network's forward is told as the moments at which most is alive: how many tensors of which width, for each token. They
are data of the families, read off networks of published size without numbers (tests/support/fake_peak.py counts every
storage), and tests hold them within 15% of that, never under by more than 5%. Nothing here needs the host or weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .video_model import Part, Request, VideoModel


@dataclass(frozen=True)
class Moment:
    """Tensors that are alive at one moment of a forward, in numbers a token.

    hidden, mlp: tensors as wide as the network, or as its MLPs within, in the computing type; float32: as wide as the
    network, in float32 whatever the computing type is; copies: likewise, but only where the computing type is narrower;
    rotary: as wide as a head of attention, in float32; shared: as wide as the network, in float32, for all branches at
    once as rotary is; controlled: hidden ones for each layer that reads a control video; timed, timed32: hidden and
    float32 ones where each token has a time of its own; text: how much of all this the text's tokens have too; keys, keys32,
    key_copies: as hidden, float32 and copies, of the text's tokens alone.
    """

    hidden: float = 0.0
    mlp: float = 0.0
    float32: float = 0.0
    copies: float = 0.0
    rotary: float = 0.0
    shared: float = 0.0
    controlled: float = 0.0
    timed: float = 0.0
    timed32: float = 0.0
    text: float = 0.0
    keys: float = 0.0
    keys32: float = 0.0
    key_copies: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """What a forward's peak is counted in. tokens: of one branch; text: tokens of one prompt; batch: branches in one
    forward; hidden, mlp, head: widths; item: bytes of a number; latents: numbers in the latents of a run; given: how many
    times as many lie beside them; controlled: layers that read a control video; timed: each token has a time of its own."""

    tokens: int
    text: int
    batch: int
    hidden: int
    mlp: int
    head: int
    item: int
    latents: int
    given: float = 0.0
    controlled: int = 0
    timed: bool = False

    def of(self, moment: Moment) -> int:
        """Bytes of one moment."""
        m, positions = moment, self.batch * (self.tokens + moment.text * self.text)
        narrow = m.hidden + m.controlled * self.controlled + m.timed * self.timed
        wide = m.float32 + m.copies * (self.item < 4) + m.timed32 * self.timed
        keys = m.keys * self.item + 4 * (m.keys32 + m.key_copies * (self.item < 4))
        each = self.hidden * (narrow * self.item + wide * 4) + self.mlp * m.mlp * self.item
        return math.ceil(
            positions * each
            + self.batch * self.text * self.hidden * keys
            + self.tokens * 4 * (self.head * m.rotary + self.hidden * m.shared)
        )


def branches(model: VideoModel, request: Request) -> int:
    """How many predictions a step of a complete request needs: 2 with classifier-free guidance."""
    scale = model.guidance.true_scale if getattr(model.facts, "embedded", False) else request.guidance
    return 2 if scale > 1 else 1


def sizes(model: VideoModel, request: Request) -> Sizes:
    """The sizes of a complete request."""
    family, facts = model.family, model.facts
    network = next(part for name, part in model.parts.items() if name in ("transformer", "unet"))
    shape = facts.latent_shape(request.width, request.height, request.frames)
    whole = branches(model, request) > 1 and family.batched_guidance and model.guidance.method == "cfg"
    config, (_, channels, *_), item = network.config, shape, getattr(torch, model.recipe.dtype).itemsize
    beside = config.get("in_channels", channels) / channels - 1 + config.get("vace_in_channels", 0) / channels
    return Sizes(
        tokens=family.positions(model, request), text=family.text_positions(model, request), batch=2 if whole else 1, hidden=facts.width,
        mlp=family.mlp_width(config, facts.width), head=config.get("attention_head_dim") or 0, item=item, latents=math.prod(shape), given=max(beside, 0.0),
        controlled=len(config.get("vace_layers") or ()), timed=family.timed(model, request),
    )  # fmt: skip


def forward_bytes(model: VideoModel, request: Request) -> int:
    """The peak of a step of a complete request beside the weights: the forward, and what the sampler holds meanwhile.

    Caches are not in it: samplers/room.py adds what they keep.
    """
    size = sizes(model, request)
    forward = max(size.of(moment) for moment in model.family.moments.values())
    return forward + held_bytes(model, size) + widened_bytes(model)


def held_bytes(model: VideoModel, size: Sizes) -> int:
    """Latents, predictions and the solver's memory in float32, what lies beside them, and the prompts of both branches,
    one by one and as a batch."""
    prompts = 4 * size.text * model.facts.text_width * size.item
    return math.ceil((model.family.latents_held + 2 * size.given) * size.latents * 4) + prompts


def widened_bytes(model: VideoModel) -> int:
    """What a layer's stored bytes take while it runs: its weight in float32, twice, before it is narrowed to the computing type."""
    network = next(part for name, part in model.parts.items() if name in ("transformer", "unet"))
    small = model.recipe.storage or any(is_stored(kind) for kind in network.dtypes.values())
    return (
        8 * max((math.prod(shape) for shape in network.tensors.values() if len(shape) == 2), default=0) if small else 0
    )


def is_stored(kind: str) -> bool:
    """Whether weights of this type of a file may be held as they are."""
    from .storage import is_small

    return is_small(kind)


_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4}


def weight_bytes(model: VideoModel, part: str) -> int:
    """A part's weights as they will be held: in the computing type, or as stored bytes where linear layers keep them."""
    found = model.parts[part]
    item, storage = getattr(torch, model.recipe.dtype).itemsize, model.recipe.storage
    network = part.startswith(("transformer", "unet"))
    total = 0
    for name, shape in found.tensors.items():
        kind, linear = found.dtypes.get(name, ""), len(shape) == 2 and name.endswith(".weight")
        small = linear and part != "vae" and is_stored(kind) and not name.startswith(("shared", "embed"))
        made = linear and network and bool(storage) and "blocks." in name
        total += math.prod(shape) * (1 if small or made else item)
    return total


def encode_bytes(model: VideoModel, prompt_tokens: int = 0) -> dict[str, int]:
    """Encoder -> the peak of its activations for a prompt as long as it can be."""
    length = prompt_tokens or model.facts.prompt_tokens
    item = getattr(torch, model.recipe.dtype).itemsize
    return {name: _encoder_bytes(part, length, item) for name, part in model.parts.items() if "encoder" in name}


def _encoder_bytes(part: Part, length: int, item: int) -> int:
    config: Mapping[str, Any] = part.config.get("text_config") or part.config
    width = config.get("d_model") or config.get("hidden_size") or 0
    mlp = config.get("d_ff") or config.get("intermediate_size") or 0
    heads = config.get("num_heads") or config.get("num_attention_heads") or 0
    return length * (10 * width + 4 * mlp) * item + 4 * heads * length**2 * 4


def decode_bytes(model: VideoModel, request: Request) -> int:
    """The peak of decoding a complete request with the tiles that `model.tiling` chooses."""
    _, _, _, height, width = model.facts.latent_shape(request.width, request.height, request.frames)
    return model.vae_bytes(model.tiling(height, width), height, width)
