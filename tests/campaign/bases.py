"""The sound files that cases are made of: tiny models of all families as folders, as single files, and what lies beside
them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.weights.safetensors import read_folder
from reelwire.training import tiny_files, tiny_models
from reelwire.training.tiny_models import new
from safetensors.torch import load_file, save_file

# tiny model -> its family, and its parts that a single file or one beside it holds, the network first
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny-wan2.1-t2v": ("wan", ("transformer", "vae", "text_encoder")),
    "tiny-hunyuan-t2v": ("hunyuan_video", ("transformer", "vae", "text_encoder_2")),
    "tiny-cogvideox-5b": ("cogvideox", ("transformer", "vae", "text_encoder")),
    "tiny-mochi": ("mochi", ("transformer", "vae", "text_encoder")),
    "tiny-ltx-0.9.5": ("ltx", ("transformer", "vae", "text_encoder")),
    "tiny-svd": ("svd", ("unet", "vae", "image_encoder")),
    "tiny-wan2.1-i2v": ("wan", ()),
    "tiny-wan2.2-t2v-a14b": ("wan", ()),
    "tiny-hunyuan-i2v-replace": ("hunyuan_video", ()),
}
# what single files tell is what is alike in all published models: heads, groups of norms, the depths of VAEs
PUBLISHED: dict[tuple[str, str], Callable[[], Any]] = {
    ("tiny-wan2.1-t2v", "vae"): partial(new, "AutoencoderKLWan", base_dim=8, dim_mult=[1, 2, 4, 4]),
    ("tiny-hunyuan-t2v", "transformer"): partial(
        new,
        "HunyuanVideoTransformer3DModel",
        num_attention_heads=1,
        attention_head_dim=128,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=16,
    ),
    ("tiny-hunyuan-t2v", "vae"): partial(
        new, "AutoencoderKLHunyuanVideo", block_out_channels=(32,) * 4, layers_per_block=1
    ),
    ("tiny-cogvideox-5b", "transformer"): partial(
        new,
        "CogVideoXTransformer3DModel",
        num_attention_heads=1,
        attention_head_dim=64,
        time_embed_dim=32,
        text_embed_dim=32,
        num_layers=2,
        use_rotary_positional_embeddings=True,
    ),
    ("tiny-cogvideox-5b", "vae"): partial(
        new,
        "AutoencoderKLCogVideoX",
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    ),
}
LORA, GGUF = "loras/tiny-wan2.1-lora.safetensors", "diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf"
TOKENIZER_IN = "text_encoders/tiny-umt5.safetensors"  # with a sentencepiece model in a tensor
TIMELINE = {
    "unit": "seconds",
    "prompts": [{"at": 0, "text": "a red circle"}, {"at": 1.5, "text": "一个红色的圆"}],
    "negative": "blue",
    "keyframes": [{"at": 0, "image": "reelwire_left.png", "strength": 1.0}, {"at": -1, "image": "reelwire_right.png"}],
}
ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"blocks.0": 2}, "rank_pattern": {}}
FORMS = {".json": "json", ".safetensors": "safetensors", ".latent": "safetensors"}


def form_of(target: str) -> str:
    """How a file is edited, by its name."""
    return FORMS.get(Path(target).suffix, "bytes")


def make_bases(folder: Path, models: Path | None = None) -> Path:
    """A folder with all of it. models: where the tiny models lie already."""
    tiny_models.quiet()
    (folder / "single").mkdir(parents=True)
    for name, (_, parts) in MODELS.items():
        source = models / name if models else tiny_models.make(name, folder / "made")
        shutil.copytree(source, folder / "models" / name)
        for part in parts:
            state = _state(source, name, part)
            save_file({k: v.contiguous() for k, v in state.items()}, folder / "single" / f"{name}-{part}.safetensors")
    for name in (LORA, GGUF, TOKENIZER_IN):
        tiny_files.make(name, folder)
    _write(folder / "timeline.json", TIMELINE)
    _write(folder / "loras" / "adapter_config.json", ADAPTER)
    _calibrated(folder)
    _job(folder / "job")
    return folder


def _state(folder: Path, name: str, part: str) -> dict[str, torch.Tensor]:
    """All tensors of a part."""
    if make := PUBLISHED.get((name, part)):
        return dict(make().state_dict())
    entries = read_folder(folder / part)
    files = {file: load_file(file) for file in {entry.file for entry in entries.values()}}
    return {key: files[entry.file][entry.key] for key, entry in entries.items()}


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _calibrated(folder: Path) -> None:
    """What Calibrate Cache writes beside a checkpoint."""
    from reelwire.loaders.request import Request
    from reelwire.samplers.caches import calibration, store
    from reelwire.tests.support.engine.models import open_model

    checkpoint = folder / "models" / "tiny-wan2.1-t2v"
    model = open_model(checkpoint.parent, checkpoint.name)
    record, _ = calibration.calibrate(model, model.encode("a red circle", ""), Request(steps=12), lambda *_: None)
    store.add(checkpoint, record)


def _job(folder: Path) -> None:
    """A long video of which two windows are done."""
    from reelwire.loaders.vae.tiles import Tiling
    from reelwire.samplers.long.job import Job

    job = Job(folder)
    job.begin({"seed": 1, "width": 64, "prompts": [[0, "a red circle"]], "adain": 0.25})
    job.settle(Tiling(8, True))
    for number in range(2):
        job.write(number, torch.zeros(1, 4, 2, 8, 8))


def links(source: Path, target: Path) -> None:
    """A folder of links to all files of another one."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link = target / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), link)
