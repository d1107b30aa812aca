"""The five denoisers of Wan: text, images as channels, a time for each token, VACE's control, and Fun-Control's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ...common.images import clip_pixels, cover, fit_inside
from ...common.peaks import reader
from ...denoiser import Denoiser, Network, NoiseSchedule
from ...facts import Facts
from ...request import Conditioning, Control, Request
from ...video_model import VideoModel


@dataclass(frozen=True, kw_only=True)
class WanFacts(Facts):
    """What Wan adds.

    boundary: the share of the noise above which the high-noise expert works, None for one expert.
    per_token_time: the time of each token is its own, so that a first frame can stay (TI2V-5B).
    layout: what lies beside the latents as channels, in this order: "control" video, "mask" of the frames that are
        given, "start" (latents of these frames).
    reference: a picture goes through a convolution of its own and lies in front of the video.
    inpaint: frames at both ends, at one or at none may be given (Fun-InP).
    looks: how many pictures the image encoder sees.
    vace_layers: how many of VACE's layers read the control video; 0: no VACE.
    positions: how many the network's table has along each axis.
    """

    boundary: float | None
    per_token_time: bool
    layout: tuple[str, ...]
    reference: bool
    inpaint: bool
    looks: int
    vace_layers: int
    positions: int

    @property
    def follows_control(self) -> bool:
        """Whether this is Fun-Control."""
        return "control" in self.layout


class WanModel(VideoModel):
    """A VideoModel with Wan's facts, for the functions here; families/wan says the rest of it."""

    facts: WanFacts


# ---------------------------------------------------------------- the five denoisers


@dataclass
class WanDenoiser(Denoiser):
    """WanPipeline: text alone.

    text: embeddings [1, L, width] per branch.
    dtype: the network's.
    low_guidance: of the low-noise expert.
    low: whether the low-noise expert makes a prediction, for each of them.
    """

    text: Mapping[str, Tensor]
    dtype: torch.dtype
    low_guidance: float
    low: list[bool]
    front = 0  # latent frames before the video that the network is given

    def part(self, step: int) -> str:
        return "transformer_2" if self.low[step] else "transformer"

    def scale(self, step: int) -> float | Tensor:
        return self.low_guidance if self.low[step] else self.guidance

    def hidden_states(self, latents: Tensor, step: int) -> Tensor:
        """The latents and what is given beside them, as the network takes them in."""
        return latents

    def timestep(self, step: int) -> Tensor:
        return self.schedule.timesteps[step].expand(1)

    def further_inputs(self, step: int, batch: int) -> dict[str, Tensor]:
        """Inputs of the network that not every Wan has, for `batch` branches."""
        return {}

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        batch = 2 if branch == "cond_uncond" else 1
        prediction = self.forward(
            network,
            step,
            branch,
            hidden_states=torch.cat([self.hidden_states(latents, step)] * batch).to(self.dtype),
            timestep=torch.cat([self.timestep(step)] * batch),
            encoder_hidden_states=self.text[branch],
            **self.further_inputs(step, batch),
        )
        return prediction[:, :, self.front :] if self.front else prediction


@dataclass
class WanImageDenoiser(WanDenoiser):
    """WanImageToVideoPipeline. condition: mask and encoded pictures [1, 4 + C, t, h, w]; image: CLIP's view of them."""

    condition: Tensor
    image: Tensor | None

    def hidden_states(self, latents: Tensor, step: int) -> Tensor:
        return torch.cat([latents, self.condition], 1)

    def further_inputs(self, step: int, batch: int) -> dict[str, Tensor]:
        return {} if self.image is None else {"encoder_hidden_states_image": torch.cat([self.image] * batch)}


@dataclass
class WanTokenDenoiser(WanDenoiser):
    """WanPipeline and WanImageToVideoPipeline with expand_timesteps.

    first: latents whose first frame is given.
    free: [1, 1, t, h, w], 0 on the first frame where it is given.
    """

    first: Tensor
    free: Tensor

    def hidden_states(self, latents: Tensor, step: int) -> Tensor:
        return (1 - self.free) * self.first + self.free * latents

    def timestep(self, step: int) -> Tensor:
        return (self.free[0][0][:, ::2, ::2] * self.schedule.timesteps[step]).flatten().unsqueeze(0)

    def finish(self, latents: Tensor) -> Tensor:
        return self.hidden_states(latents, 0)


@dataclass
class WanFunDenoiser(WanImageDenoiser):
    """VideoX-Fun's WanFunControlPipeline and Wan2_2FunControlPipeline.

    without: the condition in steps outside the range of what was `asked`, with zeros for the control video.
    reference: [1, C, 1, h, w], whose other channels are not read; None: the network has no place for one.
    """

    without: Tensor
    reference: Tensor | None
    asked: Control

    def __post_init__(self) -> None:
        self.front = 0 if self.reference is None else 1

    def hidden_states(self, latents: Tensor, step: int) -> Tensor:
        counts = self.asked.counts(self.schedule.levels[step], self.schedule.level_count)
        video = torch.cat([latents, self.condition if counts else self.without], 1)
        return video if self.reference is None else torch.cat([self.reference.to(video), video], 2)


@dataclass
class WanControlDenoiser(WanDenoiser):
    """WanVACEPipeline.

    control: [1, 96, t, h, w].
    strengths: one for each VACE layer, 0 in steps outside the range of what was `asked`.
    references: latent frames in front.
    """

    control: Tensor
    strengths: Tensor
    references: int
    asked: Control

    def counts(self, step: int) -> bool:
        """Whether the control has a say in a prediction."""
        return self.asked.strength > 0 and self.asked.counts(self.schedule.levels[step], self.schedule.level_count)

    def further_inputs(self, step: int, batch: int) -> dict[str, Tensor]:
        strengths = self.strengths * self.counts(step)
        return {
            "control_hidden_states": torch.cat([self.control] * batch),
            "control_hidden_states_scale": strengths,
        }

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        """Where hints count 0 times, their layers rest; not under a cache, which goes by the layers it has seen."""
        if self.counts(step) or not isinstance(network, nn.Module):
            return super().predict(network, latents, step, branch)
        with _hintless(network):
            return super().predict(network, latents, step, branch)

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        return torch.cat([beside[:, :, : self.references].to(video), video], 2)

    def finish(self, latents: Tensor) -> Tensor:
        return latents[:, :, self.references :]


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


def _common(model: WanModel, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> dict[str, Any]:
    device, dtype = model.memory.device("transformer"), getattr(torch, model.recipe.dtype)
    text = {branch: v["text"].to(device, dtype) for branch, v in conditioning.branches.items()}
    text["cond_uncond"] = torch.cat([text["uncond"], text["cond"]])
    return dict(
        schedule=schedule,
        guidance=request.guidance,
        text=text,
        dtype=dtype,
        low_guidance=request.guidance_2 or request.guidance,
        low=model.low_noise_steps(request, schedule),
    )


def image_denoiser(model: WanModel, request: Request, inputs: dict[str, Any]) -> Denoiser:
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
    mask = _mask(facts, known, latents)
    image = look(model, images[: facts.looks])
    return WanImageDenoiser(condition=torch.cat([mask, z], 1), image=image, **inputs)


def _mask(facts: WanFacts, known: Tensor, latents: Tensor) -> Tensor:
    """Which frames [T] are given, as channels beside latents: the first counts for as many as the others of its
    latent frame."""
    known = torch.cat([known[:1].repeat(facts.temporal_ratio), known[1:]])
    mask = repeat(known, "(t r) -> 1 r t h w", r=facts.temporal_ratio, h=latents.shape[3], w=latents.shape[4])
    return mask.to(latents)


def look(model: WanModel, images: list[Tensor]) -> Tensor | None:
    """What the image encoder sees of these, zeros for none (VideoX-Fun); None where the model has no such encoder."""
    if "image_encoder" not in model.parts:
        return None
    if images:
        return encode_image(model, images)
    encoder = reader(model.parts["image_encoder"].tensors)
    assert encoder is not None
    nothing = torch.zeros(1, encoder.pictures, encoder.width)
    return nothing.to(model.memory.device("transformer"), getattr(torch, model.recipe.dtype))


def fun_denoiser(model: WanModel, request: Request, inputs: dict[str, Any]) -> Denoiser:
    """Latents of the control video, of the start picture alone in front of zeros, and of the reference."""
    facts, latents, asked = model.facts, inputs["latents"], request.control or Control()
    size = request.width, request.height
    videos = [] if asked.frames is None else [cover(asked.frames[: request.frames], *size)]
    starts, references = ([cover(k, *size) for k in pictures] for pictures in _pictures(request))
    with model.use("vae", model.encoding(*size, request.frames if videos else 1)) as vae:
        encode = lambda frames: model.encode_video(vae, frames).to(latents)
        control, start, reference = (
            _in_front(latents, [encode(frames) for frames in given]) for given in (videos, starts, references)
        )
    known = torch.zeros(request.frames)
    known[: len(starts)] = 1.0
    pieces = {"mask": _mask(facts, known, latents), "start": start, "control": control * asked.strength}
    beside = lambda pieces: torch.cat([pieces[name] for name in facts.layout], 1)
    condition = beside(pieces)
    front = torch.cat([reference[:, :, :1], torch.zeros_like(condition[:, :, :1])], 1) if facts.reference else None
    return WanFunDenoiser(
        condition=condition,
        without=beside({**pieces, "control": torch.zeros_like(control)}),
        image=look(model, (references or starts)[: facts.looks]),
        reference=front,
        asked=asked,
        **inputs,
    )


def _pictures(request: Request) -> tuple[list[Tensor], list[Tensor]]:
    """(the start picture, the reference picture), each none or one."""
    return [keyframe.images for keyframe in request.keyframes[:1]], _references(request)[:1]


def _in_front(latents: Tensor, encoded: list[Tensor]) -> Tensor:
    """Zeros as these latents, with the first frames replaced by what was encoded, if anything was."""
    zeros = torch.zeros_like(latents)
    return torch.cat([*encoded, zeros], 2)[:, :, : latents.shape[2]]


def encode_image(model: WanModel, images: list[Tensor]) -> Tensor:
    """CLIP's second last hidden states [N, 257, width] (WanImageToVideoPipeline.encode_image)."""
    pixels = clip_pixels(torch.cat(images), model.recipe.files.get("image_processor"))
    with model.use("image_encoder") as encoder:
        pixels = pixels.to(model.memory.device("image_encoder"), encoder.dtype)
        hidden = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    return hidden.to(model.memory.device("transformer"), getattr(torch, model.recipe.dtype))


def token_denoiser(model: WanModel, request: Request, inputs: dict[str, Any]) -> Denoiser:
    """The denoiser of Wan 2.2 5B, whose first latent frame is that of the keyframe, if there is one."""
    latents = inputs["latents"]
    free, first = torch.ones_like(latents[:, :1]), torch.zeros_like(latents)
    if request.keyframes:
        with model.use("vae", model.encoding(request.width, request.height)) as vae:
            image = cover(request.keyframes[0].images, request.width, request.height)
            first = model.encode_video(vae, image).to(latents)
        free[:, :, 0] = 0
    return WanTokenDenoiser(first=first, free=free, **inputs)


def text_denoiser(model: WanModel, request: Request, inputs: dict[str, Any]) -> Denoiser:
    """The denoiser of the models that take text alone."""
    return WanDenoiser(**inputs)


def control_denoiser(model: WanModel, request: Request, inputs: dict[str, Any]) -> Denoiser:
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
    return WanControlDenoiser(
        control=torch.cat([z, grid], 1).to(**like),
        references=len(_references(request)),
        asked=asked,
        strengths=torch.full((facts.vace_layers,), asked.strength, **like),
        **inputs,
    )


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
