"""A network that doubles the size of latents, between two samplers."""

from __future__ import annotations

from comfy_api.latest import io

from ...loaders.parts import Part
from ...loaders.video_model import VideoModel
from .. import host
from ..origin import from_model
from ..types import InputValue, model_input, share_input
from ..words import models_with, published_upsamplers
from .request import latents_of, noise_mask_of


class LatentUpscale(io.ComfyNode):
    """Upscale Latent (LTX-Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLatentUpscale",
            display_name=f"Upscale Latent ({models_with('latent_upsampler')})",
            category="Reelwire/sampling",
            description=f"Doubles width and height of {models_with('latent_upsampler')} latents. Give the result to "
            "Video Sampler as source, with a strength of about .4, to refine it.",
            search_aliases=[
                "multi-scale",
                "spatial upscaler",
                "hires fix",
                "upscale",
                "upscale video",
                "放大",
                "视频放大",
                "高清修复",
            ],
            inputs=[
                model_input(),
                io.Latent.Input(
                    "latent", lazy=True, tooltip=f"Latents of {models_with('latent_upsampler')}, from Video Sampler"
                ),
                io.Combo.Input(
                    "upsampler",
                    options=list(host.upsamplers()),
                    tooltip=f"A diffusers folder in models/diffusers, as {published_upsamplers()}",
                ),
                share_input(
                    "adain",
                    1.0,
                    "How much of the small latents' contrast and colour the large ones keep",
                    step=0.05,
                    advanced=True,
                ),
                share_input("tone_map", 0.6, "How much extreme values are softened", step=0.05, advanced=True),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="Latents of twice the width and height, for Video Sampler as source"
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, upsampler: str | None = None) -> bool | str:
        return host.valid((host.choose, "upsampler", upsampler, host.upsamplers()))

    @classmethod
    def check_lazy_status(
        cls, model: VideoModel, upsampler: str, latent: host.Latent | None = None, **inputs: InputValue
    ) -> list[str]:
        """Refuse an upsampler that does not fit before the latents are sampled."""
        cls._part(model, upsampler)
        if latent is not None:
            return []
        host.tell_unkept(cls)
        return ["latent"]

    @staticmethod
    def _part(model: VideoModel, upsampler: str) -> Part:
        """The upsampler; raises InputError where it does not fit the model."""
        return model.upsampler(host.choose("upsampler", upsampler, host.upsamplers()))

    @classmethod
    def execute(
        cls, model: VideoModel, latent: host.Latent, upsampler: str, adain: float = 1.0, tone_map: float = 0.6
    ) -> io.NodeOutput:
        part = cls._part(model, upsampler)
        samples, view, meter = latents_of(model, latent), host.LiveView(), host.Meter(model)
        with host.latents_on_disk(latent, cls):
            large = model.upscale(part, samples, adain, tone_map).cpu()
        note = {k: v * 2 if k in ("width", "height") else v for k, v in host.note_of(latent).items()}
        view.latents(1, 1, model, lambda: large, float(host.note_of(latent).get("fps") or 0))
        large_latent = from_model(model, model.to_host(large), note, latent)
        return io.NodeOutput({**large_latent, **noise_mask_of(latent), **meter.noted(latent)})
