"""Single files in Lightricks' layout, written by the host's own classes, load exactly; broken ones are refused."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.families.ltx.checkpoint import SPEC, _variant
from reelwire.loaders.families.ltx.vae import Noise, decode_pieces
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.vae.tiles import Tile
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import frozen
from reelwire.loaders.weights.encoders import read_encoder
from reelwire.loaders.weights.find import read_source
from reelwire.loaders.weights.safetensors import read_header
from reelwire.tests.support.engine.components import BUNDLED, ltx_transformer, seeded, t5
from reelwire.tests.support.engine.words import refuses
from reelwire.tests.support.files.files import train_pieces
from reelwire.tests.support.files.native_ltx import COMMON, VAES
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def native() -> Any:
    """The host's LTX classes, as an independent writer of checkpoints."""
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.ldm.lightricks.model as transformer
    import comfy.ldm.lightricks.vae.causal_video_autoencoder as vae
    import comfy.ops

    yield {"transformer": transformer.LTXVModel, "vae": vae.VideoVAE, "operations": comfy.ops.disable_weight_init}
    sys.path.remove(os.environ["COMFYUI_DIR"])


def native_vae(native: Any, release: str) -> Any:
    with seeded(1):
        vae = native["vae"](config={**COMMON, **VAES[release]}).eval()
        for name in ("mean-of-means", "std-of-means"):  # the host's class always makes 128
            vae.per_channel_statistics.register_buffer(name, torch.zeros(8))
        for value in vae.state_dict().values():
            value.copy_(torch.randn_like(value) * 0.15) if value.is_floating_point() and value.ndim else None
        vae.per_channel_statistics.get_buffer("std-of-means").uniform_(0.5, 1.5)
    return vae.requires_grad_(False)


def native_transformer(native: Any) -> Any:
    with seeded(2):
        transformer = native["transformer"](
            in_channels=8,
            cross_attention_dim=32,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=32,
            num_layers=2,
            dtype=torch.float32,
            operations=native["operations"],
        )
        for value in transformer.parameters():
            value.data.normal_(std=0.1)
    return transformer.eval().requires_grad_(False)


def all_in_one(file: Path, transformer: Any, vae: Any | None) -> Path:
    weights = {f"model.diffusion_model.{k}": v.contiguous() for k, v in transformer.state_dict().items()}
    if vae is not None:
        weights |= {f"vae.{k}": v.contiguous() for k, v in vae.state_dict().items()}
        weights["vae.per_channel_statistics.channel"] = torch.arange(8.0)
        weights["vae.per_channel_statistics.mean-of-stds"] = torch.ones(8)
    save_file(weights, file, {"config": json.dumps({"transformer": {"num_attention_heads": 2}})})
    return file


def t5_file(file: Path, width: int = 32) -> Path:
    save_file({k: v.clone() for k, v in t5(width).state_dict().items()}, file)
    return file


def load(file: Path, folder: Path, width: int = 32, **more: Path) -> VideoModel:
    text = t5_file(folder / f"t5xxl_{width}.safetensors", width)
    files = {"checkpoint": file, "text_encoder": text, "tokenizer": BUNDLED / "tokenizer", **more}
    return LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())


@pytest.mark.parametrize("release", VAES)
def test_all_in_one_file_computes_what_the_host_computes(native: Any, release: str, tmp_path: Path) -> None:
    transformer, vae = native_transformer(native), native_vae(native, release)
    model = load(all_in_one(tmp_path / f"ltx-video-2b-v{release}.safetensors", transformer, vae), tmp_path)
    assert model.variant.startswith(release), model.variant
    assert (model.facts.spatial_ratio, model.facts.temporal_ratio, model.facts.channels) == (32, 8, 8)
    with seeded(3):
        x, text, frames = torch.randn(1, 8, 2, 3, 4), torch.randn(1, 6, 32), torch.rand(9, 64, 32, 3)
        z = torch.randn(1, 8, 2, 2, 1)
    theirs = transformer(x, torch.tensor([0.7]), text, None, frame_rate=25)
    with model.use("transformer") as ours:
        tokens = x.flatten(2).mT
        mine = ours(
            hidden_states=tokens,
            encoder_hidden_states=text,
            timestep=torch.tensor([700.0]),
            encoder_attention_mask=torch.ones(1, 6),
            num_frames=2,
            height=3,
            width=4,
            rope_interpolation_scale=(8 / 25, 32, 32),
            return_dict=False,
        )[0]
    assert theirs.abs().max() > 0.1
    assert (mine.mT.reshape(theirs.shape) - theirs).abs().max() < 1e-4
    with model.use("vae") as ours:
        encoded = model.encode_video(ours, frames)
    assert (encoded - vae.encode(frames.movedim(-1, 0)[None] * 2 - 1)).abs().max() < 1e-4
    vae.decode_noise_scale = 0.0  # the host noises latents before they are denormalised, diffusers (and we) after
    generator = torch.Generator().manual_seed(0)
    torch.randn(z.shape, generator=generator)  # the host draws that noise all the same
    with seeded(0):
        decoded = vae.decode(z)
    with model.use("vae") as ours:
        mean, std = (v.view(1, -1, 1, 1, 1) for v in (ours.latents_mean, ours.latents_std))
        time = torch.full((1,), 0.05) if ours.config.timestep_conditioning else None
        noise = Noise(generator, Tile(0, 0, 2, 1, (2, 1)))
        streamed = torch.cat(list(decode_pieces(ours, iter((z * std + mean).split(1, 2)), time, noise)), 2)
    assert (streamed - decoded).abs().max() < 1e-4


@pytest.mark.parametrize("text", ["a red circle", "", "Two cats, 24 mm lens; it's snowing — slowly!"])
def test_the_hosts_t5_tokenizer_gives_the_hosts_ids(native: Any, text: str) -> None:
    import comfy.text_encoders.lt as lt
    from reelwire.loaders.common.tokenizers import load_tokenizer

    theirs = [token for token, _ in lt.LTXVT5Tokenizer().tokenize_with_weights(text)["t5xxl"][0]]
    ours = load_tokenizer(Path(lt.__file__).parent / "t5_tokenizer")(
        text, padding="max_length", max_length=128
    ).input_ids
    assert ours == theirs[:128]


@pytest.mark.parametrize("text", ["a red circle moving right", "", "unseen Wörds"])
def test_a_folder_with_only_spiece_model_gives_sentencepieces_ids(text: str, tmp_path: Path) -> None:
    """The published LTX-Video folders hold no tokenizer.json."""
    import random

    import sentencepiece
    from reelwire.loaders.common.tokenizers import load_tokenizer
    from reelwire.training.world import caption, split

    rng = random.Random(0)
    pieces = train_pieces(tmp_path, [caption(scene, rng, chinese=False) for scene in split()[0]], 120)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    expected = sentencepiece.SentencePieceProcessor(model_file=str(pieces)).encode(text)
    assert load_tokenizer(tmp_path)(text).input_ids == [*expected, 1]


def test_vae_in_its_own_file(native: Any, tmp_path: Path) -> None:
    file = all_in_one(tmp_path / "ltxv-2b.safetensors", native_transformer(native), None)
    with pytest.raises(CheckpointError, match=r"ltxv-2b.safetensors holds no VAE.*models/vae"):
        load(file, tmp_path)
    save_file(
        {k: v.contiguous() for k, v in native_vae(native, "0.9.5").state_dict().items()}, tmp_path / "vae.safetensors"
    )
    assert load(file, tmp_path, vae=tmp_path / "vae.safetensors").parts["vae"].tensors


def test_published_sizes_have_all_their_tensors(native: Any, tmp_path: Path) -> None:
    """The shapes of a 2B and a 13B file, as the host's classes make them on the meta device, fit our configs."""
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
    from reelwire.loaders.families.ltx.checkpoint import _TRANSFORMER, rename_vae
    from reelwire.loaders.weights.entry import Entry, rename
    from reelwire.loaders.weights.modules import check_fit

    for variant, heads in (("0.9.0-2b", 64), ("0.9.8-13b-dev", 128)):
        with torch.device("meta"):
            theirs = native["transformer"](
                attention_head_dim=heads,
                cross_attention_dim=32 * heads,
                num_layers=28 if heads == 64 else 48,
                operations=native["operations"],
            )
            ours = LTXVideoTransformer3DModel.from_config(SPEC.config(variant, "transformer"))
        check_fit(
            ours,
            {
                rename(k, _TRANSFORMER): Entry(tmp_path, k, tuple(v.shape), "F32")
                for k, v in theirs.state_dict().items()
            },
        )
    for variant, version in (("0.9.0-2b", 0), ("0.9.1-2b", 1), ("0.9.5-2b", 2)):
        with torch.device("meta"):
            theirs, ours = (
                native["vae"](version=version),
                AutoencoderKLLTXVideo.from_config(SPEC.config(variant, "vae")),
            )
        entries = rename_vae({k: Entry(tmp_path, k, tuple(v.shape), "F32") for k, v in theirs.state_dict().items()})
        check_fit(ours, entries)


@pytest.mark.parametrize("variant", SPEC.variants())
def test_every_variant_is_complete(variant: str) -> None:
    from reelwire.loaders.families.ltx.denoiser import LTXFacts

    defaults = SPEC.config(variant, "defaults")
    facts = LTXFacts(
        spatial_ratio=32,
        temporal_ratio=8,
        channels=128,
        size_multiple=32,
        scheduler=SPEC.config(variant, "scheduler"),
        text_width=4096,
        hidden_size=2048,
        **{key: frozen(value) for key, value in defaults.items()},
    )
    for preset in facts.presets.values():
        values = {**facts.presets["default"], **preset}
        assert values["width"] % 32 == values["height"] % 32 == 0
        assert values["frames"] % 8 == 1
        assert values["steps"] >= 1
    assert ("distilled" in variant) == bool(facts.distilled_timesteps) == ("distilled" in facts.presets)
    configs = {part: SPEC.config(variant, part) for part in ("transformer", "vae")}
    assert _variant(configs, f"ltxv-{variant}.safetensors") == variant


def test_distilled_checkpoints_take_their_own_steps(tmp_path: Path) -> None:
    from reelwire.loaders.messages import InputError
    from reelwire.loaders.request import Request
    from reelwire.samplers.plan import plan
    from reelwire.tests.support.engine.components import ltx_folder

    folder = ltx_folder(tmp_path / "ltxv-2b-0.9.8-distilled", "0.9.5")
    files = {"checkpoint": folder, "text_encoder": folder / "text_encoder", "tokenizer": folder / "tokenizer"}
    model = LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())
    request = plan(model, Request()).request
    assert (model.variant, request.sampler, request.steps, request.guidance) == (
        "0.9.8-2b-distilled",
        "distilled",
        8,
        1.0,
    )
    timesteps = model.schedule(request).timesteps
    facts: Any = model.facts
    assert timesteps is not None
    assert timesteps.tolist() == pytest.approx(facts.distilled_timesteps)
    with refuses(InputError, "distilled_steps", steps=8):
        plan(model, Request(steps=20))
    assert plan(model, Request(steps=20, sampler="euler")).request.steps == 20


def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    from reelwire.loaders.messages import InputError
    from reelwire.tests.support.engine.components import ltx_folder

    folder = ltx_folder(tmp_path / "ltx", "0.9.0")
    files = {"checkpoint": folder, "text_encoder": folder / "text_encoder", "tokenizer": folder / "tokenizer"}
    model = LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())
    with refuses(InputError, "prompt_unknown", signs="qwerty asdf"):
        model.encode("qwerty asdf", "")
    with refuses(InputError, "prompt_too_long", count=131, most=128):
        model.encode("a red circle", "red " * 130)
    model.encode("", "")


def test_a_prompt_for_another_model_is_refused() -> None:
    from reelwire.loaders.messages import InputError
    from reelwire.loaders.request import Conditioning, Request
    from reelwire.tests.support.engine.sampling import sample

    files = {"checkpoint": BUNDLED, "text_encoder": BUNDLED / "text_encoder", "tokenizer": BUNDLED / "tokenizer"}
    model = LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())
    with refuses(InputError, "prompt_of_other", "model_reads", family="wan", width=96):
        sample(model, Conditioning("wan", 96, {}), Request())
    with refuses(InputError, "model_reads", "prompt_of_other", family="ltx", width=96):
        sample(model, Conditioning("ltx", 4096, {}), Request())


def _truncated(data: bytes) -> bytes:
    return data[:-100]


def _flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0x40]) + data[41:]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.safetensors", _truncated, "incomplete"),
        ("a.safetensors", lambda data: data[:50], "damaged or incomplete"),
        ("a.safetensors", lambda data: b"", "damaged or incomplete"),
        ("a.safetensors", lambda data: data[:30] + b"\xff" + data[31:], "header .* damaged"),
        ("a.safetensors", lambda data: b"PK\x03\x04" + data, "pickle"),
        ("a.ckpt", lambda data: data, "pickle"),
    ],
)
def test_broken_files_are_refused(name: str, change: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    save_file({"proj_in.weight": torch.zeros(4, 4)}, tmp_path / "whole")
    file.write_bytes(change((tmp_path / "whole").read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        read_header(file)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x4B50])  # whose first bytes are those of pickles and of archives
def test_a_header_of_any_length_is_read(length: int, tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + header + bytes(4))
    assert read_header(tmp_path / "x.safetensors")[0]["x"].shape == (1,)


def test_every_flipped_bit_of_a_header_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Whatever bit flips in the header: words, or a file whose tensors do not fit; never another exception."""
    save_file({"proj_in.weight": torch.zeros(4, 4)}, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    refused = 0
    for position in range(len(data) - 64):
        for bit in range(8):
            file = tmp_path / "flipped.safetensors"
            file.write_bytes(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
            try:
                read_source(file, LTX.checkpoint)
            except CheckpointError:
                refused += 1
    assert refused == (len(data) - 64) * 8


def test_wrong_text_encoders_are_refused(native: Any, tmp_path: Path) -> None:
    file = all_in_one(tmp_path / "ltx.safetensors", native_transformer(native), native_vae(native, "0.9.0"))
    with refuses(CheckpointError, "wrong_width", width=48, wanted=32):
        load(file, tmp_path, width=48)
    save_file(
        {"text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}, tmp_path / "clip_l.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"clip_l.safetensors is a CLIP text encoder, not a T5"):
        read_encoder(tmp_path / "clip_l.safetensors", "t5")


def test_missing_and_extra_keys_are_listed(tmp_path: Path) -> None:
    from diffusers import LTXVideoTransformer3DModel
    from reelwire.loaders.weights.entry import strip_prefix
    from reelwire.loaders.weights.modules import build

    transformer = ltx_transformer()
    weights = {k: v.clone() for k, v in transformer.state_dict().items()}
    del weights["proj_in.bias"]
    weights["surplus"], weights["proj_out.bias"] = torch.zeros(1), torch.zeros(3)
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"1 missing \(proj_in.bias\); 1 unexpected \(surplus\); 1 of another shape \(proj_out.bias\)",
    ):
        build(
            lambda: LTXVideoTransformer3DModel.from_config(transformer.config),
            strip_prefix(read_header(tmp_path / "a.safetensors")[0]),
            torch.float32,
            lambda *_: None,
        )
