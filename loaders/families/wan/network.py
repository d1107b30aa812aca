"""The network of Fun-Control 1.1 and 2.2, which sees a reference picture in front of the video (Alibaba PAI,
https://github.com/aigc-apps/VideoX-Fun; ComfyUI, comfy/ldm/wan/model.py)."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ReferencePatches(nn.Module):
    """Patches of latents [B, C, 1 + t, h, w], of which the first frame is the reference.

    channels, reference_channels: of the video and what lies beside it, and of the reference, the first of these.
    """

    def __init__(self, channels: int, reference_channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.video = nn.Conv3d(channels, width, kernel_size=patch, stride=patch)
        self.reference = nn.Conv2d(
            reference_channels, width, kernel_size=(patch[1], patch[2]), stride=(patch[1], patch[2])
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        reference = self.reference(hidden_states[:, : self.reference.in_channels, 0])
        return torch.cat([reference.unsqueeze(2), self.video(hidden_states[:, :, 1:])], 2)


class WanReferenceTransformer3DModel(WanTransformer3DModel):
    """diffusers' network, but for the first latent frame, which goes through a convolution of its own."""

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 52,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        reference_channels: int = 16,
    ) -> None:
        super().__init__(
            tuple(patch_size),
            num_attention_heads,
            attention_head_dim,
            in_channels,
            out_channels,
            text_dim,
            freq_dim,
            ffn_dim,
            num_layers,
            cross_attn_norm,
            qk_norm,
            eps,
            image_dim,
            added_kv_proj_dim,
            rope_max_seq_len,
            pos_embed_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        time, height, across = patch_size
        self.patch_embedding = ReferencePatches(in_channels, reference_channels, width, (time, height, across))
