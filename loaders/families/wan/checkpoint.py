"""Wan as single files: the published layout, in which ComfyUI's files are too (Wan-Video/Wan2.1, wan/modules/model.py).

diffusers' own converters do the renaming: they touch names alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ...messages import CheckpointError, either, message
from ...parts import ConfigDict
from ...spec import read_spec
from ...weights.entry import Entry, rename, strip_prefix
from ...weights.format import CheckpointFormat, Config, Entries, Weights, add_class
from ...weights.kinds import NETWORK_PREFIXES

SPEC = read_spec(Path(__file__).parent)
REFERENCED = "WanReferenceTransformer3DModel"
_TRANSFORMERS = ("WanTransformer3DModel", "WanVACETransformer3DModel", REFERENCED)
HEAD = 128  # channels of a head, in every published model


# words with an underscore in the published names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = (
    "patch_embedding",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "self_attn",
    "cross_attn",
    "norm_q",
    "norm_k",
    "k_img",
    "v_img",
    "norm_k_img",
    "img_emb",
    "vace_blocks",
    "vace_patch_embedding",
    "before_proj",
    "after_proj",
    "ref_conv",
)
# what the reference's convolution is called beside that of the video; see `network.ReferencePatches`
_REFERENCE = {
    r"^ref_conv\.": "patch_embedding.reference.",
    r"^patch_embedding\.(?=weight$|bias$)": "patch_embedding.video.",
}


def _referenced() -> type[nn.Module]:
    from .network import WanReferenceTransformer3DModel

    return WanReferenceTransformer3DModel


add_class(REFERENCED, _referenced)


def renamed(entries: Entries, network: Mapping[str, object] | None = None) -> dict[str, Entry]:
    """The published names -> diffusers'. network: the names of the whole network, where these are some of it."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    named = convert_wan_transformer_to_diffusers(dict(entries))
    named = {
        key.replace("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"): e for key, e in named.items()
    }
    if "ref_conv.weight" in named or "patch_embedding.reference.weight" in (network or {}):
        named = {rename(key, _REFERENCE): entry for key, entry in named.items()}
    return named


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors."""
    original = {"patch_embedding.weight", "blocks.0.self_attn.q.weight"} <= {*entries}
    if not original and "blocks.0.attn1.to_q.weight" not in entries:
        return None
    named = renamed(entries) if original else dict(entries)
    if "condition_embedder.text_embedder.linear_1.weight" not in named:
        return None
    return described(named)


def described(named: Entries) -> Weights:
    """A network under diffusers' names, with the config that its shapes tell."""
    return Weights(_config(named), named)


def module(entries: Entries) -> dict[str, Entry] | None:
    """The layers that VACE adds to a Wan2.1-T2V under diffusers' names, if these are they alone."""
    named = strip_prefix(entries, *NETWORK_PREFIXES)
    named = renamed(named) if "vace_blocks.0.self_attn.q.weight" in named else named
    whole = any(not key.startswith(("vace_blocks.", "vace_patch_embedding.")) for key in named)
    return None if whole or "vace_patch_embedding.weight" not in named else named


def _config(named: Entries) -> ConfigDict:
    """The config that the shapes tell; the rest is alike in all published variants."""
    reference = named.get("patch_embedding.reference.weight")
    width, channels, *patch = named["patch_embedding.video.weight" if reference else "patch_embedding.weight"].shape
    vace = "vace_patch_embedding.weight" in named
    config = SPEC.config("2.1-vace-14b" if vace else "2.1-t2v-14b", "transformer")
    if reference:
        config |= dict(_class_name=REFERENCED, reference_channels=reference.shape[1])
    image, positions = (named.get(f"condition_embedder.image_embedder.{n}") for n in ("norm1.weight", "pos_embed"))
    count = lambda blocks: sum(bool(re.fullmatch(rf"{blocks}\.\d+\.scale_shift_table", key)) for key in named)
    layers = count("blocks")
    if vace:  # the control layers lie evenly among the blocks
        config |= dict(
            vace_layers=list(range(0, layers, layers // count("vace_blocks"))),
            vace_in_channels=named["vace_patch_embedding.weight"].shape[1],
        )
    return config | dict(
        patch_size=patch,
        num_attention_heads=max(width // HEAD, 1),
        attention_head_dim=min(HEAD, width),
        in_channels=channels,
        out_channels=named["proj_out.weight"].shape[0] // math.prod(patch),
        num_layers=layers,
        ffn_dim=named["blocks.0.ffn.net.0.proj.weight"].shape[0],
        text_dim=named["condition_embedder.text_embedder.linear_1.weight"].shape[1],
        freq_dim=named["condition_embedder.time_embedder.linear_1.weight"].shape[1],
        image_dim=image and image.shape[0],
        added_kv_proj_dim=image and width,
        pos_embed_seq_len=positions and positions.shape[1],
    )


# the nested blocks of TI2V-5B's VAE (wan/modules/vae2_2.py); diffusers' converter knows the flat ones of 2.1
_NESTED = {
    r"^encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\.(residual|shortcut)\.": (
        r"encoder.down_blocks.\1.resnets.\2.\3."
    ),
    r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\.(resample|time_conv)\.": (
        r"encoder.down_blocks.\1.downsampler.\2."
    ),
    r"^decoder\.upsamples\.(\d+)\.upsamples\.(\d+)\.(residual|shortcut)\.": r"decoder.up_blocks.\1.resnets.\2.\3.",
    r"^decoder\.upsamples\.(\d+)\.upsamples\.\d+\.(resample|time_conv)\.": r"decoder.up_blocks.\1.upsampler.\2.",
    r"(_blocks\.\d+\.resnets\.\d+)\.residual\.0\.": r"\1.norm1.",
    r"(_blocks\.\d+\.resnets\.\d+)\.residual\.2\.": r"\1.conv1.",
    r"(_blocks\.\d+\.resnets\.\d+)\.residual\.3\.": r"\1.norm2.",
    r"(_blocks\.\d+\.resnets\.\d+)\.residual\.6\.": r"\1.conv2.",
    r"(_blocks\.\d+\.resnets\.\d+)\.shortcut\.": r"\1.conv_shortcut.",
}


def vae(entries: Entries) -> Weights | None:
    """The VAE of Wan 2.1 (and 2.2-A14B) or of TI2V-5B under diffusers' names, if these are its tensors."""
    if "encoder.conv1.weight" in entries and "decoder.head.0.gamma" in entries:
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        named = convert_wan_vae_to_diffusers({rename(key, _NESTED): entry for key, entry in entries.items()})
    elif "encoder.conv_in.weight" in entries and "decoder.norm_out.gamma" in entries:
        named = dict(entries)
    else:
        return None
    channels = named["post_quant_conv.weight"].shape[0]
    config = SPEC.config("2.2-ti2v-5b" if channels == 48 else "2.1-t2v-14b", "vae")
    config["base_dim"] = named["encoder.conv_in.weight"].shape[0]
    if "decoder_base_dim" in config:
        config["decoder_base_dim"] = named["decoder.norm_out.gamma"].shape[0]
    return Weights(config, named)


# ---------------------------------------------------------------- variants

# channels beside the latents, in latents and in masks of the four frames of each -> what they hold
_LAYOUTS = {
    (0, 0): (),
    (1, 1): ("mask", "start"),
    (2, 0): ("control", "start"),
    (2, 1): ("control", "mask", "start"),
}
_MASK = 4


def layout_of(channels: int, latent: int) -> tuple[str, ...]:
    """What the channels beside `latent` ones of the video hold; raises CheckpointError for a number that says
    nothing."""
    for (latents, masks), pieces in _LAYOUTS.items():
        if channels == latents * latent + masks * _MASK:
            return pieces
    known = either(*(latent + latents * latent + masks * _MASK for latents, masks in _LAYOUTS))
    rule = message("wan_channels", channels=latent + channels, latent=latent, known=known)
    raise CheckpointError(rule, message("wan_channels_remedy"))


def _form(config: Config) -> tuple[object, ...]:
    """What the network takes in and gives, which no two variants of other purpose share."""
    inputs = config["in_channels"], config["out_channels"]
    return *inputs, *(bool(config.get(key)) for key in ("image_dim", "pos_embed_seq_len", "vace_layers"))


def _variant(configs: Mapping[str, Config], name: str) -> str:
    """The published variant of this form and depth; where several are alike, the name of the file decides."""
    config, name = configs["transformer"], name.lower()
    layout_of(config["in_channels"] - config["out_channels"], config["out_channels"])
    shipped = {variant: SPEC.config(variant, "transformer") for variant in SPEC.variants()}
    fitting = [variant for variant, other in shipped.items() if _form(other) == _form(config)]
    if not fitting:
        raise CheckpointError(message("wan_unknown", file=name), message("use_one_of_these"))
    depth = {variant: shipped[variant]["num_layers"] for variant in fitting}
    deep = [variant for variant in fitting if depth[variant] == config["num_layers"]] or fitting
    marked = [v for v in deep if v in SPEC.name_marks and re.search(SPEC.name_marks[v], name)]
    plain = [v for v in deep if v not in SPEC.name_marks] or deep
    return marked[0] if marked else min(plain, key=lambda variant: abs(depth[variant] - config["num_layers"]))


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={
        "transformer": _TRANSFORMERS,
        "transformer_2": _TRANSFORMERS,
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "image_encoder": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    },
    transformer=transformer,
    vae=vae,
    rename=renamed,
    underscored=UNDERSCORED,
    variant=_variant,
)
