"""Networks of HunyuanVideo and Mochi as the host's own classes make them, and a forward of the host's and of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families.hunyuan_video import checkpoint as hunyuan_video_files
from reelwire.loaders.families.mochi import checkpoint as mochi_files
from reelwire.tests.support.files.configs import PUBLISHED, rename
from reelwire.tests.support.files.files import KINDS, as_written, read_network
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.training.tiny_models import seeded

TEXT, POOLED, TOKENS = 64, 32, 7


def kl_config(width: int, multipliers: Sequence[int], blocks: int) -> dict[str, Any]:
    """The host's description of HunyuanVideo's VAE, of a width and with so many blocks at each size."""
    sizes = {"ch": width, "ch_mult": [*multipliers], "num_res_blocks": blocks, "resolution": 256}
    ends = {"in_channels": 3, "out_ch": 3, "z_channels": 16, "double_z": True}
    return {**sizes, **ends, "attn_resolutions": [], "dropout": 0.0, "conv3d": True, "time_compress": 4}


def unchanged(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make each module once, and give it its first weights again at every call."""

    @cache
    def made(*kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
        module = make(*kind).eval().requires_grad_(False)
        return module, {key: value.clone() for key, value in module.state_dict().items()}

    def again(*kind: str) -> Any:
        module, state = made(*kind)
        module.load_state_dict(state)
        return module

    return again


@unchanged
def hunyuan(kind: str = "t2v") -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.hunyuan_video.model import HunyuanVideo

        network = HunyuanVideo(
            in_channels=33 if kind == "concat" else 16,
            out_channels=16,
            vec_in_dim=POOLED,
            context_in_dim=TEXT,
            hidden_size=256,
            mlp_ratio=4.0,
            num_heads=2,
            depth=2,
            depth_single_blocks=2,
            axes_dim=[16, 56, 56],
            theta=256,
            patch_size=[1, 2, 2],
            qkv_bias=True,
            guidance_embed=kind != "concat",
            byt5=False,
            meanflow=False,
            use_cond_type_embedding=False,
            vision_in_dim=None,
            meanflow_sum=False,
            dtype=torch.float32,
            device="cpu",
            operations=comfy.ops.disable_weight_init,
        )
        randomised(network)
    if kind == "replace":  # the host tells the given frame the guidance scale too, Tencent and diffusers do not
        for value in network.guidance_in.parameters():
            value.data.zero_()
    return network


@unchanged
def mochi() -> Any:
    """The host's class takes the published width alone, so its layers of another width are put in afterwards."""
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
        from comfy.ldm.genmo.joint_model.layers import FeedForward

        common = dict(dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
        network = AsymmDiTJoint(
            depth=3,
            num_heads=3,
            hidden_size_x=384,
            hidden_size_y=96,
            mlp_ratio_x=32.0,
            mlp_ratio_y=4.0,
            learn_sigma=False,
            in_channels=12,
            qk_norm=True,
            qkv_bias=False,
            out_bias=True,
            attn_drop=0.0,
            posenc_preserve_area=True,
            timestep_scale=1000.0,
            use_t5=True,
            t5_feat_dim=TEXT,
            t5_token_length=TOKENS,
            **common,
        )
        for block in network.blocks:
            block.mlp_x = FeedForward(384, 4 * 384, multiple_of=256, ffn_dim_multiplier=None, **common)
        randomised(network)
    return network


def published(state: Any) -> dict[str, torch.Tensor]:
    """ComfyUI's names of a network of HunyuanVideo -> Tencent's."""
    return {rename(name, PUBLISHED["hunyuan_video"]): value for name, value in state.items()}


def inputs(channels: int) -> dict[str, Any]:
    with seeded(2):
        return dict(
            x=torch.randn(1, channels, 3, 4, 6),
            text=torch.randn(1, TOKENS, TEXT),
            pooled=torch.randn(1, POOLED),
            mask=torch.ones(1, TOKENS, dtype=torch.bool),
        )


def theirs(model: Any, family: str, replaced: bool = False) -> torch.Tensor:
    """replaced: the first latent frame is a picture, and has no noise."""
    i = inputs(model.in_channels)
    if family == "mochi":
        return -model(i["x"], torch.tensor([0.7]), i["text"], i["mask"], num_tokens=TOKENS)
    guidance = torch.tensor([6.0]) if model.params.guidance_embed else None
    extra = {"guiding_frame_index": torch.tensor([0.0])} if replaced else {}
    return model(i["x"], torch.tensor([700.0]), i["text"], y=i["pooled"], guidance=guidance, **extra)


@torch.no_grad()
def ours(model: Any, family: str) -> torch.Tensor:
    i = inputs(model.config.in_channels)
    common = dict(
        hidden_states=i["x"], encoder_hidden_states=i["text"], encoder_attention_mask=i["mask"], return_dict=False
    )
    if family == "mochi":
        return model(timestep=torch.tensor([300.0]), **common)[0]
    guidance = torch.tensor([6000.0]) if model.config.guidance_embeds else None
    return model(timestep=torch.tensor([700.0]), pooled_projections=i["pooled"], guidance=guidance, **common)[0]


FILES = {"hunyuan_video": hunyuan_video_files, "mochi": mochi_files}
NAMES: dict[str, Callable[[Any], Any]] = {"hunyuan_video": published, "mochi": dict}


def differ(file: Path, kind: str, file_kind: str) -> tuple[float, Any]:
    """(largest difference of one forward to the host's, the network) of a file of this kind."""
    family = "mochi" if kind == "mochi" else "hunyuan_video"
    model = mochi() if kind == "mochi" else hunyuan(kind)
    state = NAMES[family](model.state_dict())
    numbers = KINDS[file_kind](file, state)
    with as_written(model, {key: numbers[name] for key, name in zip(model.state_dict(), state, strict=True)}):
        expected = theirs(model, family, kind == "replace")
    assert expected.abs().max() > 0.1
    network = read_network(FILES[family], file)
    known = 1 if kind == "replace" else 0  # frames whose output counts for nothing
    return (ours(network, family) - expected)[:, :, known:].abs().max().item(), network


@unchanged
def mochi_vae() -> Any:
    """The host's class has the published widths alone; its halves take others."""
    with host_classes(), seeded(1):
        from comfy.ldm.genmo.vae.model import Decoder, Encoder

        depth, stages = [2, 1, 2, 1, 1], [1, 2, 3]
        vae = torch.nn.Module()
        vae.encoder = Encoder(
            in_channels=15,
            base_channels=32,
            channel_multipliers=[1, 2, 3, 4],
            num_res_blocks=depth,
            latent_dim=12,
            temporal_reductions=stages,
            spatial_reductions=[2, 2, 2],
            prune_bottlenecks=[False] * 5,
            has_attentions=[False, True, True, True, True],
            input_is_conv_1x1=True,
            padding_mode="replicate",
        )
        vae.decoder = Decoder(
            out_channels=3,
            base_channels=64,
            channel_multipliers=[1, 2, 3, 4],
            temporal_expansions=stages,
            spatial_expansions=[2, 2, 2],
            num_res_blocks=depth,
            latent_dim=12,
            has_attention=[False] * 5,
            padding_mode="replicate",
            output_norm=False,
        )
        randomised(vae)
    return vae
