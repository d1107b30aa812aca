"""Diffusers folders of every shipped variant at its published size, with headers but no weights: the files are sparse.

Sizes of the encoders: config.json of google/t5-v1_1-xxl, google/umt5-xxl, openai/clip-vit-large-patch14,
xtuner/llava-llama-3-8b-v1_1-transformers and laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders import families
from reelwire.loaders.families import load
from reelwire.loaders.parts import Memory, Recipe
from reelwire.loaders.spec import shipped_config, shipped_variants
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.format import class_of
from reelwire.training import tiny_text
from torch.overrides import TorchFunctionMode

VARIANTS = [f"{folder.parents[1].name}/{folder.name}" for folder in shipped_variants()]
_T5 = dict(
    d_model=4096,
    d_ff=10240,
    d_kv=64,
    num_heads=64,
    num_layers=24,
    feed_forward_proj="gated-gelu",
    is_encoder_decoder=False,
    use_cache=False,
    tie_word_embeddings=False,
)
_LLAMA = dict(
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_hidden_layers=32,
    vocab_size=128320,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    tie_word_embeddings=False,
)
_EYE = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=24,
    image_size=336,
    patch_size=14,
    projection_dim=768,
    hidden_act="quick_gelu",
)
_IMAGE = 257  # the id of Llava's <image> among the tiny tokenizer's
_VIT_H = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_attention_heads=16,
    num_hidden_layers=32,
    image_size=224,
    patch_size=14,
    projection_dim=1024,
    hidden_act="gelu",
)
ENCODERS: dict[str, dict[str, Any]] = {
    "t5": {"architectures": ["T5EncoderModel"], "vocab_size": 32128, **_T5},
    "umt5": {"architectures": ["UMT5EncoderModel"], "vocab_size": 256384, **_T5},
    "llama": {"architectures": ["LlamaModel"], **_LLAMA},
    "llava": {
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": {"model_type": "clip_vision_model", **_EYE},
        "text_config": {"model_type": "llama", **_LLAMA},
        "vision_feature_layer": -2,
        "pad_token_id": 0,
        "projector_hidden_act": "gelu",
    },
    "clip": dict(
        architectures=["CLIPTextModel"],
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=12,
        vocab_size=49408,
        projection_dim=768,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
    ),
    "vision": {"architectures": ["CLIPVisionModelWithProjection"], **_VIT_H},
    "vision_plain": {"architectures": ["CLIPVisionModel"], **_VIT_H},
}
_PIPELINES = {
    "hunyuan_video": "HunyuanVideoPipeline",
    "wan": "WanPipeline",
    "cogvideox": "CogVideoXPipeline",
    "mochi": "MochiPipeline",
    "ltx": "LTXPipeline",
    "svd": "StableVideoDiffusionPipeline",
}


def published(variant: str, folder: Path, memory: Memory, dtype: str = "bfloat16", storage: str = "") -> VideoModel:
    """The model of a shipped variant ("family/name") at its published size, described by its loader from headers alone.

    folder: where its files are made, once. No weights can be read from them; `fake_peak.Imagined` is a memory for it.
    """
    family, name = variant.split("/")
    source = folder / family / name
    if not source.exists():
        _write(family, name, source)
    files = {"checkpoint": source} | {
        k: source / k for k in ("text_encoder", "tokenizer", "tokenizer_2") if (source / k).is_dir()
    }
    return load(Recipe(family, name, files, dtype, storage), memory)


def _write(family: str, name: str, folder: Path) -> None:
    families.family(family)  # which adds the classes that diffusers lacks
    configs = {part: config for part, config in _parts(family, name).items() if config}
    parts = {part: ["", kind_of(config)] for part, config in configs.items()}
    index = {"_class_name": _PIPELINES[family], **_pipeline(family, name), **parts, "scheduler": ["", "scheduler"]}
    for part, config in configs.items():
        (folder / part).mkdir(parents=True)
        _dump(folder / part / "config.json", config)
        write_sparse(folder / part / "model.safetensors", shapes_of(json.dumps(config, sort_keys=True)))
    for place, make in _tokenizers(family).items():
        make().save_pretrained(folder / place)
    (folder / "scheduler").mkdir()
    _dump(folder / "scheduler" / "scheduler_config.json", shipped_config(family, name, "scheduler"))
    _dump(folder / "reelwire.json", shipped_config(family, name, "defaults"))
    _dump(folder / "model_index.json", index)


def _parts(family: str, name: str) -> dict[str, Any]:
    """The config of each part."""
    network = shipped_config(family, name, "unet" if family == "svd" else "transformer")
    parts = {"unet" if family == "svd" else "transformer": network, "vae": shipped_config(family, name, "vae")}
    if shipped_config(family, name, "defaults").get("boundary") is not None:
        parts["transformer_2"] = network
    if family == "svd":
        return {**parts, "image_encoder": ENCODERS["vision"]}
    if family == "hunyuan_video":
        image = (
            {**ENCODERS["llava"], "image_token_index": _image_token()} if network.get("image_condition_type") else None
        )
        return {**parts, "text_encoder": image or ENCODERS["llama"], "text_encoder_2": ENCODERS["clip"]}
    if family == "wan" and network.get("image_dim"):
        parts["image_encoder"] = ENCODERS["vision_plain"]
    return {**parts, "text_encoder": ENCODERS["umt5" if family == "wan" else "t5"]}


@cache
def _image_token() -> int:
    return int(tiny_text.llama_tokenizer().convert_tokens_to_ids("<image>"))


def _pipeline(family: str, name: str) -> dict[str, Any]:
    """What the pipeline's index says beside its parts."""
    defaults = shipped_config(family, name, "defaults")
    if family == "wan":
        return {"boundary_ratio": defaults.get("boundary"), "expand_timesteps": defaults.get("per_token_time", False)}
    if family == "ltx" and defaults["conditioned"]:
        return {"_class_name": "LTXConditionPipeline"}
    return {"_class_name": "CogVideoXFunControlPipeline"} if "control" in name else {}


def _tokenizers(family: str) -> dict[str, Any]:
    """Tiny ones of the real kinds: prompts are padded, so that words make no difference to memory."""
    if family == "hunyuan_video":
        return {"tokenizer": tiny_text.llama_tokenizer, "tokenizer_2": tiny_text.clip_tokenizer}
    return (
        {}
        if family == "svd"
        else {"tokenizer": tiny_text.umt5_tokenizer if family == "wan" else tiny_text.t5_tokenizer}
    )


def kind_of(config: Mapping[str, Any]) -> str:
    """The class that a config names."""
    return str(config.get("_class_name") or config["architectures"][0])


class _Unset(TorchFunctionMode):
    """Leaves out the drawing of first weights, which takes most of the time of making a module without numbers."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = getattr(call, "__name__", "") in ("uniform_", "normal_", "kaiming_uniform_", "trunc_normal_")
        return (args[0] if args else (kwargs or {})["tensor"]) if drawn else call(*args, **(kwargs or {}))


def imagined(config: Mapping[str, Any]) -> Any:
    """The module of a config on the meta device: shapes without numbers."""
    import transformers

    with torch.device("meta"), _Unset():
        if "_class_name" in config:
            module = class_of(kind_of(config)).from_config(dict(config))
        else:
            kind = getattr(transformers, kind_of(config))
            module = kind(kind.config_class.from_dict(dict(config)))
    return module.to("meta").eval().requires_grad_(False)


@cache
def shapes_of(config: str) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the weights of a config, given as JSON."""
    return {
        name: tuple(t.shape)
        for name, t in imagined(json.loads(config)).state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }


def write_sparse(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file in bfloat16 that holds a header, and a hole where its tensors would be."""
    header, end = dict[str, Any](), 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    os.truncate(file, 8 + len(encoded) + end)


def _dump(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
