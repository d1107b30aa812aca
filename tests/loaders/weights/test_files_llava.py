"""HunyuanVideo I2V from single files: Llama and its eye come as two, and are the Llava that they were cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.families import load
from reelwire.loaders.families.hunyuan_video import HunyuanVideo
from reelwire.loaders.families.hunyuan_video.prompts import _read_picture, _tokens
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.encoders import LLAVA_PAD, LLAVA_PICTURE, merge_vision_tower, read_encoder
from reelwire.loaders.weights.find import complete
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import refuses
from reelwire.tests.support.files.files import plain, scaled_fp8
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.training import tiny_models
from reelwire.training.tiny_models import seeded

VOCABULARY, WIDTH, SIDE = 128320, 128, 336


def llava() -> Any:
    """Llava-Llama-3 in its true vocabulary and picture size, one head wide."""
    vision = dict(
        model_type="clip_vision_model",
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=1,
        num_hidden_layers=3,
        image_size=SIDE,
        patch_size=14,
        hidden_act="quick_gelu",
    )
    language = dict(
        model_type="llama",
        hidden_size=WIDTH,
        intermediate_size=96,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=128,
        num_hidden_layers=4,
        vocab_size=VOCABULARY,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=LLAVA_PICTURE, pad_token_id=LLAVA_PAD
    )
    with seeded(1):
        return transformers.LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def halves(whole: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(Llama's weights, its eye's) under the names of the published files."""
    state = {key.removeprefix("model."): value for key, value in whole.state_dict().items()}
    language = {
        f"model.{k.removeprefix('language_model.')}": v for k, v in state.items() if k.startswith("language_model.")
    }
    tower = {
        f"vision_model.{k.removeprefix('vision_tower.')}": v for k, v in state.items() if k.startswith("vision_tower.")
    }
    projector = {k: v for k, v in state.items() if k.startswith("multi_modal_projector.")}
    return language | {"lm_head.weight": state["lm_head.weight"]}, tower | projector


@pytest.fixture(scope="module")
def whole() -> Any:
    return llava()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, whole: Any) -> Path:
    """A ComfyUI's models: the network of tiny-hunyuan-i2v widened to this Llama, the encoders and the VAE as files."""
    folder = tmp_path_factory.mktemp("models")
    language, eye = halves(whole)
    plain(folder / "llama.safetensors", language)
    plain(folder / "eye.safetensors", eye)
    with seeded(2):
        network = tiny_models.new(
            "HunyuanVideoTransformer3DModel",
            in_channels=33,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=128,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            guidance_embeds=False,
            text_embed_dim=WIDTH,
            pooled_projection_dim=64,
            image_condition_type="latent_concat",
        )
    plain(folder / "network.safetensors", network.state_dict())
    vae = tiny_models.new("AutoencoderKLHunyuanVideo", block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    plain(folder / "vae.safetensors", vae.state_dict())
    config = transformers.CLIPTextConfig(
        hidden_size=64, intermediate_size=96, num_attention_heads=1, num_hidden_layers=2
    )
    clip = transformers.CLIPTextModel(config)
    plain(folder / "clip.safetensors", {f"text_model.{k}": v for k, v in clip.state_dict().items()})
    return folder


def chosen(models: Path, **more: Path) -> dict[str, Path]:
    return {"checkpoint": models / "network.safetensors", "vae": models / "vae.safetensors", **more}


@torch.no_grad()
def test_the_two_halves_are_one_again(tmp_path: Path, whole: Any) -> None:
    language, eye = halves(whole)
    inputs = dict(
        input_ids=torch.tensor([[128000, 5, *[LLAVA_PICTURE] * 576, 7, 9]]), pixel_values=torch.randn(1, 3, SIDE, SIDE)
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    expected = whole(**inputs, output_hidden_states=True).hidden_states
    for write in (plain, lambda file, state: scaled_fp8(file, state, new=True)):
        numbers = write(tmp_path / "llama.safetensors", language)
        plain(tmp_path / "eye.safetensors", eye)
        joined = merge_vision_tower(
            read_encoder(tmp_path / "llama.safetensors", "llama"), read_encoder(tmp_path / "eye.safetensors", "llava")
        )
        model = joined.build(torch.float32, True, "", lambda *_: None)
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        if write is plain:
            assert (hidden[-3] - expected[-3]).abs().max() < 1e-5
        else:
            other = llava()
            other.model.language_model.load_state_dict(
                {k.removeprefix("model."): v for k, v in numbers.items() if k != "lm_head.weight"}
            )
            rounded = other(**inputs, output_hidden_states=True).hidden_states
            assert (rounded[-3] - expected[-3]).abs().max() > 1e-6
            assert (hidden[-3] - rounded[-3]).abs().max() < 1e-4


@torch.no_grad()
def test_the_eye_sees_what_the_hosts_eye_sees(tmp_path: Path, whole: Any) -> None:
    with host_classes(), seeded(3):
        import comfy.ops
        from comfy.clip_model import CLIPVisionModelProjection, LlavaProjector

        config = dict(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=1,
            num_hidden_layers=3,
            image_size=SIDE,
            patch_size=14,
            hidden_act="quick_gelu",
            model_type="clip_vision_model",
            num_channels=3,
            projection_dim=32,
            projector_type="llava3",
        )
        common = (torch.float32, "cpu", comfy.ops.disable_weight_init)
        theirs = CLIPVisionModelProjection(config, *common)
        theirs.multi_modal_projector = LlavaProjector(64, WIDTH, *common)
        randomised(theirs)
    plain(tmp_path / "eye.safetensors", theirs.state_dict())
    plain(tmp_path / "llama.safetensors", halves(whole)[0])
    joined = merge_vision_tower(
        read_encoder(tmp_path / "llama.safetensors", "llama"), read_encoder(tmp_path / "eye.safetensors", "llava")
    )
    model: Any = joined.build(torch.float32, False, "", lambda *_: None)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    expected = theirs(pixels, intermediate_output=-2)[3]
    features = model.get_image_features(pixel_values=pixels)
    projected = torch.cat([*getattr(features, "pooler_output", features)])
    assert expected.abs().max() > 0.1
    assert (projected - expected[0]).abs().max() < 1e-4


def open_i2v(models: Path) -> VideoModel:
    """As the loader finds the files, with tokenizers of the published special tokens."""
    offered = {
        "text_encoder": {"llama": models / "llama.safetensors"},
        "text_encoder_2": {"clip": models / "clip.safetensors"},
        "image_encoder": {"eye": models / "eye.safetensors"},
    }
    with host_classes():
        import comfy

        folder = Path(comfy.__path__[0])
    tokenizers = {"llama": folder / "text_encoders" / "llama_tokenizer", "clip": folder / "sd1_tokenizer"}
    files = complete(HunyuanVideo.checkpoint, chosen(models), offered, tokenizers)
    assert files["image_encoder"].name == "eye.safetensors"
    return load(Recipe("hunyuan_video", "", files, "float32"), PlainMemory())


@torch.no_grad()
def test_a_picture_is_set_in_motion_from_single_files(models: Path, whole: Any) -> None:
    model = open_i2v(models)
    assert model.variant == "i2v-13b-concat"
    with model.use("text_encoder") as network:
        assert type(network).__name__ == "LlavaModel"

    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    assert tokenizer.convert_tokens_to_ids("<image>") == LLAVA_PICTURE
    prompt, begin = _tokens(model, True, "a red circle", "positive")
    header = tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    common = (prompt, begin, lambda length: prompt, header, torch.randn(1, 3, SIDE, SIDE), 2)
    with model.use("text_encoder") as network:
        hidden = _read_picture(network, *common)
    expected = _read_picture(whole, *common)
    assert (hidden["text"] - expected["text"]).abs().max() < 1e-5
    assert torch.equal(hidden["mask"], expected["mask"])
    picture = (Keyframe(torch.rand(1, 64, 64, 3), 0),)
    conditioning = model.encode("a red circle", "", picture)
    latents = sample(model, conditioning, Request(64, 64, 5, 2, keyframes=picture))
    assert torch.isfinite(latents).all()


def test_what_an_eye_cannot_be(models: Path, tmp_path: Path, whole: Any) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"holds no picture encoder.*llava_llama3_vision.safetensors \(0.6 GB\).*models/clip_vision",
    ):
        complete(
            HunyuanVideo.checkpoint,
            chosen(models),
            {
                "text_encoder": {"llama": models / "llama.safetensors"},
                "text_encoder_2": {"clip": models / "clip.safetensors"},
            },
            {},
        )
    eye = halves(whole)[1]
    narrow = {k: v[:32, :32] if v.ndim == 2 else v[:32] for k, v in eye.items() if "projector" in k}
    plain(tmp_path / "narrow.safetensors", {**eye, **narrow})
    with refuses(CheckpointError, "llava_halves", seen=32, wanted=128):
        merge_vision_tower(
            read_encoder(models / "llama.safetensors", "llama"), read_encoder(tmp_path / "narrow.safetensors", "llava")
        )
    with pytest.raises(CheckpointError, match=r"is Llava's picture encoder, not a CLIP picture encoder"):
        read_encoder(models / "eye.safetensors", "vision")
