"""What a computation holds beside the weights at its peak, from headers alone: forwards, text encoders, VAEs.

A network's forward is told as the moments at which most is alive: how many tensors of which width, for each token. They
are data of the families, read off networks of published size without numbers (tests/support/engine/fake_peak.py counts
every storage), and tests hold them within 15% of that, never under by more than 5%. Nothing here needs the host or
weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from ..base import ModelBase
from ..parts import Config, Part
from ..request import Request
from ..weights.quantised import FORMATS
from ..weights.stored import BY_NAME, is_ggml, is_small


@dataclass(frozen=True)
class Moment:
    """Tensors that are alive at one moment of a forward, in numbers a token.

    hidden, mlp: as wide as the network, and as its MLPs within, in the computing type.
    float32: as wide as the network, in float32 whatever the computing type is.
    copies: likewise, but only where the computing type is narrower.
    rotary: as wide as a head of attention, in float32.
    shared: as wide as the network, in float32, for all branches at once as rotary is.
    controlled: hidden ones for each layer that reads a control video, and for that.
    timed, timed32: hidden and float32 ones where each token has a time of its own.
    text: how much of all this the text's tokens have too.
    keys, keys32, key_copies: as hidden, float32 and copies, of the text's tokens alone.
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
    """What a forward's peak is counted in.

    tokens, text: tokens of one branch, and of one prompt.
    batch: branches in one forward.
    hidden, mlp, head: widths.
    item: bytes of a number.
    latents: numbers in the latents of a run.
    beside: how many times as many lie beside them.
    controlled: layers that read a control video.
    timed: whether each token has a time of its own.
    keyed, looked: tokens of words and of images, where these have keys of their own, which are made when those of the
        words are there; 0: all are words.
    """

    tokens: int
    text: int
    batch: int
    hidden: int
    mlp: int
    head: int
    item: int
    latents: int
    beside: float = 0.0
    controlled: int = 0
    timed: bool = False
    keyed: int = 0
    looked: int = 0

    def of(self, moment: Moment) -> int:
        """Bytes of one moment."""
        m, positions = moment, self.batch * (self.tokens + moment.text * self.text)
        narrow = m.hidden + m.controlled * self.controlled + m.timed * self.timed
        wide = m.float32 + m.copies * (self.item < 4) + m.timed32 * self.timed
        both = min(m.keys, 2.0)  # the text and what comes of it; the rest is of the words or of the images at a time
        keys = (m.keys - both) * self.item + 4 * (m.keys32 + m.key_copies * (self.item < 4))
        words = self.text * both * self.item + (self.keyed or self.text) * keys
        images = self.text * (both + 1) * self.item + self.looked * keys if m.keys32 and self.looked else 0
        each = self.hidden * (narrow * self.item + wide * 4) + self.mlp * m.mlp * self.item
        return math.ceil(
            positions * each
            + self.batch * self.hidden * max(words, images)
            + self.tokens * 4 * (self.head * m.rotary + self.hidden * m.shared)
        )


@dataclass(frozen=True)
class Counted(ModelBase):
    """The part of a VideoModel that tells what its forward holds.

    moments: of a forward, at which most is alive.
    batched_guidance: whether the reference pipeline runs both branches of CFG as one batch.
    layers_asked: whether its encoders are asked for what each layer gives.
    latents_held: tensors like the latents, in float32, that the sampler and its solver hold during a forward.
    latents_stepped: likewise while the solver makes its step, after the forward (UniPC's second order, counted).
    """

    moments: ClassVar[Mapping[str, Moment]]
    batched_guidance: ClassVar[bool]
    layers_asked: ClassVar[bool] = True
    latents_held: ClassVar[float] = 5.0
    latents_stepped: ClassVar[float] = 13.0

    def positions(self, request: Request) -> int:
        """The tokens of one branch in the network's forward."""
        return self.facts.tokens(request.width, request.height, request.frames) + self.beside(request)

    def beside(self, request: Request) -> int:
        """Those that are not of the video itself."""
        return 0

    def beside_latents(self, request: Request) -> int:
        """Those of them that are in the sampler's latents too."""
        return self.beside(request)

    def text_positions(self, request: Request) -> int:
        """The tokens of a prompt in the network's forward, as many as it can have: what Speed's trim_text leaves out of
        them, no header tells."""
        return self.facts.prompt_tokens

    def read_tokens(self, encoder: Reader, prompt_tokens: int = 0) -> int:
        """Tokens that an encoder reads at a time: a prompt of so many (0: the longest), or its images."""
        if encoder.kind == "clip vision":
            return encoder.pictures * max(map(len, self.facts.pictures or ((),)))
        return prompt_tokens or self.facts.prompt_tokens

    def timed(self, request: Request) -> bool:
        """Whether each token has a time of its own."""
        return False

    @classmethod
    def mlp_width(cls, config: Config, hidden: int) -> int:
        """How wide the network's MLPs are within."""
        return 4 * hidden


UPSAMPLED = 5  # tensors as wide as a latent upsampler within that are alive at the size that it makes


def upsampler_bytes(part: Part, latents: Tensor, item: int) -> int:
    """The peak of a latent upsampler that makes latents [1, C, t, h, w] twice as large in space."""
    return UPSAMPLED * int(part.config["mid_channels"]) * 4 * math.prod(latents.shape[2:]) * item


def branches(model: Counted, request: Request) -> int:
    """How many predictions a step of a complete request needs: 2 with classifier-free guidance."""
    scale = model.guidance.true_scale if getattr(model.facts, "embedded", False) else request.guidance
    return 2 if scale > 1 else 1


def network_part(model: Counted) -> Part:
    """The network that makes the predictions; of two experts the first."""
    return next(part for name, part in model.parts.items() if name in ("transformer", "unet"))


def sizes(model: Counted, request: Request) -> Sizes:
    """The sizes of a complete request."""
    facts = model.facts
    network = network_part(model)
    shape = facts.latent_shape(request.width, request.height, request.frames)
    whole = branches(model, request) > 1 and model.batched_guidance and model.guidance.method == "cfg"
    config, (_, channels, *_), item = network.config, shape, getattr(torch, model.recipe.dtype).itemsize
    beside = config.get("in_channels", channels) / channels - 1 + config.get("vace_in_channels", 0) / channels
    return Sizes(
        tokens=model.positions(request),
        text=model.text_positions(request),
        batch=2 if whole else 1,
        hidden=facts.hidden_size,
        mlp=model.mlp_width(config, facts.hidden_size),
        head=config.get("attention_head_dim") or 0,
        item=item,
        latents=math.prod(shape),
        beside=max(beside, 0.0),
        controlled=len(config["vace_layers"]) + 1 if config.get("vace_layers") else 0,
        timed=model.timed(request),
        keyed=facts.prompt_tokens,
        looked=model.text_positions(request) - facts.prompt_tokens,
    )


# devices on which PyTorch's attention holds its scores (aten/native/mps/operations/Attention.mm; DirectML)
UNFUSED = ("mps", "privateuseone")


def forward_bytes(model: Counted, request: Request, fused: bool = True) -> int:
    """The peak of a step of a complete request beside the weights: the forward, and what the sampler holds meanwhile.

    fused: attention by a kernel that holds nothing but its result (flash, memory-efficient, cuDNN); else its scores,
    and what softmax makes of them, count too. Caches are not in it: samplers/room.py adds what they keep.
    """
    size = sizes(model, request)
    forward = max(size.of(moment) for moment in model.moments.values())
    scores = 0 if fused else 2 * size.batch * size.hidden // (size.head or 64) * size.tokens**2 * size.item
    computing = forward + scores + widened_bytes(model, network_part(model).name)
    stepping = math.ceil((model.latents_stepped - model.latents_held) * size.latents * 4)
    return max(computing, stepping) + held_bytes(model, size) + lora_bytes(model, size.item)


def held_bytes(model: Counted, size: Sizes) -> int:
    """Latents, predictions and the solver's memory in float32, what lies beside them, the prompts of both branches, one
    by one and as a batch, and pictures that the network reads as they are, which both branches share."""
    width = int(network_part(model).config.get("image_dim") or 0)
    looked = size.looked if width else 0
    prompts = (4 * (size.text - looked) * model.facts.text_width + 2 * looked * width) * size.item
    return math.ceil((model.latents_held + 2 * size.beside) * size.latents * 4) + prompts


# kind of a stored weight -> bytes a number beside it while its layer runs in bfloat16, float16 and float32: what it is
# widened to, and what that is made from (`Stored.compute`; diffusers' and gguf's readers of blocks); counted
_PLAIN, _BLOCKS = (2.0, 8.0, 4.0), (5.3, 6.0, 6.0)
WIDENED: Mapping[str, tuple[float, float, float]] = {
    "convrot_w4a4": (4.0, 8.0, 6.0),
    "mxfp8": (4.2, 8.2, 8.2),
    "nvfp4": (4.4, 8.5, 8.3),
    "Q8_0": (4.0, 6.0, 6.0),
    "Q4_0": (4.0, 6.0, 6.0),
    "Q5_0": (10.0, 10.0, 10.0),
    "Q5_1": (10.0, 10.0, 10.0),
    "Q5_K": (7.2, 7.2, 7.2),
    "IQ4_NL": (12.0, 12.0, 12.0),
    "IQ4_XS": (12.3, 12.3, 12.3),
}


def widening(kind: str, dtype: torch.dtype) -> float:
    """Bytes a number that a layer of this kind of stored weight takes for it while it runs; 0 for none that is
    stored."""
    column = (torch.bfloat16, torch.float16, torch.float32).index(dtype)
    return WIDENED.get(kind, _BLOCKS if is_ggml(kind) else _PLAIN)[column] if kind else 0.0


def widened_bytes(model: Counted, part: str) -> int:
    """What the widest layer of a part takes while it runs, where its weight is held in 8 bits or less."""
    dtype = getattr(torch, model.recipe.dtype)
    return math.ceil(max((count * widening(kind, dtype) for count, _, kind in _held(model, part)), default=0))


def lora_bytes(model: Counted, item: int) -> int:
    """The LoRAs' own weights, which stay where their layers compute, and the largest that is made while one does."""
    counts = []
    for part in ("transformer", "transformer_2"):
        deltas = [delta for lora in model.loras for delta in lora.on(part).values()]
        entries = (entry for delta in deltas for role, entry in delta.tensors.items() if role != "alpha")
        made = max((delta.transient for delta in deltas), default=0)
        counts.append(sum(math.prod(entry.shape) for entry in entries) + 3 * made)
    return max(counts) * item


def weight_bytes(model: Counted, part: str) -> int:
    """A part's weights as they will be held: in the computing type, or as stored bytes where linear layers keep
    them."""
    return math.ceil(sum(size for _, size, _ in _held(model, part)))


def _held(model: Counted, part: str) -> Iterator[tuple[int, float, str]]:
    """(how many numbers, their bytes, the kind if they are stored as bytes or "") of each of a part's weights."""
    weights, item, storage = model.parts[part], getattr(torch, model.recipe.dtype).itemsize, model.recipe.storage
    stores = bool(storage) and part.startswith(("transformer", "unet"))
    whole = _whole(weights.config)
    for name, shape in weights.tensors.items():
        if whole & {*name.split(".")}:
            yield math.prod(shape), 4.0 * math.prod(shape), ""
            continue
        kind = ""
        if len(shape) == 2 and name.endswith(".weight") and part != "vae" and not _TABLE.search(name):
            kind = weights.dtypes.get(name, "")
            if not is_small(kind):
                kind = BY_NAME[storage] if stores and "blocks." in name else ""
        yield math.prod(shape), _stored(kind, shape) if kind else float(item * math.prod(shape)), kind


def _whole(config: Config) -> frozenset[str]:
    """Parts of the names of weights that a module of this config keeps in float32, as `modules.build` does."""
    kind = config.get("_class_name") or next(iter(config.get("architectures") or [""]))
    cls = getattr(import_module("diffusers" if "_class_name" in config else "transformers"), kind, None)
    return frozenset(getattr(cls, "_keep_in_fp32_modules", None) or ())


# looked up, not multiplied with
_TABLE = re.compile(r"(^|\.)(shared|\w*embed\w*|\w*embedding|relative_attention_bias)\.weight$")


def _stored(kind: str, shape: tuple[int, ...]) -> float:
    """Bytes of a weight [out, in] in a type of 8 bits or less, with its scales: of blocks, or of rows, as most have."""
    count, known = math.prod(shape), FORMATS.get(kind)
    if not is_ggml(kind):
        per_byte, block = (known.per_byte, known.block) if known else (1, 0)
        return count / per_byte + (count / block if block else 4 * shape[0])
    import gguf

    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return count * size / numbers


@dataclass(frozen=True)
class Reader:
    """An encoder by the shapes of its weights.

    kind: a key of READINGS.
    width, mlp, layers: its channels, those of its MLPs within, and how many layers it has.
    heads: of a bias of distances; 0 without one.
    keys: channels of a token's keys and values in a layer.
    pictures: tokens of an image; 0 where it reads none.
    eye: what looks at the images for it; None where it reads none, or is that itself.
    """

    kind: str
    width: int
    mlp: int
    layers: int
    heads: int = 0
    keys: int = 0
    pictures: int = 0
    eye: Reader | None = None


# the end of a name that only this kind of encoder has -> (kind, which axis is the MLP's)
_MARKS = {"DenseReluDense.wo.weight": ("t5", 1), "mlp.gate_proj.weight": ("llama", 0), "mlp.fc1.weight": ("clip", 0)}
EYE = "vision_tower."  # in the names of the weights with which Llava looks


def reader(tensors: Mapping[str, tuple[int, ...]]) -> Reader | None:
    """What the names and shapes of an encoder's weights tell; None for no encoder that is known. Llava is a Llama that
    sees."""
    ends = lambda end: [shape for name, shape in tensors.items() if name.endswith(end)]
    mark = next((mark for mark in _MARKS if ends(mark)), "")
    if not mark:
        return None
    (kind, axis), layers = _MARKS[mark], ends(mark)
    biases, keys = ends("relative_attention_bias.weight"), ends("self_attn.k_proj.weight")
    positions = [
        shape[0]
        for name, shape in tensors.items()
        if name.endswith("position_embedding.weight") and not ends("token_embedding.weight")
    ]
    kind = "umt5" if len(biases) > 1 else "clip vision" if kind == "clip" and positions else kind
    return Reader(
        kind,
        layers[0][1 - axis],
        layers[0][axis],
        len(layers),
        biases[0][1] if biases else 0,
        2 * min((shape[0] for shape in keys if shape[1] == layers[0][1 - axis]), default=0),
        positions[0] if positions else 0,
        reader({name: shape for name, shape in tensors.items() if EYE in name}) if kind == "llama" else None,
    )


@dataclass(frozen=True)
class Reading:
    """Tensors that are alive at one moment of an encoder, for each token.

    width, mlp: as wide as it, and as its MLPs within, in the computing type.
    width32, mlp32: the same in float32.
    bias: numbers for each head and pair of tokens.
    bias32, bias_copies: the same in float32, always and where the computing type is narrower.
    per_layer: what each layer gives, where all layers are asked for.
    keys: what each layer remembers of keys and values.
    pairs: numbers of 4 bytes for each pair of tokens, as tables of distances hold them.
    """

    width: float
    mlp: float = 0.0
    width32: float = 0.0
    mlp32: float = 0.0
    bias: float = 0.0
    bias32: float = 0.0
    bias_copies: float = 0.0
    per_layer: float = 0.0
    keys: float = 0.0
    pairs: float = 0.0

    def bytes(self, of: Reader, tokens: int, item: int, layers_asked: bool) -> int:
        """For so many tokens."""
        layer = self.per_layer * layers_asked * of.width + self.keys * of.keys
        narrow = self.width * of.width + self.mlp * of.mlp + of.layers * layer + self.bias * of.heads * tokens
        scores = self.bias32 + self.bias_copies * (item < 4)
        wide = self.width32 * of.width + self.mlp32 * of.mlp + (self.pairs + scores * of.heads) * tokens
        return math.ceil(tokens * (narrow * item + 4 * wide))


_DISTANCES = Reading(1, bias=1, pairs=14)
READINGS: Mapping[str, tuple[Reading, ...]] = {
    "t5": (Reading(2, 3, width32=2, mlp32=1, bias=1), Reading(6, width32=1, bias=2), _DISTANCES),
    "umt5": (Reading(2, 3, width32=2, mlp32=1), Reading(6, width32=1, bias=2), _DISTANCES),  # a bias in each layer
    # beside these, of T5's attention in steps
    "scores": (Reading(7, bias=2, bias32=1, bias_copies=1), Reading(8, bias=3)),
    "llama": (Reading(2, 3, per_layer=1, keys=1, pairs=0.3),),
    "clip": (Reading(5, 3),),
    "clip vision": (Reading(4.2, 2, per_layer=1),),
}


def _in_steps(kind: str) -> bool:
    """Whether this version of transformers computes the attention of such an encoder in steps, with all its scores."""
    name = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}.get(kind)
    return name is not None and not getattr(getattr(import_module("transformers"), name), "_supports_sdpa", False)


def encode_bytes(model: Counted, prompt_tokens: int = 0) -> dict[str, int]:
    """Encoder of text or images -> the peak of its activations, for a prompt of so many tokens (0: the longest)."""
    return {name: encoder_bytes(model, name, prompt_tokens) for name in model.parts if "encoder" in name}


def encoder_bytes(model: Counted, part: str, prompt_tokens: int = 0) -> int:
    """The peak of the activations of one encoder; 0 for one of an unknown kind."""
    encoder = reader(model.parts[part].tensors)
    if encoder is None:
        return 0
    tokens, item = model.read_tokens(encoder, prompt_tokens), getattr(torch, model.recipe.dtype).itemsize
    scored = encoder.heads and (_in_steps(encoder.kind) or model.memory.device(part).type in UNFUSED)
    moments = (*READINGS[encoder.kind], *(READINGS["scores"] if scored else ()))
    reading = max(moment.bytes(encoder, tokens, item, model.layers_asked) for moment in moments)
    if encoder.eye is not None and model.facts.reads_pictures:
        looking = max(moment.bytes(encoder.eye, encoder.pictures, item, True) for moment in READINGS[encoder.eye.kind])
        reading = max(reading + _seen_bytes(encoder, encoder.eye, item), looking)
    return reading + widened_bytes(model, part)


SEEN = 2  # tensors of a picture's tokens as wide as the words': what the eye's layers are turned into, and a copy


def _seen_bytes(encoder: Reader, eye: Reader, item: int) -> int:
    """What is kept of a picture while the words are read: what each layer of the eye gave, and what became of it."""
    return eye.pictures * ((eye.layers + 1) * eye.width + SEEN * encoder.width) * item
