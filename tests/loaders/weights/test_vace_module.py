"""VACE's layers in a file of their own, beside the Wan2.1-T2V that they belong to, are the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Control, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.sampling import sample
from reelwire.training import tiny_files
from reelwire.training.tiny_models import new, seeded
from safetensors.torch import save_file
from torch import Tensor

Files = dict[str, Path]


def network(width: int = 64, channels: int = 16) -> dict[str, Tensor]:
    model = new(
        "WanVACETransformer3DModel",
        num_attention_heads=1,
        attention_head_dim=width,
        in_channels=channels,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=4,
        rope_max_seq_len=64,
        vace_layers=[0, 2],
        vace_in_channels=96,
    )
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("models")
    state = network()
    parts = {"whole": state}
    parts["base"] = {k: v for k, v in state.items() if not k.startswith("vace_")}
    parts["module"] = {f"diffusion_model.{k}": v for k, v in state.items() if k.startswith("vace_")}
    published = tiny_files.published(parts["module"], tiny_files.WAN)
    parts["published module"] = {k.replace("scale_shift_table", "modulation"): v for k, v in published.items()}
    parts["wide module"] = {k: v for k, v in network(128).items() if k.startswith("vace_")}
    parts["image base"] = {k: v for k, v in network(channels=36).items() if not k.startswith("vace_")}
    paths = {name: folder / f"{name}.safetensors" for name in parts}
    for name, path in paths.items():
        save_file({k: v.contiguous() for k, v in parts[name].items()}, path)
    others = ("text_encoders/tiny-umt5.safetensors", "vae/tiny-wan-2.1-vae.safetensors")
    encoder, vae = (tiny_files.make(name, folder) for name in others)
    return {**paths, "text_encoder": encoder, "tokenizer": encoder, "vae": vae}


def opened(files: Files, checkpoint: str, module: str = "") -> VideoModel:
    chosen = {"checkpoint": files[checkpoint], **{k: files[k] for k in ("text_encoder", "tokenizer", "vae")}}
    chosen |= {"module": files[module]} if module else {}
    return load(Recipe("wan", "", chosen, "float32"), PlainMemory())


def video(model: VideoModel) -> Tensor:
    with seeded(4):
        control = Control(torch.rand(5, 32, 32, 3))
    return sample(model, model.encode("a red circle", ""), Request(32, 32, 5, 2, seed=3, control=control))


@pytest.mark.parametrize("module", ["module", "published module"])
def test_the_two_make_what_the_whole_makes(files: Files, module: str) -> None:
    whole, joined = opened(files, "whole"), opened(files, "base", module)
    assert whole.variant == joined.variant == "2.1-vace-1.3b"
    assert whole.facts == joined.facts
    assert (video(joined) - video(whole)).abs().max() < 1e-5  # weights lie at other addresses


@pytest.mark.parametrize(
    ("checkpoint", "module", "rule"),
    [
        ("base", "wide module", "module_of_other"),
        ("image base", "module", "module_of_other"),
        ("whole", "module", "module_already"),
        ("wide module", "", "is_relative"),
        ("base", "base", "not_a_module"),
        ("base", "whole", "not_a_module"),
        ("base", "vae", "not_a_module"),
    ],
)
def test_what_does_not_belong_together(files: Files, checkpoint: str, module: str, rule: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        opened(files, checkpoint, module)
    said: Any = refusal.value.rule
    assert said.key == rule
