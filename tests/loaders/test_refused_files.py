"""A single file of any family that is damaged, cut off or another model's is refused in words when it is loaded: no
weights are read, and no text encoder runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from reelwire.loaders.families import family, load
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.find import complete
from reelwire.loaders.weights.safetensors import read_folder, read_header
from reelwire.tests.support.engine.models import MODELS
from reelwire.training.tiny_models import new
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
# tiny model -> its parts that a single file or one beside it holds
PARTS = {
    "tiny-wan2.1-t2v": ("transformer", "vae", "text_encoder"),
    "tiny-hunyuan-t2v": ("transformer", "vae", "text_encoder_2"),  # Llama's heads are wider than the tiny one
    "tiny-cogvideox-5b": ("transformer", "vae", "text_encoder"),
    "tiny-mochi": ("transformer", "vae", "text_encoder"),
    "tiny-ltx-0.9.5": ("transformer", "vae", "text_encoder"),
    "tiny-svd": ("unet", "vae", "image_encoder"),
}
CASES = [(name, part) for name, parts in PARTS.items() for part in parts]
ALL = {**PARTS, "tiny-wan2.1-i2v": (*PARTS["tiny-wan2.1-t2v"], "image_encoder")}
FIRST = {name: parts[0] for name, parts in ALL.items()}


def short(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


def flat(state: State, key: str) -> State:
    return {**state, key: state[key].flatten().clone()}


def empty(state: State, key: str) -> State:
    return {**state, key: state[key].new_zeros(0)}


def longer(state: State, key: str) -> State:
    return {**state, key: torch.cat([state[key], state[key]]) if state[key].ndim else torch.zeros(3)}


def deeper(state: State, key: str) -> State:
    return {**state, key: state[key][None, None].clone()}


def more(state: State, key: str) -> State:
    return {**state, f"{key}.more": torch.zeros(2)}


DAMAGES = (short, flat, empty, longer, deeper, more)


# what single files tell is what is alike in all published models: heads, groups of norms, the depths of VAEs
PUBLISHED: dict[tuple[str, str], Callable[[], Any]] = {
    ("tiny-wan2.1-t2v", "vae"): lambda: new("AutoencoderKLWan", base_dim=8, dim_mult=[1, 2, 4, 4]),
    ("tiny-hunyuan-t2v", "transformer"): lambda: new(
        "HunyuanVideoTransformer3DModel",
        num_attention_heads=1,
        attention_head_dim=128,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=16,
    ),
    ("tiny-hunyuan-t2v", "vae"): lambda: new(
        "AutoencoderKLHunyuanVideo", block_out_channels=(32,) * 4, layers_per_block=1
    ),
    ("tiny-cogvideox-5b", "transformer"): lambda: new(
        "CogVideoXTransformer3DModel",
        num_attention_heads=1,
        attention_head_dim=64,
        time_embed_dim=32,
        text_embed_dim=32,
        num_layers=2,
        use_rotary_positional_embeddings=True,
    ),
    ("tiny-cogvideox-5b", "vae"): lambda: new(
        "AutoencoderKLCogVideoX",
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    ),
}


@cache
def state_of(models: Path, name: str, part: str) -> State:
    """All tensors of a part."""
    if make := PUBLISHED.get((name, part)):
        return dict(make().state_dict())
    entries = read_folder(models / name / part)
    files = {file: load_file(file) for file in {entry.file for entry in entries.values()}}
    return {key: files[entry.file][entry.key] for key, entry in entries.items()}


@cache
def whole(models: Path, name: str, folder: Path) -> dict[str, Path]:
    """Each part of a tiny model as a file of its own."""
    files = {}
    for part in ALL[name]:
        files[part] = folder / f"{name}-{part}.safetensors"
        save_file({k: v.contiguous() for k, v in state_of(models, name, part).items()}, files[part])
    return files


def recipe(models: Path, name: str, files: dict[str, Path]) -> Recipe:
    tokenizers = {k: v for k, v in files_of(models / name).items() if k.startswith("tokenizer")}
    if name == "tiny-hunyuan-t2v":
        tokenizers["text_encoder"] = models / name / "text_encoder"
    chosen = {"checkpoint" if part == FIRST[name] else part: file for part, file in files.items()}
    return Recipe(MODELS[name], "", {**chosen, **tokenizers}, "float32")


def refused(models: Path, name: str, files: dict[str, Path]) -> CheckpointError:
    """What the loader says, before anything is read."""
    memory = PlainMemory()
    with pytest.raises(CheckpointError) as refusal:
        opened(recipe(models, name, files), memory)
    assert not memory._modules
    return refusal.value


def opened(wanted: Recipe, memory: PlainMemory) -> Any:
    """The model, as the loader node opens it."""
    complete(family(wanted.family).checkpoint, wanted.files, {}, {})
    return load(wanted, memory)


@pytest.mark.parametrize("name", PARTS)
def test_whole_files_are_taken(tiny_models: Path, tmp_path: Path, name: str) -> None:
    assert opened(recipe(tiny_models, name, whole(tiny_models, name, tmp_path)), PlainMemory()).parts


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@given(case=st.sampled_from(CASES), damage=st.sampled_from(DAMAGES), place=st.integers(0, 10**6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(("tiny-ltx-0.9.5", "transformer"), short, 0)
@example(("tiny-ltx-0.9.5", "vae"), flat, 5)
def test_damage_anywhere(
    tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, case: tuple[str, str], damage: Any, place: int
) -> None:
    name, part = case
    folder = tmp_path_factory.getbasetemp()
    files = whole(tiny_models, name, folder)
    state = load_file(files[part])
    key = sorted(state)[place % len(state)]
    file = folder / f"damaged-{part}.safetensors"
    damaged = damage(state, key)
    assume({k: v.shape for k, v in damaged.items()} != {k: v.shape for k, v in state.items()})
    save_file({k: v.contiguous() for k, v in damaged.items()}, file)
    error = refused(tiny_models, name, {**files, part: file})
    assert file.name in str(error)


# what a single file may have more of: nobody reads it, or it is a published relative's
UNREAD = {("tiny-wan2.1-i2v", "visual_projection.weight")}  # Wan reads the last layer but one


# one encoder of each kind: UMT5, CLIP, T5, and CLIP's eye with and without its projection
KINDS = {
    "tiny-wan2.1-i2v": ("text_encoder", "image_encoder"),
    "tiny-hunyuan-t2v": ("text_encoder_2",),
    "tiny-ltx-0.9.5": ("text_encoder",),
    "tiny-svd": ("image_encoder",),
}


def test_no_table_of_an_encoder_is_believed(tiny_models: Path, tmp_path: Path) -> None:
    """Every tensor of every encoder, twice as long: where no other tensor says how long it must be, the tokenizer, the
    network or what all published ones have in common does."""
    file, believed = tmp_path / "longer.safetensors", set()
    for name, part in ((name, part) for name, parts in KINDS.items() for part in parts):
        files, state = whole(tiny_models, name, tmp_path), state_of(tiny_models, name, part)
        for key in state:
            save_file({k: v.contiguous() for k, v in longer(state, key).items()}, file)
            with suppress(CheckpointError):
                opened(recipe(tiny_models, name, {**files, part: file}), PlainMemory())
                believed.add((name, key))
    assert believed <= UNREAD


def test_long_clip_is_taken(tiny_models: Path, tmp_path: Path) -> None:
    """Whose text has 248 places, and which ends a text by the tokenizer's sign, whatever rows its table has."""
    files = whole(tiny_models, "tiny-hunyuan-t2v", tmp_path)
    state = load_file(files["text_encoder_2"])
    places, words = "embeddings.position_embedding.weight", "embeddings.token_embedding.weight"
    place, word = (next(k for k in state if k.endswith(key)) for key in (places, words))
    state[place] = torch.zeros(248, state[place].shape[1])
    end = len(state[word]) - 1
    state[word] = torch.cat([state[word], state[word][:4]])
    save_file(state, tmp_path / "long.safetensors")
    named = recipe(tiny_models, "tiny-hunyuan-t2v", {**files, "text_encoder_2": tmp_path / "long.safetensors"})
    config = opened(named, PlainMemory()).parts["text_encoder_2"].config
    assert (config["max_position_embeddings"], config["eos_token_id"]) == (248, end)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off(tiny_models: Path, tmp_path: Path, name: str, share: float) -> None:
    files = whole(tiny_models, name, tmp_path)
    cut = tmp_path / "cut.safetensors"
    for part in PARTS[name]:
        content = files[part].read_bytes()
        cut.write_bytes(content[: int(len(content) * share)])
        assert cut.name in str(refused(tiny_models, name, {**files, part: cut}))


@pytest.mark.parametrize("name", PARTS)
def test_another_models_file(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """Of another family, or a VAE where the network belongs."""
    files = whole(tiny_models, name, tmp_path)
    network = FIRST[name]
    for other in PARTS:
        if MODELS[other] != MODELS[name]:
            for part in (FIRST[other], "vae"):
                foreign = tmp_path / "foreign.safetensors"
                shutil.copy(whole(tiny_models, other, tmp_path)[part], foreign)
                assert foreign.name in str(refused(tiny_models, name, {**files, network: foreign}))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n"
NO_CHECKPOINTS = [
    (POINTER, "file_is_pointer"),
    (b"\xef\xbb\xbf\n <!DOCTYPE html><html>sign in</html>", "file_is_page"),
    (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "file_is_page"),
    (b"<HTML lang=en>", "file_is_page"),
    (b"Entry not found", "file_is_text"),
    (b'{"error": "Invalid credentials in Authorization header"}', "file_is_text"),
    (b"\0" * 64, "damaged_size"),
    (b"", "damaged_size"),
    (b"\xff" * 300, "damaged_size"),
]


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "a.sft"])
@pytest.mark.parametrize(("content", "key"), NO_CHECKPOINTS)
def test_what_a_site_sent_in_a_files_place_is_told(tmp_path: Path, name: str, content: bytes, key: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        read_header(tmp_path / name)
    assert getattr(refused.value.rule, "key", "") == key
    assert refused.value.remedy
