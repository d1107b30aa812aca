"""The vocabulary of the pack: what travels on the wires, and what a model family must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path


Progress = Callable[[int, int], None]  # (done, in all)


class InputError(ValueError):
    """A value that cannot work, told as: input = value: rule. Remedy."""

    def __init__(self, name: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(f"{name} = {value}: {rule} {remedy}")


@dataclass(frozen=True)
class Facts:
    """What the numbers of a request must obey, and what they are when nobody says.

    Sizes in pixels, time in frames. A clip has `temporal_ratio * n + 1` frames; one latent frame stands for
    `temporal_ratio` of them, one latent pixel for `spatial_ratio` x `spatial_ratio` pixels.
    """

    spatial_ratio: int
    temporal_ratio: int
    channels: int
    size_multiple: int
    fps: float
    width: int  # of the network, in channels
    text_width: int
    prompt_tokens: int
    presets: Mapping[str, Mapping[str, Any]]
    rgb: tuple[tuple[float, ...], ...] = ()  # previews: colour (-1..1) = latent @ rgb[:-1] + rgb[-1]; empty: the host's

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, int, int, int, int]:
        time = (frames - 1) // self.temporal_ratio + 1
        return 1, self.channels, time, height // self.spatial_ratio, width // self.spatial_ratio


@dataclass(frozen=True)
class Recipe:
    """All that another process needs to build the same model; picklable."""

    family: str
    variant: str
    files: Mapping[str, Path]  # part name -> file or folder
    dtype: str  # a torch dtype's name, as "bfloat16"


@dataclass(frozen=True)
class Part:
    """One network of a model: read from disk when it is first used, kept by the Memory that used it."""

    name: str
    load: Callable[[Progress], nn.Module] = field(repr=False)


class Memory(Protocol):
    """Who decides where a part's weights lie; ComfyUI's own manager inside the host."""

    def use(self, part: Part, activations: int = 0) -> AbstractContextManager[Any]:
        """The part, ready to run on `device`; `activations` is the room in bytes that the run needs beside it."""

    def device(self, part: str) -> torch.device:
        """Where the part of this name computes."""


class PlainMemory:
    """Keeps every part on one device; for use outside the host."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._modules: dict[str, nn.Module] = {}

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[nn.Module]:
        if part.name not in self._modules:
            self._modules[part.name] = part.load(lambda done, total: None).to(self._device)
        yield self._modules[part.name]

    def device(self, part: str) -> torch.device:
        return self._device


@dataclass(frozen=True)
class Keyframe:
    """Pictures that the video must show. images: [N, H, W, 3] in 0..1 (N > 1 is a clip); frame may count from the end."""

    images: Tensor
    frame: int
    strength: float = 1.0


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings per branch ("cond", "uncond"): CPU tensors that no longer need the text encoder."""

    family: str
    width: int  # of the embeddings
    branches: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Request:
    """One generation. Zero (or an empty name) means the model's own default; `complete` puts it in."""

    width: int = 0
    height: int = 0
    frames: int = 0
    steps: int = 0
    guidance: float = 0.0
    sampler: str = ""
    preset: str = ""
    seed: int = 0
    keyframes: tuple[Keyframe, ...] = ()
    source: Tensor | None = None  # frames [T, H, W, 3] in 0..1 or latents [1, C, t, h, w]
    strength: float = 1.0  # of the denoising of `source`: 1 ignores it, 0 returns it


@dataclass(frozen=True)
class VideoModel:
    """A checkpoint of any family, ready to sample. Shared by every consumer and never changed in place."""

    family: Family
    variant: str
    facts: Facts
    parts: Mapping[str, Part]
    recipe: Recipe
    memory: Memory

    def use(self, part: str, activations: int = 0) -> AbstractContextManager[Any]:
        return self.memory.use(self.parts[part], activations)

    def complete(self, request: Request) -> Request:
        """Fill every zero of the request from its preset, then from the model's default preset."""
        presets = self.facts.presets
        if request.preset and request.preset not in presets:
            remedy = f"Use one of {', '.join(presets)}."
            raise InputError("preset", request.preset, f"{self.variant} does not have this preset.", remedy)
        values = {**presets["default"], **presets.get(request.preset, {})}
        return replace(request, **{k: v for k, v in values.items() if not getattr(request, k)})

    def get_models(self) -> list[Any]:
        """For ComfyUI's memory accounting: the patchers of the parts in use."""
        return getattr(self.memory, "patchers", list)()


@dataclass
class Run(ABC):
    """The state of one denoising, made by `Family.prepare` and dropped at its end.

    latents: whatever layout the network wants. timesteps: one per step, on the latents' device.
    """

    latents: Tensor
    timesteps: Tensor
    scheduler: Any

    def before(self, step: int) -> None:
        """Change `latents` at the start of a step, as families with noisy conditions do."""

    @abstractmethod
    def predict(self, network: Any, step: int, branch: str) -> Tensor:
        """The network's output for this step's latents in one branch, "cond" or "uncond", or in both, "cond_uncond"."""

    def advance(self, step: int, prediction: Tensor) -> None:
        """Take one scheduler step."""
        self.latents = self.scheduler.step(prediction, self.timesteps[step], self.latents, return_dict=False)[0]

    def finish(self) -> Tensor:
        """The latents as [B, C, T, h, w], normalised as the model sees them."""
        return self.latents

    def preview(self) -> Tensor:
        """The clean latents [B, C, T, h, w] that the last prediction points to."""
        return self.finish()


class Family(ABC):
    """Everything that is special about one family of models. Stateless: one instance serves all models."""

    name: str  # as in `Recipe.family` and in the `reelwire` entry of a LATENT
    title: str  # as people write it
    batched_guidance: bool  # whether the reference pipeline runs both branches of CFG as one batch

    @abstractmethod
    def load(self, recipe: Recipe, memory: Memory) -> VideoModel:
        """Check the files' headers strictly and describe the model; no weights are read yet."""

    @abstractmethod
    def encode(self, model: VideoModel, positive: str, negative: str) -> Conditioning:
        """Prompts -> Conditioning. Raises InputError where the text encoder would cut a prompt."""

    @abstractmethod
    def schedule(self, model: VideoModel, request: Request) -> Any:
        """The reference pipeline's scheduler with the timesteps and sigmas of this request."""

    @abstractmethod
    def prepare(self, model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any) -> Run:
        """Noise, encoded pictures and the scheduler of one run, drawn in the reference pipeline's order."""

    @abstractmethod
    def encode_video(self, vae: Any, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Frames [T, H, W, 3] in 0..1 -> normalised latents [1, C, t, h, w]; sampled where a generator is given."""

    @abstractmethod
    def stream_decode(self, vae: Any, latents: Tensor, seed: int) -> Iterator[Tensor]:
        """Normalised latents [1, C, t, h, w] -> frames in order, as pieces [n, H, W, 3] in 0..1, n small."""

    def check(self, model: VideoModel, request: Request) -> None:
        """Raise InputError for a completed request that this model cannot run; reads no weights."""
        facts = model.facts
        title = f"{self.title} ({model.variant})"
        check_size("width", request.width, facts.size_multiple, title)
        check_size("height", request.height, facts.size_multiple, title)
        check_frames(request.frames, facts.temporal_ratio, title)
        if request.steps < 1:
            raise InputError(
                "steps", request.steps, "At least one step is needed.", "Use 20 to 50, or 0 for the default."
            )


def check_size(name: str, value: int, multiple: int, title: str) -> None:
    if value < multiple or value % multiple:
        low = max(value // multiple, 1) * multiple
        near = f"{low} or more, or 0 for the default" if value < multiple else f"{low} or {low + multiple}"
        raise InputError(name, value, f"{title} needs a positive multiple of {multiple}.", f"Use {near}.")


def check_frames(frames: int, step: int, title: str) -> None:
    if frames < 1 or (frames - 1) % step:
        low = max(frames - 1, 0) // step * step + 1
        near = f"{low + step} or more, or 0 for the default" if frames < 1 else f"{low} or {low + step}"
        raise InputError("frames", frames, f"{title} makes {step}n+1 frames.", f"Use {near}.")
