"""The four kinds of run of Wan: text, images as channels, a time for each token, and VACE's control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ...common.flow import FlowRun, begin
from ...common.images import clip_pixels, cover, fit_inside
from ...denoiser import Run
from ...facts import Facts
from ...request import Conditioning, Control, Request
from ...video_model import VideoModel

Network = Any  # a diffusers or transformers module, whose attributes are untyped


@dataclass(frozen=True, kw_only=True)
class WanFacts(Facts):
    """What Wan adds.

    boundary: the share of the noise above which the high-noise expert works, None for one expert. per_token_time: the
    time of each token is its own, so that a first frame can stay (TI2V-5B). concatenated: pictures come in as channels.
    """

    boundary: float | None
    per_token_time: bool
    concatenated: bool
    vace_layers: int  # how many of VACE's layers read the control video; 0: no VACE


class WanModel(VideoModel):
    """A VideoModel with Wan's facts, for the functions here; families/wan says the rest of it."""

    facts: WanFacts


# ---------------------------------------------------------------- the four kinds of run


@dataclass
class _Run(FlowRun):
    """WanPipeline: text alone. text: embeddings [1, L, width] per branch; dtype: the network's."""

    text: Mapping[str, Tensor]
    dtype: torch.dtype
    low_guidance: float
    low: list[bool]  # whether the low-noise expert makes a step, for each of them

    def part(self, step: int) -> str:
        return "transformer_2" if self.low[step] else "transformer"

    def scale(self, step: int) -> float | Tensor:
        return self.guidance if self.part(step) == "transformer" else self.low_guidance

    def seen(self) -> Tensor:
        """The latents and what is given beside them, as the network takes them in."""
        return self.latents

    def time(self, step: int) -> Tensor:
        return self.timesteps[step].expand(1)

    def given(self, step: int) -> dict[str, Any]:
        """Further inputs of the network in a step."""
        return {}

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        batch = 2 if branch == "cond_uncond" else 1
        repeated = {
            k: torch.cat([v] * batch) if k != "control_hidden_states_scale" else v for k, v in self.given(step).items()
        }
        return self.forward(
            network, step, branch, hidden_states=torch.cat([self.seen()] * batch).to(self.dtype),
            timestep=torch.cat([self.time(step)] * batch), encoder_hidden_states=self.text[branch], **repeated,
        )  # fmt: skip


@dataclass
class _ImageRun(_Run):
    """WanImageToVideoPipeline. condition: mask and encoded pictures [1, 4 + C, t, h, w]; image: CLIP's view of them."""

    condition: Tensor
    image: Tensor | None

    def seen(self) -> Tensor:
        return torch.cat([self.latents, self.condition], 1)

    def given(self, step: int) -> dict[str, Any]:
        return {} if self.image is None else {"encoder_hidden_states_image": self.image}


@dataclass
class _TokenRun(_Run):
    """WanPipeline and WanImageToVideoPipeline with expand_timesteps. free: 0 on the first frame if `first` gives it."""

    first: Tensor
    free: Tensor  # [1, 1, t, h, w]

    def seen(self) -> Tensor:
        return (1 - self.free) * self.first + self.free * self.latents

    def time(self, step: int) -> Tensor:
        return (self.free[0][0][:, ::2, ::2] * self.timesteps[step]).flatten().unsqueeze(0)

    def finish(self) -> Tensor:
        return self.seen()

    def preview(self) -> Tensor:
        return (1 - self.free) * self.first + self.free * self.clean()


@dataclass
class _ControlRun(_Run):
    """WanVACEPipeline. control: [1, 96, t, h, w]; strengths: one for each VACE layer, 0 in steps outside the range of
    what was `asked`; references: latent frames in front."""

    control: Tensor
    strengths: Tensor
    references: int
    asked: Control

    def counts(self, step: int) -> bool:
        return self.asked.strength > 0 and self.asked.counts(step, len(self.timesteps))

    def given(self, step: int) -> dict[str, Any]:
        strengths = self.strengths * self.counts(step)
        return {"control_hidden_states": self.control, "control_hidden_states_scale": strengths}

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        """Where hints count 0 times, their layers rest; not under a cache, which goes by the layers it has seen."""
        if self.cache is not None or self.counts(step):
            return super().predict(network, step, branch)
        with _hintless(network):
            return super().predict(network, step, branch)

    def finish(self) -> Tensor:
        return self.latents[:, :, self.references :]

    def preview(self) -> Tensor:
        return self.clean()[:, :, self.references :]


class _NoHint(nn.Module):
    """Stands in for a VACE layer; adding its hint changes nothing."""

    def forward(self, video: Tensor, text: Tensor, control: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return control.new_zeros(()), control


@contextmanager
def _hintless(network: Network) -> Iterator[None]:
    """The network without VACE's layers."""
    layers = network.vace_blocks
    network.vace_blocks = nn.ModuleList(_NoHint() for _ in layers)
    try:
        yield
    finally:
        network.vace_blocks = layers


def _common(model: WanModel, conditioning: Conditioning, request: Request, scheduler: Any) -> dict[str, Any]:
    facts, device, dtype = model.facts, model.memory.device("transformer"), getattr(torch, model.recipe.dtype)
    text = {branch: v["text"].to(device, dtype) for branch, v in conditioning.branches.items()}
    text["cond_uncond"] = torch.cat([text["uncond"], text["cond"]])
    timesteps, skip = begin(scheduler, request)
    boundary = 0.0 if facts.boundary is None else facts.boundary * scheduler.config.num_train_timesteps
    return dict(timesteps=timesteps, scheduler=scheduler, guidance=request.guidance, skip=skip, text=text, dtype=dtype,
                low_guidance=request.guidance_2 or request.guidance, low=(timesteps < boundary).tolist())  # fmt: skip


def _image_run(model: WanModel, request: Request, inputs: dict[str, Any]) -> Run:
    """Pictures at their places in an otherwise gray clip, and a mask that tells which frames are given."""
    facts, latents = model.facts, inputs["latents"]
    images = [cover(k.images, request.width, request.height) for k in request.keyframes]
    places = [k.frame for k in request.keyframes]
    clip = torch.full((request.frames, request.height, request.width, 3), 0.5)
    known = torch.zeros(request.frames)
    for at, picture in zip(places, images, strict=True):
        clip[at], known[at] = picture[0], 1.0
    with model.use("vae", model.encoding(request.width, request.height, request.frames)) as vae:
        z = model.encode_video(vae, clip).to(latents)
    known = torch.cat([known[:1].repeat(facts.temporal_ratio), known[1:]])
    mask = repeat(known, "(t r) -> 1 r t h w", r=facts.temporal_ratio, h=latents.shape[3], w=latents.shape[4])
    image = _look(model, images) if "image_encoder" in model.parts else None
    return _ImageRun(condition=torch.cat([mask.to(z), z], 1), image=image, **inputs)


def _look(model: WanModel, images: list[Tensor]) -> Tensor:
    """CLIP's second last hidden states [N, 257, width] (WanImageToVideoPipeline.encode_image)."""
    seen = clip_pixels(torch.cat(images), model.recipe.files.get("image_processor"))
    with model.use("image_encoder") as encoder:
        seen = seen.to(model.memory.device("image_encoder"), encoder.dtype)
        hidden = encoder(pixel_values=seen, output_hidden_states=True).hidden_states[-2]
    return hidden.to(model.memory.device("transformer"), getattr(torch, model.recipe.dtype))


def _token_run(model: WanModel, request: Request, inputs: dict[str, Any]) -> Run:
    latents = inputs["latents"]
    free, first = torch.ones_like(latents[:, :1]), torch.zeros_like(latents)
    if request.keyframes:
        with model.use("vae", model.encoding(request.width, request.height)) as vae:
            image = cover(request.keyframes[0].images, request.width, request.height)
            first = model.encode_video(vae, image).to(latents)
        free[:, :, 0] = 0
    return _TokenRun(first=first, free=free, **inputs)


def _text_run(model: WanModel, request: Request, inputs: dict[str, Any]) -> Run:
    return _Run(**inputs)


def _control_run(model: WanModel, request: Request, inputs: dict[str, Any]) -> Run:
    """VACE's two halves: what is known (keyframes, and the control video outside its mask), and what the control video
    shows where the video is made anew; then the mask (prepare_video_latents, prepare_masks)."""
    facts = model.facts
    video, mask = _control_video(request)
    fresh = (mask > 0.5).unsqueeze(-1)
    with model.use("vae", model.encoding(request.width, request.height, request.frames)) as vae:
        encode = lambda frames: model.encode_video(vae, frames)
        z = torch.cat([encode(torch.where(fresh, 0.5, video)), encode(torch.where(fresh, video, 0.5))], 1)
        for picture in _references(request):
            front = encode(fit_inside(picture, request.width, request.height))
            z = torch.cat([torch.cat([front, torch.zeros_like(front)], 1), z], 2)
    r = facts.spatial_ratio
    grid = rearrange(mask, "t (h p) (w q) -> 1 (p q) t h w", p=r, q=r)
    grid = F.interpolate(grid, size=(facts.latent_shape(1, 1, request.frames)[2], *z.shape[3:]), mode="nearest-exact")
    grid = F.pad(grid, (0, 0, 0, 0, z.shape[2] - grid.shape[2], 0)).to(z)
    asked, like = request.control or Control(), dict(device=inputs["latents"].device, dtype=inputs["dtype"])
    return _ControlRun(control=torch.cat([z, grid], 1).to(**like), references=len(_references(request)), asked=asked,
                       strengths=torch.full((facts.vace_layers,), asked.strength, **like), **inputs)  # fmt: skip


def _references(request: Request) -> list[Tensor]:
    """The control's reference pictures, each [1, H, W, 3]."""
    references = None if request.control is None else request.control.references
    return [] if references is None else list(references.split(1))


def _control_video(request: Request) -> tuple[Tensor, Tensor]:
    """(frames [T, H, W, 3], mask [T, H, W] of what is made anew): the control video with the keyframes laid over it."""
    control, size = request.control, (request.width, request.height)
    video = torch.full((request.frames, request.height, request.width, 3), 0.5)
    mask = torch.ones(video.shape[:3])
    if control is not None and control.frames is not None:
        video = cover(control.frames[: request.frames], *size).clone()
        if control.mask is not None:
            mask = cover(repeat(control.mask, "t h w -> t h w c", c=3), *size)[: request.frames, ..., 0].clone()
            mask = mask.expand(len(video), -1, -1).clone()
    for keyframe in request.keyframes:
        here = slice(keyframe.frame, keyframe.frame + len(keyframe.images))
        video[here], mask[here] = cover(keyframe.images, *size), 0.0
    return video, mask
