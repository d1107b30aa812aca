"""What cannot work is refused in words, through the host's own API, and the host lives on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from reelwire.tests.support.engine.components import BUNDLED, ltx_folder, ltx_transformer, ltx_vae, t5
from reelwire.tests.support.files.bad_files import NOISE, cut, full_disk
from reelwire.tests.support.host import Host, Prompt, cached, frames, guidance, node, workflow
from safetensors.torch import load_file, save_file

HEAVY = {"ReelwireEncodePrompt", "ReelwireSampler"}  # nodes that read weights
NAN = float("nan")
# places in a file's header where a bit is flipped -> what must be told
FLIPS = {
    "brace": (b"{", "damaged"),
    "type": (b"F32", "damaged"),
    "shape": (b'"shape":[', "damaged"),
    "span": (b'"data_offsets":[', "damaged"),
    "text width": (b"caption_projection.linear_1.weight", "caption_projection.linear_1.weight"),
    "query": (
        b"transformer_blocks.1.attn1.to_q.weight",
        "1 missing (transformer_blocks.1.attn1.to_q.weight); 1 unexpected",
    ),
}


# ---------------------------------------------------------------- files that users have


def flip(file: Path, target: Path, mark: bytes) -> None:
    """A copy of a file with one bit flipped in the last letter of the first mark, or in the digit after it."""
    data = bytearray(file.read_bytes())
    data[data.index(mark) + len(mark) - (not mark.endswith(b"["))] ^= 1 << 1
    target.write_bytes(data)


def foreign(target: Path, *keys: str) -> None:
    save_file({key: torch.zeros(2, 2) for key in keys}, target)


def poison(folder: Path, part: str) -> None:
    """A copy of the bundled model with one weight of a part set to NaN."""
    shutil.copytree(BUNDLED, folder)
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    weights[{"transformer": "proj_in.weight", "vae": "decoder.conv_in.conv.weight"}[part]].view(-1)[0] = NAN
    save_file(weights, file)


def single_file(file: Path, text_width: int, vae: bool = True) -> None:
    """LTX-Video 0.9.0 as one file, with a VAE inside or without."""
    weights = {f"model.diffusion_model.{k}": v for k, v in ltx_transformer(captions=text_width).state_dict().items()}
    if vae:
        weights |= {f"vae.{k}": v.contiguous() for k, v in ltx_vae("0.9.0").state_dict().items()}
    save_file(weights, file, {"config": json.dumps({"transformer": {"num_attention_heads": 2}})})


def torn_picture(file: Path) -> None:
    """A PNG that ends in its header; the host fills in later tears by itself."""
    Image.new("RGB", (64, 64)).save(file, "PNG")
    cut(file, file, 40)


@pytest.fixture(scope="module")
def models(host: Host) -> Host:
    """The host with every kind of unfit file in its folders, and a few good ones."""
    checkpoints, diffusers, texts = (host.base / "models" / n for n in ("checkpoints", "diffusers", "text_encoders"))
    for folder in (checkpoints, diffusers, texts):
        folder.mkdir(parents=True, exist_ok=True)
    good = checkpoints / "good.safetensors"
    single_file(good, 32)
    single_file(checkpoints / "wide.safetensors", 64)
    single_file(checkpoints / "without_vae.safetensors", 32, vae=False)
    cut(good, checkpoints / "empty.safetensors", 0)
    cut(good, checkpoints / "cut_early.safetensors", 100)
    cut(good, checkpoints / "cut_late.safetensors", good.stat().st_size - 1)
    for name, (mark, _) in FLIPS.items():
        flip(good, checkpoints / f"flipped {name}.safetensors", mark)
    for name in ("pickle.ckpt", "pickle.pt", "pickle.safetensors"):
        torch.save({"patchify_proj.weight": torch.zeros(2, 2)}, checkpoints / name)
    shutil.copy(
        host.base / "models" / "vae" / "tiny-ltx-0.9.0-vae.safetensors",
        host.base / "models" / "vae" / "another.safetensors",
    )
    foreign(
        checkpoints / "wan.safetensors", "blocks.0.self_attn.q.weight", "patch_embedding.weight", "head.head.weight"
    )
    foreign(
        checkpoints / "hunyuan.safetensors", "double_blocks.0.img_attn_qkv.weight", "single_blocks.0.linear1.weight"
    )
    save_file({k: v.clone() for k, v in t5(32).state_dict().items()}, texts / "narrow.safetensors")
    ltx_folder(diffusers / "real_ratio", "0.9.0")
    poison(diffusers / "nan_transformer", "transformer")
    poison(diffusers / "nan_vae", "vae")
    torn_picture(host.base / "input" / "torn.png")
    return host


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    """Changes to ltx_t2v that cannot work, and what the user must be told: input, value, rule, remedy."""

    name: str
    changes: Mapping[str, Any]
    words: tuple[str, ...]
    weightless: bool = True  # told before any weights are read


def checkpoint(name: str, text_encoder: str = "auto") -> dict[str, Any]:
    return {"1.checkpoint": name, "1.text_encoder": text_encoder}


def keyframe(frame: int, earlier: str | None = None, image: str = "picture") -> dict[str, Any]:
    linked = {} if earlier is None else {"keyframes": [earlier, 0]}
    return node("ReelwireKeyframe", image=[image, 0], frame=frame, strength=1.0, **linked)


PICTURE = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
ONE_KEY = {"picture": PICTURE, "3.keyframes": ["key", 0]}
NARROW = "text_encoders/narrow.safetensors"
REAL = {"1.checkpoint": "diffusers/real_ratio"}

CASES = [
    Case("frames of the bundled model", {"3.frames": 18}, ("frames = 18", "4n+1", "Use 17 or 21")),
    Case("frames of published models", {**REAL, "3.frames": 98}, ("frames = 98", "8n+1", "Use 97 or 105")),
    Case("width of published models", {**REAL, "3.width": 496}, ("width = 496", "multiple of 32", "Use 480 or 512")),
    Case("height", {"3.height": 70}, ("height = 70", "multiple of 8", "Use 64 or 80", "64 or 96", "64 or 128")),
    Case("negative width", {"3.width": -32}, ("width = -32", "positive multiple of 8", "Use 64 or more, or 0")),
    Case("negative frames", {"3.frames": -1}, ("frames = -1", "1 to 100000 frames", "Use 1 or more, or 0")),
    Case("negative steps", {"3.steps": -1}, ("steps = -1", "from 0 to 1000")),
    Case(
        "more than a card can do",
        {"3.width": 16384, "3.height": 16384, "3.frames": 97},
        ("width, height, frames = 16384, 16384, 97", "tokens at once", "smaller size or fewer frames"),
    ),
    Case("huge width", {"3.width": 99999}, ("width = 99999", "up to 16384", "Use 16384 or less")),
    Case("sampler", {"3.sampler": "distilled"}, ("sampler = distilled", "distilled timesteps", "Use euler")),
    Case(
        "preset",
        {"3.preset": "distilled"},
        ("preset = distilled", "does not have this preset", "Use one of default, quality"),
    ),
    Case(
        "a program of another checkpoint",
        {"3.preset": "ltxv-13b-0.9.8-dev"},
        ("preset = ltxv-13b-0.9.8-dev", "does not have this preset", "Use one of default, quality"),
    ),
    Case("a rate below one", {"3.fps": 0.5}, ("fps = 0.5", "1 to 240 frames per second", "Use 0")),
    Case("a share above one", {"4.decode_timestep": 1.5}, ("decode_timestep = 1.5", "share from 0 to 1", "Use -1")),
    Case("noise of NaN", {"4.decode_noise": NAN}, ("decode_noise = nan", "a finite number", "Set a number")),
    *[
        Case(name, {"stg": guidance(**{"method": "stg", "layers": "1", **inputs}), "3.model": ["stg", 0]}, words)
        for name, inputs, words in (
            ("words for numbers", {"stg_scales": "one"}, ("stg_scales = 'one'", "list of numbers", "as 1, 6, 8")),
            ("numbers without end", {"scales": "1, inf"}, ("scales = '1, inf'", "list of numbers", "as 1, 6, 8")),
            ("words for blocks", {"layers": "1; x"}, ("layers = '1; x'", "list of block numbers", "11, 25; 22; 28")),
            ("no blocks", {"layers": ""}, ("layers = none", "goes without", "Name one or more")),
            ("lists that do not fit", {"scales": "1, 2"}, ("scales = 2 entries", "one for each", "as many entries")),
            ("rising timesteps", {"timesteps": ".5, 1"}, ("timesteps = 0.5, 1", "from 1 down to 0", "as 1, .99, .6")),
        )
    ],
    Case(
        "a coarser picture than there is",
        {**ONE_KEY, "key": keyframe(0), "key.compression": 60},
        ("compression = 60", "from 0 (off) to 51", "about 29"),
    ),
    Case("keyframe outside", {**ONE_KEY, "key": keyframe(17)}, ("frame = 17", "inside the 17 frames", "Use 0 to 16")),
    Case(
        "keyframe before",
        {**ONE_KEY, "key": keyframe(-18)},
        ("frame = -18", "inside the 17 frames", "-17 to -1 from the end"),
    ),
    Case(
        "keyframes at one frame",
        {**ONE_KEY, "first": keyframe(16), "key": keyframe(-1, "first")},
        ("keyframes = numbers 1 and 2, at frames 16 and 16", "cannot share frames", "Give each its own"),
    ),
    Case(
        "keyframe of no strength",
        {**ONE_KEY, "key": keyframe(0), "key.strength": 0.0},
        ("strength = 0", "above 0", "Use 1"),
    ),
    Case(
        "keyframe of NaN",
        {
            **ONE_KEY,
            "key": keyframe(0, image="nan"),
            "nan": node(
                "ImageBlend", image1=["picture", 0], image2=["picture", 0], blend_factor=NAN, blend_mode="normal"
            ),
        },
        ("image = not finite", "NaN", "Check the node that made it"),
    ),
    Case(
        "keyframe of a broken picture",
        {**ONE_KEY, "picture": node("LoadImage", image="torn.png"), "key": keyframe(0)},
        ("LoadImage: ",),
    ),
    Case(
        "long prompt",
        {"2.positive": "a red circle " * 100},
        ("positive = 'a red circle", "tokens", "the model reads 128", "Shorten it"),
    ),
    Case("long negative prompt", {"2.negative": "圆" * 400}, ("negative = '圆", "tokens", "128", "Shorten it")),
    Case("unknown words", {"2.positive": "🎬 🎬"}, ("positive = '🎬 🎬'", "knows none of this: 🎬", "in words")),
    Case(
        "source of another size",
        {
            "source": node("EmptyHunyuanLatentVideo", width=128, height=64, length=17, batch_size=1),
            "3.source": ["source", 0],
            "3.strength": 0.5,
            "3.width": 64,
        },
        ("source = latents [1, 16, 5, 8, 16]", "need latents of shape [1, 16, 5, 8, 8]", "source's own width"),
    ),
    Case(
        "latents of a picture as source",
        {
            "source": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "3.source": ["source", 0],
            "3.frames": 1,
            "3.strength": 0.5,
        },
        ("source = latents [1, 4, 8, 8]", "tiny_ltx has latents of 16 channels", "Decode them with their own model"),
    ),
    Case(
        "short source",
        {"picture": PICTURE, "3.source": ["picture", 0], "3.strength": 0.5},
        ("source = 1 frame", "17 are asked for", "fewer frames"),
    ),
    Case(
        "latents of another family",
        {
            "latent": node("EmptyMochiLatentVideo", width=64, height=64, length=7, batch_size=1),
            "4.latent": ["latent", 0],
        },
        ("latent = latents", "[1, 12, 2, 8, 8]", "[1, 16, t, h, w]", "Connect the model that made them"),
    ),
    Case(
        "latents of a picture",
        {"latent": node("EmptyLatentImage", width=64, height=64, batch_size=1), "4.latent": ["latent", 0]},
        ("latent = latents", "[1, 4, 8, 8]", "[1, 16, t, h, w]", "Connect the model that made them"),
    ),
    Case(
        "a batch of latents",
        {
            "latent": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=2),
            "4.latent": ["latent", 0],
        },
        ("latent = a batch of 2", "One video", "Split the batch"),
    ),
    Case(
        "empty file", checkpoint("checkpoints/empty.safetensors"), ("empty.safetensors", "0 bytes", "Download it again")
    ),
    Case(
        "file cut early",
        checkpoint("checkpoints/cut_early.safetensors"),
        ("cut_early.safetensors", "incomplete", "100 bytes", "Download it again"),
    ),
    Case(
        "file cut late",
        checkpoint("checkpoints/cut_late.safetensors"),
        ("cut_late.safetensors", "incomplete", "Download it again"),
    ),
    *[
        Case(
            f"a bit flipped in a {name}",
            checkpoint(f"checkpoints/flipped {name}.safetensors", NARROW),
            (f"flipped {name}.safetensors", words),
        )
        for name, (_, words) in FLIPS.items()
    ],
    *[
        Case(name, checkpoint(f"checkpoints/{name}"), (name, "is a pickle", "can run code", "Use a .safetensors file"))
        for name in ("pickle.ckpt", "pickle.pt", "pickle.safetensors")
    ],
    Case(
        "Wan",
        checkpoint("checkpoints/wan.safetensors"),
        ("wan.safetensors is Wan", "not LTX-Video", "Use the loader of its family"),
    ),
    Case(
        "HunyuanVideo",
        checkpoint("checkpoints/hunyuan.safetensors"),
        ("hunyuan.safetensors is HunyuanVideo", "not LTX-Video", "Use the loader of its family"),
    ),
    Case(
        "two VAEs that fit",
        checkpoint("checkpoints/without_vae.safetensors", NARROW),
        (
            "vae = auto",
            "vae/tiny-ltx-0.9.0-vae.safetensors",
            "vae/another.safetensors",
            "could all serve without_vae.safetensors",
            "Choose one of them",
        ),
    ),
    Case(
        "no text encoder",
        checkpoint("checkpoints/wide.safetensors"),
        ("wide.safetensors holds no text encoder", "t5xxl_fp16.safetensors", "models/text_encoders"),
    ),
    Case(
        "narrow text encoder",
        checkpoint("checkpoints/wide.safetensors", NARROW),
        ("narrow.safetensors is 32 wide", "wide.safetensors needs a text encoder of width 64", "Choose the encoder"),
    ),
    *[
        Case(
            f"checkpoint {path}",
            checkpoint(path),
            (f"checkpoint = {path}", "not among the models", "choose one of the list"),
        )
        for path in ("../input/torn.png", "/etc/passwd", "checkpoints/../../input/torn.png", "")
    ],
    *[
        Case(
            f"text encoder {path}",
            checkpoint("bundled/tiny_ltx", path),
            ("text_encoder", f"'{path}'", "not in list", "'auto'"),
        )
        for path in ("../input/torn.png", "/etc/passwd")
    ],
    Case("no such precision", {"1.precision": "float8"}, ("precision", "'float8'", "not in list", "'bfloat16'")),
    Case(
        "prefix above",
        {"4.filename_prefix": "../../x"},
        ("filename_prefix = ../../x", "outside ComfyUI's output folder", "video/reelwire"),
    ),
    Case(
        "absolute prefix",
        {"4.filename_prefix": "/tmp/x"},
        ("filename_prefix = /tmp/x", "outside ComfyUI's output folder", "video/reelwire"),
    ),
    Case(
        "NaN in the transformer",
        checkpoint("diffusers/nan_transformer"),
        ("latents are not finite", "NaN", "checkpoint is damaged", "bfloat16 or float32"),
        weightless=False,
    ),
    Case(
        "NaN in the VAE",
        checkpoint("diffusers/nan_vae"),
        ("not finite", "decoder", "bfloat16 or float32"),
        weightless=False,
    ),
]


def prompt(changes: Mapping[str, Any]) -> Prompt:
    return workflow("ltx_t2v", {"3.steps": 2, "4.filename_prefix": "bad/case"} | dict(changes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_told_in_words(models: Host, case: Case) -> None:
    text, done = models.refuse(prompt({"3.seed": CASES.index(case), **case.changes}))
    missing = [words for words in case.words if words not in text]
    assert not missing, f"{missing} is not in: {text}"
    assert not [noise for noise in NOISE if noise in text], text
    assert not (case.weightless and HEAVY & {*done}), f"Told only after {done}: {text}"
    models.check()


def test_full_disk_leaves_no_file_and_loses_no_latents(models: Host) -> None:
    graph = prompt({"3.seed": 11, "4.filename_prefix": "full/disk"})
    with full_disk(models, 256):
        text, done = models.refuse(graph)
    assert "Free some disk space" in text
    assert not HEAVY & {*done}, "the place is tried before anything is made"
    with full_disk(models, 5000):
        text, done = models.refuse(graph)
    assert "disk_00001_.mp4 could not be written" in text
    assert "queue again" in text
    assert "ReelwireSampler" in done
    assert list((models.base / "output" / "full").iterdir()) == []
    again = models.post(graph)
    assert "3" in cached(again), "the latents were sampled anew"
    assert len(frames(models.videos(again)[0])) == 17


GOOD: dict[str, dict[str, Any]] = {
    "an empty prompt": {"2.positive": ""},
    "one step": {"3.steps": 1},
    "published ratios": {**REAL, "3.width": 64, "3.height": 32, "3.frames": 9},
    "a single file": {
        **checkpoint("checkpoints/good.safetensors", NARROW),
        "3.width": 64,
        "3.height": 32,
        "3.frames": 9,
    },
    "the bundled model after all that": {"3.seed": 12},
}


@pytest.mark.parametrize("name", GOOD)
def test_good_prompts_still_work(models: Host, name: str) -> None:
    graph = prompt(GOOD[name])
    video = frames(models.videos(models.post(graph))[0])
    asked = graph["3"]["inputs"]
    assert video.shape == (asked["frames"] or 17, asked["height"] or 64, asked["width"] or 64, 3)
    assert video.std() > 0
