"""The shared model type: what every family can do, and what a family must say of itself."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .common.misfits import is_misfit
from .common.peaks import Counted, encoder_bytes
from .common.tokenizers import with_tokenizers
from .denoiser import Denoiser, NoiseSchedule, Schedule
from .devices import ENCODING, explained, out_of_memory, with_kernels
from .facts import Facts, Stacks, TokenSplit
from .limits import check_count, check_frames, check_size
from .messages import CheckpointError, InputError, about, both, either, message, series
from .parts import Config, Inputs, Memory, Network, Part, Recipe
from .request import Capabilities, Conditioning, Extension, Keyframe, Program, Request
from .spec import titles_with
from .vae.codec import VideoVAE
from .weights.allowed.offline import offline
from .weights.bundle import Bundle, read_preprocessor
from .weights.entry import describing
from .weights.find import read_model
from .weights.format import CheckpointFormat


@dataclass(frozen=True)
class VideoModel(VideoVAE, Counted, ABC):
    """A checkpoint of any family, ready to sample. Shared by every consumer and never changed in place.

    checkpoint: what the family's files look like, and its spec.json.
    name: of the family, as in `Recipe.family` and in the `reelwire` entry of a LATENT.
    title: of the family, as people write it.
    batched_guidance: whether the reference pipeline runs both branches of CFG as one batch.
    solvers: which table of samplers/solvers.py steps through its noise.
    blocks: the network's attribute that holds its blocks.
    dispatches: whether its layers ask diffusers' dispatcher for attention, or PyTorch's function itself.
    masked: a pattern of the names of the attentions that are handed a mask; "." where all are.
    keeps_padding: why the rows behind a prompt's end must stay; empty: they are masked, and can be cut off.
    single_rows: a pattern of the names of the layers that see one row in a batch of both branches too.
    stacks: the blocks that caches know; None: a UNet, of which only the deep blocks can be cached.
    text_first: whether its prompt lies before its video where both are one sequence.
    tokens_at: where the network's tokens can be cut, for one clip on several cards; None: nowhere.
    image_models, text_models: what to load instead for images, and for text alone.
    methods: of guidance. stg_modes: what spatio-temporal guidance can leave out.
    """

    checkpoint: ClassVar[CheckpointFormat]
    name: ClassVar[str]
    title: ClassVar[str]
    batched_guidance: ClassVar[bool]
    solvers = "flow"
    blocks = "transformer_blocks"
    dispatches = True
    masked = ""
    keeps_padding = ""
    single_rows = ""
    stacks: ClassVar[Stacks | None] = Stacks()
    text_first = False
    tokens_at: ClassVar[TokenSplit | None] = None
    image_models: ClassVar[str] = message("other_family")
    text_models: ClassVar[str] = message("other_family")
    methods: ClassVar[tuple[str, ...]] = ("cfg", "apg", "cfg-zero*", "tcfg", "skip-layer")
    stg_modes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Name a family's class as its spec.json does."""
        if "checkpoint" in vars(cls):
            cls.name = cls.checkpoint.spec.name
            cls.title = cls.checkpoint.spec.title

    @contextmanager
    def use(self, part: str, activations: int = 0) -> Iterator[Network]:
        """A part, ready to run, with room for `activations` bytes beside it, or for an encoder's longest prompt. Where
        an encoder runs out of memory, the error says so; networks and VAEs are explained by those who know what they
        were for."""
        with ExitStack() as stack:
            if "encoder" in part:
                activations = activations or encoder_bytes(self, part)
                stack.enter_context(explained(*ENCODING["image" if part.startswith("image") else "text"]))
            with about(self):
                room = with_kernels(activations, self.memory.device(part).type)
                network = stack.enter_context(self.memory.use(self.parts[part], room))
            stack.enter_context(self._fitting(network, part))
            yield network

    @contextmanager
    def _fitting(self, network: Network, part: str) -> Iterator[None]:
        """Raise CheckpointError for what the code of a network raises within."""
        try:
            yield
        except Exception as error:
            if out_of_memory(error) or not is_misfit(error, network):
                raise
            name = self.recipe.files.get(part, self.recipe.files["checkpoint"]).name
            with about(self):
                rule = message("network_misfit", part=part, file=name)
                raise CheckpointError(rule, message("download_again")) from error

    def complete(self, request: Request) -> Request:
        """Fill every zero of the request from its preset, then from the model's default preset."""
        presets = self.facts.presets
        if request.preset and request.preset not in presets:
            remedy = message("use_one_of", names=series(presets)) if len(presets) > 1 else message("use_default")
            raise InputError("preset", request.preset, message("no_preset", variant=self.variant), remedy)
        if request.source is not None and request.source.ndim == 5:  # latents bring their own size
            sizes: dict[str, Any] = {k: v for k, v in self._size(request.source).items() if not getattr(request, k)}
            request = replace(request, **sizes)
        request = replace(request, guidance_2=self.guidance.low_noise or request.guidance_2 or request.guidance)
        values = {"fps": self.facts.fps, **presets["default"], **presets.get(request.preset, {})}
        program = values.pop("program", None)
        if program is not None and request.program is None:
            request = replace(request, program=_program(program, request.guidance))
        return replace(request, **{k: v for k, v in values.items() if not getattr(request, k)})

    def _size(self, latents: Tensor) -> dict[str, int]:
        ratio, (_, _, time, height, width) = self.facts.spatial_ratio, latents.shape
        return dict(width=width * ratio, height=height * ratio, frames=self.facts.frames(time))

    @classmethod
    def load(cls, recipe: Recipe, memory: Memory) -> VideoModel:
        """The model of a recipe, its files' headers checked strictly; no weights are read yet."""
        with offline(), describing(recipe.files["checkpoint"], cls.title):
            if "image_processor" in recipe.files:
                read_preprocessor(recipe.files["image_processor"])
            bundle = cls.read_bundle(recipe)
            bundle = replace(bundle, parts=with_tokenizers(bundle.parts, recipe.files))
            facts = cls.read_facts(bundle)
            parts = bundle.make(getattr(torch, recipe.dtype), recipe.storage)
            plain = replace(recipe, variant=bundle.variant, options={}, presets={}, most_on_card=0.0)
            return cls(bundle.variant, facts, parts, plain, memory, notes=bundle.notes).with_options(recipe)

    def with_options(self, recipe: Recipe) -> VideoModel:
        """This model with what a whole recipe of the same files says that nodes have set on it."""
        facts = replace(self.facts, presets=recipe.presets or self.facts.presets)
        return replace(self, facts=facts, **recipe.options)

    def whole_recipe(self) -> Recipe:
        """All that another process needs to build this model as it is, with all that nodes have set on it. Where its
        work is done does not belong to it."""
        left = {"node", "notes", "parallel"}
        options = {name: getattr(self, name) for name in self.optional_fields() if name not in left}
        most = getattr(self.memory, "most_on_card", 0)
        return replace(self.recipe, options=options, presets=self.facts.presets, most_on_card=most)

    @classmethod
    def read_bundle(cls, recipe: Recipe) -> Bundle:
        """The parts of a recipe; raises CheckpointError for what does not fit together."""
        return read_model(recipe, cls.checkpoint)

    def file_notes(self) -> tuple[str, ...]:
        """What a person should know of how the files were read: what their names say, and which variants else would
        have these tensors."""
        file, spec = self.recipe.files["checkpoint"], self.checkpoint.spec
        if not file.is_file():
            return self.notes
        said = [note for pattern, note in spec.name_notes.items() if re.search(pattern, file.name.lower())]
        notes = (*self.notes, *(message("name_says", file=file.name, note=note) for note in said))
        others = spec.mistakable(self.variant, file.name)
        if others:
            notes += (message("taken_by_name", file=file.name, variant=self.variant, others=either(*others)),)
        return notes

    @classmethod
    @abstractmethod
    def read_facts(cls, bundle: Bundle) -> Facts:
        """What the configs and the variant's defaults say of a model."""

    @abstractmethod
    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        """Prompts -> Conditioning; raises InputError for one that would be cut. keyframes: for encoders that see the
        first."""

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        """Notes on a prompt; no weights are read. name: of the input. Raises InputError for one that would be cut."""
        return ()

    @abstractmethod
    def schedule(self, request: Request) -> Schedule:
        """What the reference pipeline gives its scheduler for this request."""

    @abstractmethod
    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        """The denoiser of one run; noise is drawn and images are encoded in the reference pipeline's order."""

    @abstractmethod
    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        """What a network of this config is called with in one branch of one step: tensors on the meta device."""

    def upsampler(self, folder: Path) -> Part:
        """The network of a folder that doubles the size of this model's latents; no weights are read yet."""
        raise self._no_upsampler()

    def upscale(self, upsampler: Part, latents: Tensor, adain: float = 0.0, tone_map: float = 0.0) -> Tensor:
        """Latents [1, C, t, h, w] -> [1, C, t, 2h, 2w], both normalised.

        adain: how much of the small latents' statistics is put on the large ones; tone_map: how much their range is
        compressed, 0 to 1.
        """
        raise self._no_upsampler()

    def _no_upsampler(self) -> InputError:
        title = f"{self.title} ({self.variant})"
        rule = message("upscale_rule", models=either(*titles_with("latent_upsampler")))
        return InputError("model", title, rule, message("sample_larger"))

    def to_host(self, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the host's LATENT of this family holds them."""
        return self.facts.denormalise(latents)

    def from_host(self, samples: Tensor) -> Tensor:
        """The `samples` of a LATENT -> latents [1, C, t, h, w] as the network sees them."""
        return self.facts.normalise(samples)

    def perturb(self, network: Network, blocks: Sequence[int], mode: str) -> AbstractContextManager[None]:
        """The network without what a mode of spatio-temporal guidance leaves out in these blocks."""
        raise NotImplementedError(mode)

    def unmasked(self, network: Network) -> AbstractContextManager[None]:
        """The network for a run whose text was trimmed, so that no attention needs a mask."""
        return nullcontext()

    def check(self, request: Request) -> None:
        """Raise InputError for a completed request that this model cannot run; reads no weights."""
        facts = self.facts
        title = f"{self.title} ({self.variant})"
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

    def check_pictures(self, request: Request) -> None:
        """Raise InputError for keyframes beside a source or a control, or a control that this model has no use for or
        lacks."""
        if request.control is None or self.controlled():
            return
        own = self.checkpoint.spec.features.get("control")
        rule = message("no_control", title=f"{self.title} ({self.variant})")
        remedy = message("load_instead", models=either(*(own or titles_with("control"))))
        raise InputError("control", message("connected"), rule, remedy)

    def capabilities(self) -> Capabilities:
        """Which keyframes this model takes."""
        allowed = self.facts.pictures
        if allowed == ((),):
            takes = message("takes_no_keyframes") if self.controlled() else message("takes_text_alone")
            remedy = message("load_for_pictures", models=self.image_models)
        else:
            takes = message("takes_starts_from", pictures=_sets(allowed or ()))
            remedy = message("connect_keyframes_or_load", models=self.text_models)
        return Capabilities(f"{self.title} ({self.variant})", takes, remedy, allowed)

    def extension(self) -> Extension:
        """How this model makes long videos."""
        if self.facts.pictures == ((),):
            return Extension("context_windows", message("way_context"))
        description = message("way_pictures")
        if any("last" in places for places in self.facts.pictures or ()):
            description = message("way_keyframes", way=description)
        return Extension("last_frames", description, 1)

    def low_noise_steps(self, request: Request, schedule: NoiseSchedule) -> list[bool]:
        """Whether the low-noise expert makes a prediction, for each: below the boundary, or from a step of the run on,
        where steps that a source leaves out count too."""
        boundary, guidance = getattr(self.facts, "boundary", None), self.guidance
        if boundary is None:
            return [False] * len(schedule)
        if guidance.switch_step:
            left_out = request.steps - schedule.level_count
            return [level + left_out >= guidance.switch_step for level in schedule.levels]
        steps = schedule.scheduler.config.num_train_timesteps
        low: list[bool] = (schedule.timesteps < (guidance.boundary or boundary) * steps).tolist()
        return low

    def controlled(self) -> bool:
        """Whether the model follows a control video."""
        return False


def _program(values: Mapping[str, Any], guidance: float) -> Program:
    """The program of a preset, with a guidance scale that somebody has set (0: nobody) in place of its own."""
    program = Program.read(values)
    if program.stg is None or not guidance:
        return program
    return replace(program, stg=replace(program.stg, scales=(guidance,)))


def _sets(allowed: tuple[tuple[str, ...], ...]) -> str:
    words = {"first": message("its_first_frame"), "last": message("its_last_frame")}
    return either(*(both(*(words[p] for p in places)) if places else message("no_picture") for places in allowed))
