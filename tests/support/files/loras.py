"""LoRA files in three key forms, and as the library `lycoris-lora` writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import read_lora
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]
RANK, ALPHA = 3, 6.0
# as Stability AI names them in a UNet of two levels, one layer and one attention each way
SVD = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.spatial_res_block.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.0.temporal_res_block.conv2": "input_blocks.1.0.time_stack.out_layers.3",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.attentions.1.proj_in": "output_blocks.3.1.proj_in",
    "mid_block.attentions.0.temporal_transformer_blocks.0.ff_in.net.2": "middle_block.1.time_stack.0.ff_in.net.2",
}
# family -> (tiny model, layers of its network as diffusers names them, the makers' names of the same)
LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "wan": (
        "tiny-wan2.1-t2v",
        {
            "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
            "blocks.1.attn2.to_out.0": "blocks.1.cross_attn.o",
            "blocks.2.ffn.net.0.proj": "blocks.2.ffn.0",
            "condition_embedder.text_embedder.linear_1": "text_embedding.0",
            "condition_embedder.time_proj": "time_projection.1",
        },
    ),
    "hunyuan_video": (
        "tiny-hunyuan-t2v",
        {
            "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn_proj",
            "transformer_blocks.1.ff_context.net.2": "double_blocks.1.txt_mlp.fc2",
            "single_transformer_blocks.1.proj_out": "single_blocks.1.linear2",
            "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.linear",
        },
    ),
    "cogvideox": (
        "tiny-cogvideox-2b",
        {
            "transformer_blocks.0.attn1.to_q": "blocks.0.q",
            "transformer_blocks.1.attn1.to_out.0": "blocks.1.attn_out",
            "transformer_blocks.2.ff.net.0.proj": "blocks.2.ff_proj",
        },
    ),
    "mochi": (
        "tiny-mochi",
        {
            "transformer_blocks.0.attn1.to_out.0": "blocks.0.attn.proj_x",
            "transformer_blocks.1.ff.net.2": "blocks.1.mlp_x.w2",
            "transformer_blocks.0.norm1.linear": "blocks.0.mod_x",
        },
    ),
    "ltx": (
        "tiny-ltx-0.9.0",
        {
            "transformer_blocks.0.attn1.to_q": "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.1.ff.net.0.proj": "transformer_blocks.1.ff.net.0.proj",
            "proj_in": "patchify_proj",
            "time_embed.linear": "adaln_single.linear",
        },
    ),
    "svd": ("tiny-svd", SVD),
}


def network_of(model: VideoModel) -> Part:
    return next(part for name, part in model.parts.items() if name in ("transformer", "unet"))


def matrices(model: VideoModel, layers: dict[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    shapes = network_of(model).tensors
    with seeded(5):
        return {
            name: (
                torch.randn(RANK, *shapes[f"{name}.weight"][1:]) * 0.2,
                torch.randn(shapes[f"{name}.weight"][0], RANK) * 0.2,
            )
            for name in layers
        }


def write(file: Path, form: str, made: dict[str, tuple[Tensor, Tensor]], layers: dict[str, str]) -> None:
    keys: dict[str, Tensor] = {}
    for name, (down, up) in made.items():
        up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
        if form == "diffusers":
            keys |= {
                f"transformer.{name}.lora_A.weight": down,
                f"transformer.{name}.lora_B.weight": up * (ALPHA / RANK),
            }
        elif form == "comfyui":
            keys |= {
                f"diffusion_model.{layers[name]}.lora_down.weight": down,
                f"diffusion_model.{layers[name]}.lora_up.weight": up,
                f"diffusion_model.{layers[name]}.alpha": torch.tensor(ALPHA),
            }
        else:
            flat = layers[name].replace(".", "_")
            keys |= {
                f"lora_unet_{flat}.lora_down.weight": down,
                f"lora_unet_{flat}.lora_up.weight": up,
                f"lora_unet_{flat}.alpha": torch.tensor(ALPHA),
            }
    save_file({k: v.contiguous() for k, v in keys.items()}, file)


# form -> (module of the library, its arguments)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "locon": ("LoConModule", {}),
    "locon tucker": ("LoConModule", {"use_tucker": True}),
    "locon dora": ("LoConModule", {"weight_decompose": True}),
    "locon dora by inputs": ("LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "loha": ("LohaModule", {}),
    "loha tucker": ("LohaModule", {"use_tucker": True}),
    "loha dora": ("LohaModule", {"weight_decompose": True}),
    "lokr": ("LokrModule", {"factor": 4}),
    "lokr both": ("LokrModule", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr whole": ("LokrModule", {"factor": 4, "full_matrix": True}),
    "lokr tucker": ("LokrModule", {"factor": 4, "use_tucker": True, "lora_dim": 1}),
    "lokr dora by inputs": ("LokrModule", {"factor": 4, "weight_decompose": True, "wd_on_out": False}),
    "full": ("FullModule", {}),
}


def library_layer(form: str, layer: nn.Module) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """(the tensors that the library saves of a layer, by their endings, the weight and bias that it computes with).

    As its modules compute in training: the `get_merged_weight` of 4.1.3 takes alpha / rank twice for LoHa and LoKr, and
    that of a full difference is not what it saves before it was applied.
    """
    import lycoris

    name, arguments = FORMS[form]
    options = {"lora_dim": 4, "alpha": 2.0, **arguments}
    module = getattr(lycoris, name)("layer", layer, 1.0, options.pop("lora_dim"), options.pop("alpha"), **options)
    with seeded(11), torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        if form == "full":
            saved = {"diff": module.weight.data, "diff_b": module.bias.data}
            return saved, layer.weight + module.weight, layer.bias + module.bias
        saved = {key: value.detach().clone() for key, value in module.custom_state_dict().items()}
        delta = module.make_weight() * module.scale if name == "LoConModule" else module.get_weight(module.shape)
        weight = layer.weight + delta.reshape(layer.weight.shape)
        return saved, module.apply_weight_decompose(weight, 1.0) if module.wd else weight, None


def open_lora_model(folder: Path, family: str, name: str = "") -> VideoModel:
    """A tiny model of a family; its network is not read yet."""
    return load(Recipe(family, "", files_of(folder / (name or LAYERS[family][0])), "float32"), PlainMemory())


def low_rank_pair(wide: int = 24, out: int = 24, rank: int = 2) -> tuple[Tensor, Tensor]:
    """(down, up) of a layer of these sizes."""
    with seeded(9):
        return torch.randn(rank, wide) * 0.2, torch.randn(out, rank) * 0.2


def read_state(model: VideoModel, file: Path, state: State, experts: int = 1, header: Any = None) -> Any:
    """What a file of these tensors gives a model."""
    save_file({key: value.clone().contiguous() for key, value in state.items()}, file, header)
    return read_lora(file, model.checkpoint, network_of(model), experts)


def keys_of(messages: Iterable[Any]) -> list[str]:
    """The keys of messages."""
    return [each.key for each in messages]


def low_rank(*layers: str, wide: int = 24, out: int = 24) -> State:
    """A file in the makers' form with an alpha of 2."""
    down, up = low_rank_pair(wide, out)
    ends = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}
    return {f"diffusion_model.{layer}.{end}": value.clone() for layer in layers for end, value in ends.items()}
