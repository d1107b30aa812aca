"""What is asked of a model: prompts, keyframes, controls and numbers, as they travel on the wires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from .messages import InputError as InputError
from .messages import Origin


@dataclass(frozen=True)
class Keyframe:
    """Images that the video must show. images: [N, H, W, 3] in 0..1 (N > 1 is a clip); frame may count from the
    end. settled: they stay as they are, whatever a preset does to pictures. of_clip: they end the clip that is
    extended, of which is said elsewhere how it is scaled and cut."""

    images: Tensor
    frame: int
    strength: float = 1.0
    settled: bool = False
    of_clip: bool = False
    node: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Capabilities:
    """Which keyframes a model takes.

    title: of the model, in words.
    takes, remedy: what it takes in words, and what to do where that is not enough.
    sets: those that work, of "first" and "last"; None: any number, anywhere.
    clip_step: clips have step * n + 1 frames; 0: single images alone.
    clip_start: clips begin at its multiples.
    strengths: whether a keyframe may count less than wholly.
    near: an image this few frames beside the first or the last is moved there.
    """

    title: str
    takes: str
    remedy: str
    sets: tuple[tuple[str, ...], ...] | None = ((),)
    clip_step: int = 0
    clip_start: int = 1
    strengths: bool = False
    near: int = 0


@dataclass(frozen=True)
class Control:
    """A video that says what moves where.

    frames: [T, H, W, 3] in 0..1, or None.
    mask: [T, H, W], 1 where the video is made anew.
    references: images [N, H, W, 3] of what must appear in it.
    strength: how much it counts.
    start, end: the share of the steps in which it counts.
    """

    frames: Tensor | None = None
    mask: Tensor | None = None
    references: Tensor | None = None
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    node: Origin | None = field(default=None, compare=False, repr=False)

    def counts(self, step: int, total: int) -> bool:
        """Whether it counts in this step of `total`, as guidance between its start and end does."""
        return int(self.start * total) <= step < int(self.end * total)


@dataclass(frozen=True)
class ContinuationLatents:
    """What a video goes on from.

    latents: its first frames [1, C, n, h, w], normalised.
    strength: with which they are held to.
    memory: latent frames of long ago [1, C, m, h, w], which the network reads as if they lay before the video.
    memory_strength: the same for these.
    ending: latent frames [1, C, m, h, w] that the video leads to: the network reads them from its last frame on.
    """

    latents: Tensor
    strength: float = 1.0
    memory: Tensor | None = None
    memory_strength: float = 1.0
    ending: Tensor | None = None


@dataclass(frozen=True)
class Extension:
    """How a family makes videos longer than it can sample at once.

    mode: "latents" (each window goes on from the latents of the one before), "last_frames" (from its last decoded
        frames) or "context_windows" (one sampling whose network sees windows).
    description: the same in words, with what to expect.
    overlap: frames that windows share; 0: a share of the window.
    """

    mode: Literal["latents", "last_frames", "context_windows"]
    description: str
    overlap: int = 0


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings that no longer need the text encoder.

    family, width: of the model that read the prompt, and of the embeddings.
    branches: "cond" and "uncond" -> named CPU tensors.
    notes: what the person should know about how the prompt was read.
    picture: the first frame [1, H, W, 3], where the text encoder read it too.
    negative: the negative prompt, as far as a person has written one.
    """

    family: str
    width: int
    branches: Mapping[str, Mapping[str, Tensor]]
    notes: tuple[str, ...] = ()
    picture: Tensor | None = None
    negative: str = ""
    node: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class SpatioTemporal:
    """Spatio-temporal guidance (STG, Hyung et al. 2024, arXiv 2411.18664) whose numbers follow the noise.

    A list of one entry counts everywhere; of longer ones, each entry counts down to its timestep.
    scales: of classifier-free guidance, 1 where it is off; empty: the request's own.
    stg_scales: of the distance to a prediction without some blocks, 0 where it is off.
    rescales: how far the prediction's spread is brought back to that of the prompt's, 0 to 1; at 1 too it stays as it
        is, which is how LTXVideoPipeline of Lightricks' ltx-video reads `rescaling_scale`.
    timesteps: noise levels, from 1 to 0.
    blocks: those that the perturbed prediction goes without; an empty entry: none, so that it is the prompt's.
    mode: what it goes without in these blocks, a key of the family's `perturb`.
    star: whether the prediction without the prompt is scaled to the other one (CFG-Zero*, arXiv 2503.18886).
    """

    scales: tuple[float, ...] = ()
    stg_scales: tuple[float, ...] = (1.0,)
    rescales: tuple[float, ...] = (1.0,)
    timesteps: tuple[float, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    mode: str = "attention_values"
    star: bool = False

    def entry(self, sigma: float) -> int:
        """Which entry of the lists counts at a noise level; 0 where the lists have one alone."""
        reached = (i for i, timestep in enumerate(self.timesteps) if timestep <= sigma + 1e-6)
        return next(reached, max(len(self.timesteps) - 1, 0))


@dataclass(frozen=True)
class Decoding:
    """How latents are decoded; a number below 0: as published for the model.

    timestep, noise: what a VAE that makes the last denoising step is told, and how much noise it gets, 0 to 1.
    tone_map: how much the range of the latents is compressed, 0 to 1.
    """

    timestep: float = -1.0
    noise: float = -1.0
    tone_map: float = -1.0


@dataclass(frozen=True)
class Program:
    """What the makers' own program does and the reference pipeline does not: a preset's, read by the family.

    timesteps: the noise levels of all predictions, from 1 to 0; empty: the family's for the request's steps.
    skip_first, skip_last: further steps of that schedule, which are left out at its beginning and at its end.
    stg: guidance; None: the reference pipeline's.
    image_noise: how much fresh noise given pictures get in each step.
    compression: H.264 quality (CRF) at which given pictures are compressed; 0: not at all.
    decoding: how the latents are decoded.
    """

    timesteps: tuple[float, ...] = ()
    skip_first: int = 0
    skip_last: int = 0
    stg: SpatioTemporal | None = None
    image_noise: float = 0.0
    compression: int = 0
    decoding: Decoding = field(default_factory=Decoding)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Program:
        """The program of a preset in a defaults.json."""
        inner = {"stg": SpatioTemporal, "decoding": Decoding}
        fields = {name: _tuples(value) for name, value in values.items()}
        return cls(**{name: inner[name](**value) if name in inner else value for name, value in fields.items()})

    @property
    def begins_with_source(self) -> bool:
        """Whether it refines latents: its first noise level is not pure noise."""
        return self.skip_first > 0 or (bool(self.timesteps) and self.timesteps[0] < 1)


def _tuples(value: Any) -> Any:
    """A value of a JSON file with tuples in place of all its lists."""
    if isinstance(value, Mapping):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Guidance:
    """How the two branches of guidance become one prediction.

    method: one of `VideoModel.methods`.
    start, end: the share of the steps in which it is on.
    low_noise: scale of the expert for low noise; 0: as the first.
    boundary: share of the noise above which the expert for high noise works; 0: the model's own.
    switch_step: step with which the other one begins, instead of a boundary; 0: by the boundary.
    true_scale: of classifier-free guidance on models that embed the guidance scale; 0: off.
    dynamic: whether the scale grows along a cosine (CogVideoX).
    layers: which blocks skip-layer guidance leaves out.
    layer_scale, layer_start, layer_end: how much that counts, and from which to which share of the steps.
    eta, momentum, threshold: APG's; threshold is of the norm.
    stg: of the method "stg", which needs it.
    """

    method: str = "cfg"
    start: float = 0.0
    end: float = 1.0
    low_noise: float = 0.0
    true_scale: float = 0.0
    dynamic: bool = False
    layers: tuple[int, ...] = ()
    layer_scale: float = 2.8
    layer_start: float = 0.01
    layer_end: float = 0.2
    eta: float = 1.0
    momentum: float = 0.0
    threshold: float = 15.0
    boundary: float = 0.0
    switch_step: int = 0
    stg: SpatioTemporal | None = None
    node: Origin | None = field(default=None, compare=False, repr=False)


Mode = Literal["jobs", "context", "branches", "experts"]
MODES: tuple[Mode, ...] = ("jobs", "context", "branches", "experts")
MOST_WORKERS = 10_000


@dataclass(frozen=True)
class Parallel:
    """How the work of a model is spread; the choice alone, which starts nothing.

    address: of a Ray cluster, as "10.0.0.5:6379"; empty: the cards of this machine.
    workers: how many at most, each with a card of its own where there are any; 0: one for each card, or two where the
        mode is for two.
    mode: "jobs" (each clip, segment or decode on a worker of its own), "context" (the tokens of one clip over all
        workers), "branches" (the forward passes of guidance, one on each) or "experts" (Wan 2.2's two networks).
    """

    address: str = ""
    workers: int = 0
    mode: Mode = "jobs"
    node: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def splits_clip(self) -> bool:
        """Whether all workers sample one clip together."""
        return self.mode != "jobs"


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
    shift: float = 0.0  # flow shift
    guidance_2: float = 0.0  # of the second expert
    control: Control | None = None
    past: ContinuationLatents | None = None
    mask: Tensor | None = None  # [T, H, W], 1 where the source is made anew, 0 where it stays
    clip: Tensor | None = None  # [N, H, W, 3] in 0..1, whose last frames the video begins with
    as_long: bool = False  # as the source, or the control video: `frames` is then theirs, as far as the model can
    fps: float = 0.0  # frames per second, where the network is told
    program: Program | None = None  # of the preset; None: as the reference pipeline
    loop: bool = False  # whether the last frame meets the first
    rated: bool = False  # whether `fps` was asked for, or is what a source says of itself
    counted: bool = False  # whether `frames` came of `as_long`
