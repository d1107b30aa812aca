"""Wan 2.1 and 2.2 (Alibaba, https://github.com/Wan-Video): T2V, I2V, first-last-frame, VACE, two experts, TI2V-5B.

Every number equals diffusers 0.42's WanPipeline, WanImageToVideoPipeline, WanVideoToVideoPipeline or WanVACEPipeline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...common.flow import draw, encoded_source, mix
from ...common.peaks import Moment, Reader, reader
from ...common.prompts import encode_t5, t5_prompt
from ...denoiser import Denoiser, Network, NoiseSchedule, Schedule
from ...facts import Stacks, TokenSplit
from ...messages import CheckpointError, InputError, either, inputs_named, message
from ...parts import Config, Inputs, Recipe
from ...request import Capabilities, Conditioning, Control, Extension, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...weights.bundle import Bundle, frozen, read_diffusers
from ...weights.entry import describing
from ...weights.find import read_source
from ...weights.safetensors import read_file
from .checkpoint import FORMAT, _form, _variant, described, layout_of, module
from .denoiser import (
    WanFacts,
    WanModel,
    _common,
    _references,
    control_denoiser,
    fun_denoiser,
    image_denoiser,
    text_denoiser,
    token_denoiser,
)
from .vae import decode_pieces, encode_pieces


class Wan(WanModel):
    checkpoint = FORMAT
    batched_guidance = False
    blocks = "blocks"
    keeps_padding = message("padding_wan")
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "2.1": CoderPeak(96, decode=11_000, offloaded=11_000, encode=7_700, still=2_000),
        "2.2": CoderPeak(256, decode=11_400, offloaded=11_400, encode=3_900, still=1_020),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        "query and key": Moment(hidden=5, float32=2, copies=1, rotary=2, controlled=1, timed=7, timed32=6, keys=2.5),
        "MLP": Moment(hidden=4, mlp=2, rotary=2, controlled=1, timed=7, timed32=6, keys=2.5),
        "key of the text": Moment(hidden=5, rotary=2, controlled=1, timed=7, timed32=6, keys=3, keys32=2, key_copies=1),
    }
    stacks = Stacks(("blocks",), "vace_blocks", "vace_layers", pairs=False)
    tokens_at = TokenSplit(inputs=("timestep",), embedders=("patch_embedding", "vace_patch_embedding"))
    image_models = either("Wan2.1-I2V-14B, Wan2.2-I2V-A14B, Wan2.2-TI2V-5B", "Wan2.1-VACE")
    text_models = either("Wan2.1-T2V", "Wan2.2-T2V-A14B")

    @classmethod
    def read_bundle(cls, recipe: Recipe) -> Bundle:
        bundle = super().read_bundle(recipe)
        checkpoint = recipe.files["checkpoint"].name
        if "module" in recipe.files:
            bundle = _with_module(bundle, recipe)
        if "low_noise" in recipe.files:
            bundle = _with_low_noise(bundle, recipe)
        elif _works_alone(recipe.files["checkpoint"]):
            bundle = replace(bundle, defaults={**bundle.defaults, "boundary": None})
        boundary = _boundary(bundle)
        if boundary is None and "low_noise" in recipe.files:
            raise CheckpointError(message("one_expert_file", file=checkpoint), message("set_low_auto"))
        if (boundary is not None) != ("transformer_2" in bundle.parts):
            raise CheckpointError(message("needs_experts", file=checkpoint), message("choose_experts"))
        return bundle

    @classmethod
    def read_facts(cls, bundle: Bundle) -> WanFacts:
        network, vae = bundle.parts["transformer"].config, bundle.parts["vae"].config
        defaults = {k: v for k, v in bundle.defaults.items() if k not in ("boundary", "per_token_time", "inpaint")}
        per_token_time = bool(bundle.pipeline.get("expand_timesteps", bundle.defaults.get("per_token_time")))
        vace_layers = len(network.get("vace_layers", ()))
        layout = layout_of(network["in_channels"] - vae["z_dim"], vae["z_dim"])
        inpaint = bool(bundle.defaults.get("inpaint"))
        ratio = vae.get("scale_factor_spatial", 8)
        return WanFacts(
            spatial_ratio=ratio,
            temporal_ratio=vae.get("scale_factor_temporal", 4),
            channels=vae["z_dim"],
            size_multiple=ratio * network["patch_size"][1],
            hidden_size=network["num_attention_heads"] * network["attention_head_dim"],
            text_width=network["text_dim"],
            layers=network["num_layers"],
            cached_module_outputs=3 * (network["num_layers"] + vace_layers),
            mean=tuple(vae["latents_mean"]),
            std=tuple(vae["latents_std"]),
            scheduler=bundle.scheduler,
            boundary=_boundary(bundle),
            per_token_time=per_token_time,
            layout=layout,
            reference="reference_channels" in network,
            inpaint=inpaint,
            looks=2 if network.get("pos_embed_seq_len") else 1,
            vace_layers=vace_layers,
            positions=network.get("rope_max_seq_len", 1024),
            pictures=_keyframe_sets(network, layout, per_token_time, inpaint),
            **defaults,
        )

    def file_notes(self) -> tuple[str, ...]:
        """That a file of Wan 2.2-A14B, which has two experts, works alone."""
        file, notes = self.recipe.files["checkpoint"], super().file_notes()
        boundary = self.variant in FORMAT.spec.variants() and FORMAT.spec.config(self.variant, "defaults")["boundary"]
        if not boundary or self.facts.boundary is not None or not file.is_file():
            return notes
        return *notes, message("works_alone", file=file.name, variant=self.variant)

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        """UMT5 embeddings, zero after the prompt's end (WanPipeline._get_t5_prompt_embeds)."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        conditioning = encode_t5(self, True, positive, negative, prompt_clean, zeroed=True)
        branches = {branch: {"text": read["text"]} for branch, read in conditioning.branches.items()}
        return replace(conditioning, branches=branches)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        return t5_prompt(self, name, text, prompt_clean).notes

    def check(self, request: Request) -> None:
        super().check(request)
        facts, control = self.facts, request.control
        front = 0 if control is None or control.references is None else len(control.references)
        frames = max(facts.positions - front - 1, 0) * facts.temporal_ratio + 1
        side, words = facts.positions * facts.size_multiple, {"title": self.title, "variant": self.variant}
        for name, most, rule in (
            ("width", side, message("positions_most", most=side, **words)),
            ("height", side, message("positions_most", most=side, **words)),
            ("frames", frames, message("positions_frames", most=frames, **words)),
        ):
            if getattr(request, name) > most:
                raise InputError(name, getattr(request, name), rule, message("use_at_most", most=most))

    def check_pictures(self, request: Request) -> None:
        super().check_pictures(request)
        if self.facts.follows_control and request.control is not None:
            self._check_fun(request.control)
        elif _references(request) and request.source is not None:
            raise InputError(
                "control", message("references_beside_source"), message("vace_noise"), message("disconnect_one")
            )

    def _check_fun(self, control: Control) -> None:
        """Raise InputError for what Fun-Control has no place for."""
        title, count = f"{self.title} ({self.variant})", 0 if control.references is None else len(control.references)
        if control.mask is not None:
            raise InputError(
                "control", message("a_mask"), message("control_no_mask", title=title), message("disconnect_mask")
            )
        if count > self.facts.reference:
            rule = message("control_references", title=title, most=int(self.facts.reference))
            raise InputError("control", message("count_references", count=count), rule, message("disconnect_them"))

    def capabilities(self) -> Capabilities:
        """VACE takes any clip; images beside the first or last frame of a latent frame's length count as these."""
        near = 0 if self.facts.pictures is None else self.facts.temporal_ratio
        return replace(super().capabilities(), clip_step=0 if near else 1, near=near)

    def extension(self) -> Extension:
        if self.facts.vace_layers:
            return Extension("last_frames", message("way_vace"))
        return super().extension()

    def controlled(self) -> bool:
        return self.facts.vace_layers > 0 or self.facts.follows_control

    def beside(self, request: Request) -> int:
        """Tokens of the reference images in front of the video, each a latent frame."""
        return self._front(request) * self.facts.tokens(request.width, request.height, 1)

    def beside_latents(self, request: Request) -> int:
        """VACE's: Fun-Control's are put in front in each forward."""
        return 0 if self.facts.reference else self.beside(request)

    def _front(self, request: Request) -> int:
        """Latent frames in front of the video: the references, for which Fun-Control always has a place."""
        return int(self.facts.reference) or len(_references(request))

    def read_tokens(self, encoder: Reader, prompt_tokens: int = 0) -> int:
        if encoder.kind == "clip vision":
            return encoder.pictures * self.facts.looks
        return super().read_tokens(encoder, prompt_tokens)

    def text_positions(self, request: Request) -> int:
        """The prompt's, and those of what CLIP has seen."""
        encoder = reader(self.parts["image_encoder"].tensors) if "image_encoder" in self.parts else None
        return self.facts.prompt_tokens + (self.read_tokens(encoder) if encoder else 0)

    def timed(self, request: Request) -> bool:
        return self.facts.per_token_time

    @classmethod
    def mlp_width(cls, config: Config, hidden: int) -> int:
        return int(config.get("ffn_dim") or super().mlp_width(config, hidden))

    def schedule(self, request: Request) -> Schedule:
        return Schedule({"shift": request.shift or 1.0}, request.steps)

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        facts = self.facts
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, _, t, h, w = facts.latent_shape(request.width, request.height, request.frames)
        t += self._front(request)
        each = (1, t * (h // 2) * (w // 2)) if facts.per_token_time else (1,)
        inputs = dict(
            hidden_states=empty(1, config["in_channels"], t, h, w),
            timestep=empty(*each, dtype=torch.float32),
            encoder_hidden_states=empty(1, facts.prompt_tokens, facts.text_width),
        )
        if facts.vace_layers:
            inputs["control_hidden_states"] = empty(1, config["vace_in_channels"], t, h, w)
            inputs["control_hidden_states_scale"] = empty(facts.vace_layers)
        encoder = reader(self.parts["image_encoder"].tensors) if "image_encoder" in self.parts else None
        if facts.layout and encoder is not None:
            inputs["encoder_hidden_states_image"] = empty(facts.looks, encoder.pictures, encoder.width)
        return inputs

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        facts, generator = self.facts, torch.Generator("cpu").manual_seed(request.seed)
        inputs = _common(self, conditioning, request, schedule)
        inputs["generator"] = generator
        inputs["latents"] = self._start(request, generator, schedule)
        kinds = {
            control_denoiser: facts.vace_layers,
            fun_denoiser: facts.follows_control,
            token_denoiser: facts.per_token_time,
            image_denoiser: facts.layout,
        }
        make = next((make for make, fits in kinds.items() if fits), text_denoiser)
        return make(self, request, inputs)

    def _start(self, request: Request, generator: torch.Generator, schedule: NoiseSchedule) -> Tensor:
        """Noise, or the source with noise on it (WanVideoToVideoPipeline.prepare_latents); references go in front."""
        b, c, t, h, w = self.facts.latent_shape(request.width, request.height, request.frames)
        more = len(_references(request)) if self.facts.vace_layers else 0
        noise = draw((b, c, t + more, h, w), generator, self.memory.device("transformer"))
        if request.source is None or request.strength >= 1:
            return noise
        return mix(noise, encoded_source(self, request), schedule.sigmas[0])

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(latents.device) for v in (self.facts.mean, self.facts.std))
        return (latents.float() - mean) * (1.0 / std)

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return decode_pieces(vae, latents, tile.offload_state)

    @classmethod
    def coder(cls, config: Config) -> str:
        return "2.2" if config.get("is_residual") else "2.1"

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)


# ---------------------------------------------------------------- files


_OTHER = {"low": message("a_low_expert"), "high": message("a_high_expert")}


_OF_TWO = {"2.1-t2v-14b": "2.2-t2v-a14b"}  # variant of one expert -> that of two whose networks are the same


def _expert(name: str) -> str:
    """Which expert of two a name says that it is, "high" or "low"; empty: neither."""
    match = re.search(r"(high|low)[-_ ]?noise|(?<![a-z])(high|low)(?![a-z])", name.lower())
    return "" if match is None else match[1] or match[2]


def _works_alone(checkpoint: Path) -> bool:
    """Whether a file does not say that it is one of two: a merge of both, or an expert that was distilled alone."""
    return checkpoint.is_file() and not _expert(checkpoint.name)


def _with_low_noise(bundle: Bundle, recipe: Recipe) -> Bundle:
    """The low-noise expert from another folder; names tell when the two are in each other's place."""
    high, low = recipe.files["checkpoint"], recipe.files["low_noise"]
    for slot, path, wrong in (("checkpoint", high, "low"), ("low_noise_checkpoint", low, "high")):
        if _expert(path.name) == wrong:
            right = {"low": "low_noise_checkpoint", "high": "checkpoint"}[wrong]
            raise CheckpointError(_OTHER[wrong], message("choose_under", input=inputs_named(right)), slot, path.name)
    with describing(low, FORMAT.spec.title):
        source = read_diffusers(low, FORMAT) if low.is_dir() else read_source(low, FORMAT)
        expert = source.parts.get("transformer_2", source.parts["transformer"])
    mine, other = bundle.parts["transformer"].config, expert.config
    sizes = ("in_channels", "num_layers", "num_attention_heads")
    if any(frozen(mine.get(key)) != frozen(other.get(key)) for key in sizes):
        rule = message("not_other_half", file=high.name)
        raise CheckpointError(rule, message("choose_low_expert"), "low_noise_checkpoint", low.name)
    expert.check()
    variant = _OF_TWO.get(bundle.variant)
    if variant:  # the same network: that there are two of them tells which it is
        defaults = {k: frozen(v) for k, v in FORMAT.spec.config(variant, "defaults").items()}
        bundle = replace(bundle, variant=variant, defaults=defaults)
    return replace(bundle, parts={**bundle.parts, "transformer_2": expert})


def _with_module(bundle: Bundle, recipe: Recipe) -> Bundle:
    """VACE of a Wan2.1-T2V and the file with the layers that VACE adds to it."""
    file, checkpoint = recipe.files["module"], recipe.files["checkpoint"].name
    if "low_noise" in recipe.files:
        raise CheckpointError(message("module_beside_experts"), message("choose_module"), "vace_module", file.name)
    with describing(file, FORMAT.spec.title):
        added = module(read_file(file)[0])
    if added is None:
        raise CheckpointError(message("not_a_module", file=file.name), message("choose_module"))
    base = bundle.parts["transformer"]
    if "vace_patch_embedding.weight" in base.entries:
        rule = message("module_already", file=file.name, checkpoint=checkpoint)
        raise CheckpointError(rule, message("set_module_none"), "vace_module", file.name)
    width, wide = base.entries["blocks.0.attn1.to_q.weight"].shape[0], added["vace_patch_embedding.weight"].shape[0]
    if wide != width or _form(base.config) != _form(FORMAT.spec.config("2.1-t2v-14b", "transformer")):
        sizes = dict(module=wide, width=width, channels=base.config["in_channels"])
        rule = message("module_of_other", file=file.name, checkpoint=checkpoint, **sizes)
        raise CheckpointError(rule, message("choose_module_base"))
    network = described({**base.entries, **added})
    network.check()
    parts = {**bundle.parts, "transformer": network}
    variant = _variant({"transformer": network.config}, file.name)
    defaults = {k: frozen(v) for k, v in FORMAT.spec.config(variant, "defaults").items()}
    return replace(bundle, variant=variant, parts=parts, defaults=defaults)


def _boundary(bundle: Bundle) -> float | None:
    """The share of the noise above which the high-noise expert works; None for one expert."""
    boundary: float | None = bundle.pipeline.get("boundary_ratio", bundle.defaults.get("boundary"))
    return boundary


def _keyframe_sets(
    network: Config, layout: tuple[str, ...], per_token_time: bool, inpaint: bool
) -> tuple[tuple[str, ...], ...] | None:
    """The sets of keyframes that work, as `Facts.pictures` has them."""
    if network.get("vace_layers"):
        return None
    if inpaint:
        return ("first",), ("first", "last"), ("last",), ()
    if not layout or "control" in layout:
        return ((), ("first",)) if per_token_time or layout else ((),)
    if network.get("pos_embed_seq_len"):
        return (("first", "last"),)
    return (("first",),) if network.get("image_dim") else (("first",), ("first", "last"))
