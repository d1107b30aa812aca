"""The vocabulary of the pack: what travels on the wires, and what a model family must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .common.peaks import Counted, coder_bytes, encoder_bytes, with_kernels
from .denoiser import Run, Schedule
from .devices import ENCODING, explained
from .limits import check_count, check_frames, check_size
from .messages import InputError as InputError
from .messages import Origin, about, both, either, message
from .vae.codec import Coder
from .vae.tiles import Tiling

if TYPE_CHECKING:
    pass
from .parts import Memory, Part, Recipe
from .request import Capabilities, Conditioning, Extension, Guidance, Keyframe, Request


@dataclass(frozen=True)
class Facts:
    """What the numbers of a request must obey, and what they are when nobody says.

    Sizes in pixels, time in frames. A clip has `frame_step * n + 1` frames (or one of `frame_counts`); one latent frame
    stands for `temporal_ratio` of them, one latent pixel for `spatial_ratio` x `spatial_ratio` pixels.
    """

    spatial_ratio: int
    temporal_ratio: int
    channels: int
    size_multiple: int
    fps: float
    width: int  # of the network, in channels
    text_width: int  # 0: the model reads no text
    prompt_tokens: int
    presets: Mapping[str, Mapping[str, Any]]
    rgb: tuple[tuple[float, ...], ...] = ()  # previews: colour (-1..1) = latent @ rgb[:-1] + rgb[-1]; empty: the host's
    frame_step: int = 0  # 0: temporal_ratio
    frame_counts: tuple[int, ...] = ()
    lead: int = 0  # frames that are decoded before the video begins
    # the sets of keyframes that work, of "first" and "last"; None: all
    pictures: tuple[tuple[str, ...], ...] | None = ((),)
    reads_pictures: bool = False  # the text encoder looks at the first frame too
    layers: int = 0  # blocks of the network
    time_patch: int = 1  # latent frames that are one token
    modules: int = 0  # tensors as wide as the network that its blocks' attentions and MLPs give together
    mean: tuple[float, ...] = ()  # per channel, of the VAE's latents: vae latent = latent * std + mean; empty: alike
    std: tuple[float, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)  # the config of the reference pipeline's scheduler

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, int, int, int, int]:
        time = (frames + self.lead - 1) // self.temporal_ratio + 1
        return 1, self.channels, time, height // self.spatial_ratio, width // self.spatial_ratio

    def tokens(self, width: int, height: int, frames: int) -> int:
        """How many tokens the network makes of a video."""
        _, _, time, h, w = self.latent_shape(width, height, frames)
        patch = self.size_multiple // self.spatial_ratio
        return -(-time // self.time_patch) * (h // patch) * (w // patch)

    def frames(self, latent_frames: int) -> int:
        """Frames of the video that this many latent frames decode to."""
        return (latent_frames - 1) * self.temporal_ratio + 1 - self.lead

    def denormalise(self, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the network sees them -> as the VAE does."""
        return latents * _channels(self.std, latents) + _channels(self.mean, latents) if self.std else latents

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the VAE sees them -> as the network does."""
        return (latents - _channels(self.mean, latents)) / _channels(self.std, latents) if self.std else latents


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1).to(like)


@dataclass(frozen=True)
class Stacks:
    """The blocks that a network's forward runs through, for caches. lists: its attributes that hold them, in order;
    beside: a list that runs before them and gives its hints to the layers named in the config as `hinted`."""

    lists: tuple[str, ...] = ("transformer_blocks",)
    beside: str = ""
    hinted: str = ""
    pairs: bool = True  # a block gives (video, text); else the video alone

    def of(self, network: Any) -> tuple[str, ...]:
        """The lists that this network has."""
        return tuple(name for name in (self.beside, *self.lists) if name and hasattr(network, name))

    def hints_last(self, network: Any) -> bool:
        """Whether a hint is added behind the last block, so that the hints are needed in any case."""
        return len(getattr(network, self.lists[-1])) - 1 in network.config[self.hinted]


@dataclass(frozen=True)
class VideoModel:
    """A checkpoint of any family, ready to sample. Shared by every consumer and never changed in place."""

    family: Family
    variant: str
    facts: Facts
    parts: Mapping[str, Part]
    recipe: Recipe
    memory: Memory
    guidance: Guidance = field(default_factory=Guidance)
    loras: tuple[Any, ...] = ()  # of lora.LoRA
    speed: Any = None  # a samplers.speed.Speed
    host_attention: str = ""  # the kernel that the host computes attention with, a key of samplers.kernels.KERNELS
    cache: Any = None  # a caches.policy.Policy; None: every step is computed
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this family knows, as SVD's motion bucket
    node: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def trims_text(self) -> bool:
        """Whether this model's Speed cuts off the rows behind a prompt's end."""
        return bool(getattr(self.speed, "trim_text", False))

    @contextmanager
    def use(self, part: str, activations: int = 0) -> Iterator[Any]:
        """A part, ready to run, with room for `activations` bytes beside it, or for an encoder's longest prompt. Where an
        encoder runs out of memory, the error says so; networks and VAEs are explained by those who know what they were for."""
        with ExitStack() as stack:
            if "encoder" in part:
                activations = activations or encoder_bytes(self, part)
                stack.enter_context(explained(*ENCODING["image" if part.startswith("image") else "text"]))
            with about(self):
                network = stack.enter_context(self.memory.use(self.parts[part], with_kernels(activations)))
            yield network

    def tiling(self, height: int, width: int, encoded: int = 0) -> Tiling:
        """The largest tiles with which the VAE's work on a frame of height x width latent pixels fits into its room."""
        tiling: Tiling | None = Tiling()
        while tiling and self.vae_bytes(tiling, height, width, encoded) > 0.8 * self.memory.room("vae"):
            best, tiling = tiling, tiling.smaller(height, width)
        return tiling or best

    def vae_bytes(self, tiling: Tiling, height: int, width: int, encoded: int = 0) -> int:
        """What the VAE needs beside its weights to encode so many frames, or (0) to decode any number."""
        return coder_bytes(self, tiling.rows(height, width), encoded)

    def encoding(self, width: int, height: int, frames: int = 1) -> int:
        """What the VAE needs to encode so many frames of width x height pixels, as its room allows."""
        size = height // self.facts.spatial_ratio, width // self.facts.spatial_ratio
        if self.encodes_whole(frames, *size):
            return coder_bytes(self, Tiling().rows(*size), frames, True)
        return self.vae_bytes(self.tiling(*size, frames), *size, frames)

    def encodes_whole(self, frames: int, height: int, width: int) -> bool:
        """Whether a clip of height x width latent pixels is encoded at once, where streaming it would round otherwise."""
        at_once = coder_bytes(self, Tiling().rows(height, width), frames, True)
        return self.family.rounds_encode and at_once <= 0.8 * self.memory.room("vae")

    def complete(self, request: Request) -> Request:
        """Fill every zero of the request from its preset, then from the model's default preset."""
        presets = self.facts.presets
        if request.preset and request.preset not in presets:
            remedy = message("use_one_of", names=", ".join(presets)) if len(presets) > 1 else message("use_default")
            raise InputError("preset", request.preset, message("no_preset", variant=self.variant), remedy)
        if request.source is not None and request.source.ndim == 5:  # latents bring their own size
            sizes: dict[str, Any] = {k: v for k, v in self._size(request.source).items() if not getattr(request, k)}
            request = replace(request, **sizes)
        request = replace(request, guidance_2=self.guidance.low_noise or request.guidance_2 or request.guidance)
        values = {**presets["default"], **presets.get(request.preset, {})}
        return replace(request, **{k: v for k, v in values.items() if not getattr(request, k)})

    def _size(self, latents: Tensor) -> dict[str, int]:
        ratio, (_, _, time, height, width) = self.facts.spatial_ratio, latents.shape
        return dict(width=width * ratio, height=height * ratio, frames=self.facts.frames(time))

    def get_models(self) -> list[Any]:
        """For ComfyUI's memory accounting: the patchers of the parts in use."""
        return getattr(self.memory, "patchers", list)()


class Family(Coder, Counted, ABC):
    """Everything that is special about one family of models. Stateless: one instance serves all models."""

    name: str  # as in `Recipe.family` and in the `reelwire` entry of a LATENT
    title: str  # as people write it
    batched_guidance: bool  # whether the reference pipeline runs both branches of CFG as one batch
    solvers = "flow"  # which table of samplers/solvers.py steps through its noise
    blocks = "transformer_blocks"  # the network's attribute that holds its blocks
    dispatches = True  # whether its layers ask diffusers' dispatcher for attention, or PyTorch's function itself
    masked = ""  # a pattern of the names of the attentions that are handed a mask; "." where all are
    keeps_padding = ""  # why the rows behind a prompt's end must stay; empty: they are masked, and can be cut off
    stacks: Stacks | None = Stacks()  # None: a UNet, of which only the deep blocks can be kept
    image_models: str = message("other_family")  # what to load instead
    text_models: str = message("other_family")
    control_models = either("Wan2.1-VACE", "CogVideoX-Fun-Control")  # the same for a control video
    methods: tuple[str, ...] = ("cfg", "apg", "cfg-zero*", "tcfg", "skip-layer")  # of guidance

    @abstractmethod
    def load(self, recipe: Recipe, memory: Memory) -> VideoModel:
        """Check the files' headers strictly and describe the model; no weights are read yet."""

    @abstractmethod
    def encode(
        self, model: VideoModel, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()
    ) -> Conditioning:
        """Prompts -> Conditioning; raises InputError for one that would be cut. keyframes: for encoders that see the first."""

    @abstractmethod
    def schedule(self, model: VideoModel, request: Request) -> Schedule:
        """What the reference pipeline gives its scheduler for this request."""

    @abstractmethod
    def prepare(self, model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any) -> Run:
        """Noise, encoded pictures and the scheduler of one run, drawn in the reference pipeline's order."""

    @abstractmethod
    def forward_inputs(self, model: VideoModel, request: Request, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a network of this config is called with in one branch of one step: tensors on the meta device."""

    def to_host(self, model: VideoModel, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the host's LATENT of this family holds them."""
        return model.facts.denormalise(latents)

    def from_host(self, model: VideoModel, samples: Tensor) -> Tensor:
        """The `samples` of a LATENT -> latents [1, C, t, h, w] as the network sees them."""
        return model.facts.normalise(samples)

    def unmasked(self, network: Any) -> AbstractContextManager[None]:
        """The network for a run whose text was trimmed, so that no attention needs a mask."""
        return nullcontext()

    def check(self, model: VideoModel, request: Request) -> None:
        """Raise InputError for a completed request that this model cannot run; reads no weights."""
        facts = model.facts
        title = f"{self.title} ({model.variant})"
        check_size("width", request.width, facts.size_multiple, title)
        check_size("height", request.height, facts.size_multiple, title)
        if facts.frame_counts:
            check_count(request.frames, facts.frame_counts, title)
        else:
            check_frames(request.frames, facts.frame_step or facts.temporal_ratio, title)
        if request.shift and "shift" not in facts.presets["default"]:
            raise InputError("shift", request.shift, message("no_shift", title=title), message("use_0"))
        if request.steps < 1:
            remedy = message("use_steps")
            raise InputError("steps", request.steps, message("steps_rule"), remedy)

    def check_pictures(self, model: VideoModel, request: Request) -> None:
        """Raise InputError for keyframes beside a source or a control, or a control that this model has no use for or lacks."""
        if request.control is not None and not self.controlled(model):
            title = f"{self.title} ({model.variant})"
            raise InputError(
                "control",
                message("connected"),
                message("no_control", title=title),
                message("load_instead", models=self.control_models),
            )

    def capabilities(self, model: VideoModel) -> Capabilities:
        """Which keyframes this model takes."""
        allowed = model.facts.pictures
        if allowed == ((),):
            takes = message("takes_no_keyframes") if self.controlled(model) else message("takes_text_alone")
            remedy = message("load_for_pictures", models=self.image_models)
        else:
            takes = message("takes_starts_from", pictures=_sets(allowed or ()))
            remedy = message("connect_keyframes_or_load", models=self.text_models)
        return Capabilities(f"{self.title} ({model.variant})", takes, remedy, allowed)

    def extension(self, model: VideoModel) -> Extension:
        """How this model makes long videos."""
        if model.facts.pictures == ((),):
            told = message("way_context")
            return Extension("context", told)
        told = message("way_pictures")
        if any("last" in places for places in model.facts.pictures or ()):
            told = message("way_keyframes", way=told)
        return Extension("pictures", told, 1)

    def controlled(self, model: VideoModel) -> bool:
        """Whether the model follows a control video."""
        return False


def _sets(allowed: tuple[tuple[str, ...], ...]) -> str:
    words = {"first": message("its_first_frame"), "last": message("its_last_frame")}
    return either(*(both(*(words[p] for p in places)) if places else message("no_picture") for places in allowed))
