"""Fun-Control and Fun-InP of Wan as the host's own classes make them, and what the host computes of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.training import tiny_files
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor

TEXT, LOOK = 32, 1280  # the host's projection of images always takes as many


@dataclass(frozen=True)
class Fun:
    """A published form. taken, made: channels; sees: whether CLIP's view is read; reference: whether a picture is."""

    taken: int
    made: int = 16
    sees: bool = False
    reference: bool = False


FORMS = {
    "fun-control-1.0": Fun(48, sees=True),
    "fun-control-1.1": Fun(48, sees=True, reference=True),
    "fun-inp": Fun(36, sees=True),
    "fun-control-a14b": Fun(52, reference=True),
    "fun-inp-a14b": Fun(36),
    "fun-control-5b": Fun(148, 48, reference=True),
    "fun-inp-5b": Fun(100, 48),
}


def network(form: Fun, seed: int = 1) -> dict[str, Tensor]:
    """The weights of the host's own class, under the published names."""
    with host_classes(), seeded(seed):
        import comfy.ops
        from comfy.ldm.wan.model import WanModel

        model = WanModel(
            "i2v" if form.sees else "t2v",
            in_dim=form.taken,
            out_dim=form.made,
            dim=128,
            ffn_dim=256,
            num_heads=1,
            num_layers=2,
            text_dim=TEXT,
            in_dim_ref_conv=form.made if form.reference else None,
            operations=comfy.ops.disable_weight_init,
            dtype=torch.float32,
            device="cpu",
        )
        return randomised(model)


def vae(form: Fun) -> dict[str, Tensor]:
    """The weights of the host's own VAE."""
    with host_classes(), seeded(3):
        from comfy.ldm.wan.vae import WanVAE
        from comfy.ldm.wan.vae2_2 import WanVAE as WanVAE22

        common = dict(dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
        old = form.made == 16
        return randomised(WanVAE(dim=8, z_dim=16, **common) if old else WanVAE22(dim=8, dec_dim=16, z_dim=48, **common))


def look() -> dict[str, Tensor]:
    """A CLIP vision tower of 17 tokens."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=LOOK,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=16,
        image_size=224,
        patch_size=56,
    )
    with seeded(4):
        state = CLIPVisionModelWithProjection(config).state_dict()
    return {key: value for key, value in state.items() if not key.endswith("position_ids")}


def opened(form: Fun, folder: Path, name: str, low: bool = False) -> VideoModel:
    """The files of a form, read by our loader."""
    parts: Mapping[str, Any] = {"checkpoint": network(form), "vae": vae(form)}
    parts = {**parts, "image_encoder": look()} if form.sees else parts
    parts = {**parts, "low_noise": network(form, 2)} if low else parts
    files = {part: folder / f"{name}-{part}.safetensors" for part in parts}
    for part, file in files.items():
        save_file({k: v.contiguous() for k, v in parts[part].items()}, file)
    encoder = folder / "umt5.safetensors"
    tiny_files.umt5(encoder)
    files |= {"text_encoder": encoder, "tokenizer": encoder}
    return load(Recipe("wan", "", files, "float32"), PlainMemory())


class Host:
    """The host's model and VAE of a form, from the same weights."""

    def __init__(self, form: Fun) -> None:
        with host_classes():
            import comfy.sd

            sizes = {"config": json.dumps({"transformer": {"text_dim": TEXT}})}
            self.model = comfy.sd.load_diffusion_model_state_dict(network(form), metadata=sizes).model
            import comfy.ldm.wan.vae2_2 as vae_of_2_2

            whole = vae_of_2_2.WanVAE  # it has its published size, whatever the file holds
            try:
                vae_of_2_2.WanVAE = lambda **sizes: whole(**{**sizes, "dim": 8, "dec_dim": 16})
                self.vae = comfy.sd.VAE(sd=vae(form))
            finally:
                vae_of_2_2.WanVAE = whole

    def given(self, node: str, **inputs: Any) -> dict[str, Any]:
        """What the host's node of this name puts into the conditioning."""
        with host_classes():
            import comfy_extras.nodes_wan as nodes_wan

            empty = [[torch.zeros(1), {}]]
            output = getattr(nodes_wan, node).execute(empty, empty, self.vae, 32, 32, 9, 1, **inputs)
        return dict(output.result[0][0][1])

    def prediction(self, latents: Tensor, time: float, text: Tensor, given: dict[str, Any]) -> Tensor:
        """The network's output for latents with this conditioning."""
        with torch.no_grad():
            beside = self.model.concat_cond(noise=latents, device=torch.device("cpu"), **given)
            more = {
                name: cond.cond
                for name, cond in self.model.extra_conds(noise=latents, device=torch.device("cpu"), **given).items()
                if name in ("clip_fea", "reference_latent")
            }
            inputs = torch.cat([latents, beside], 1)
            output: Tensor = self.model.diffusion_model(inputs, torch.tensor([time]), text, **more)
        return output
