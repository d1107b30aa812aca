"""What a file lacks is found among the files that there are, by what they hold; or it is told what to get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.families import family, load
from reelwire.loaders.families.wan import Wan
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.encoders import KINDS, read_encoder
from reelwire.loaders.weights.entry import Entry
from reelwire.loaders.weights.find import complete, read_model
from reelwire.loaders.weights.modules import check_fit
from reelwire.loaders.weights.safetensors import read_file
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import refuses
from reelwire.tests.support.files.configs import NATIVE, VARIANTS, build, read
from reelwire.tests.support.files.files import plain, scaled_fp8
from reelwire.tests.support.files.native import host_classes
from reelwire.training import tiny_files, tiny_text
from reelwire.training.tiny_models import encoder, seeded
from safetensors.torch import load_file, save_file

Files = dict[str, Path]
HIGH, LOW = (f"diffusion_models/tiny-wan2.2-t2v-{which}_noise-fp8_scaled.safetensors" for which in ("high", "low"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `models` with every tiny file."""
    folder = tmp_path_factory.mktemp("models")
    for name in tiny_files.FILES:
        tiny_files.make(name, folder)
    return folder


def offered(models: Path) -> dict[str, Files]:
    places = {
        "text_encoder": "text_encoders",
        "text_encoder_2": "text_encoders",
        "image_encoder": "clip_vision",
        "vae": "vae",
    }
    return {
        part: {f"{place}/{f.name}": f for f in sorted((models / place).glob("*.*"))} for part, place in places.items()
    }


def found(models: Path, name: str = HIGH, kind: str = "wan", **chosen: Path) -> Files:
    return complete(family(kind).checkpoint, {"checkpoint": models / name, **chosen}, offered(models), {"t5": models})


def test_the_only_files_that_fit_are_taken(models: Path) -> None:
    files = found(models)
    assert files["text_encoder"].name == "tiny-umt5.safetensors"
    assert files["tokenizer"] == files["text_encoder"]
    assert files["vae"].name == "tiny-wan-2.1-vae.safetensors"
    ltx = found(models, "diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf", "ltx")
    assert (ltx["text_encoder"].name, ltx["vae"].name, ltx["tokenizer"]) == (
        "tiny-t5.safetensors",
        "tiny-ltx-0.9.0-vae.safetensors",
        models,
    )


def test_two_experts_of_scaled_fp8_make_a_video(models: Path) -> None:
    files = found(models, low_noise=models / LOW)
    model = load(Recipe("wan", "", files, "float32"), PlainMemory())
    assert model.variant == "2.2-t2v-a14b"
    conditioning = model.encode("a red circle \u4e00\u53ea\u732b", "")
    assert conditioning.notes == ()
    parts: list[str] = []
    latents = sample(
        model, conditioning, Request(64, 64, 9, 6), lambda done, total, run: parts.append(run.denoiser.part(done - 1))
    )
    assert torch.isfinite(latents).all()
    assert {*parts} == {"transformer", "transformer_2"}


def test_one_expert_alone_is_refused(models: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs both experts.*low_noise_checkpoint"):
        load(Recipe("wan", "", found(models), "float32"), PlainMemory())
    with refuses(CheckpointError, "a_low_expert"):
        load(Recipe("wan", "", found(models, LOW, low_noise=models / HIGH), "float32"), PlainMemory())


# name of a file -> the variant that it runs as, and what is said of it; None: it needs the other expert
NAMES: dict[str, tuple[str, set[str]] | None] = {
    "wan2.2-t2v-rapid-aio-v10.safetensors": ("2.2-t2v-a14b", {"name_distilled", "taken_by_name", "works_alone"}),
    "wan2.2_t2v_14B_merged_fp8.safetensors": ("2.2-t2v-a14b", {"works_alone"}),
    "my_favourite.safetensors": ("2.1-t2v-1.3b", set()),
    "Phantom-Wan-1.3B.safetensors": ("2.1-t2v-1.3b", {"name_phantom"}),
    "Wan2.1-T2V-1.3B-rCM.safetensors": ("2.1-t2v-1.3b", {"name_distilled"}),
    "SkyReels-V2-T2V-1.3B.safetensors": ("2.1-t2v-1.3b", {"name_skyreels"}),
    "Wan2_2-T2V-A14B-HIGH_fp8.safetensors": None,
    "Wan2.2-T2V-A14B-LowNoise.safetensors": None,
    "wan22_t2v_low.safetensors": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_name_decides_is_said(models: Path, tmp_path: Path, name: str) -> None:
    """Which of two experts a file is, and not "2.2" alone, decides that another one is needed."""
    (tmp_path / name).symlink_to(models / HIGH)
    recipe, expected = Recipe("wan", "", {**found(models), "checkpoint": tmp_path / name}, "float32"), NAMES[name]
    if expected is None:
        with pytest.raises(CheckpointError, match=r"needs both experts"):
            load(recipe, PlainMemory())
        return
    model = load(recipe, PlainMemory())
    notes = [getattr(note, "values", {}).get("note", note) for note in model.file_notes()]
    assert (model.variant, {getattr(note, "key", "") for note in notes}) == expected
    assert getattr(model.facts, "boundary", 0) is None


def test_a_second_expert_for_a_model_of_one(tiny_models: Path) -> None:
    one = files_of(tiny_models / "tiny-wan2.1-t2v")
    with refuses(CheckpointError, "one_expert_file"):
        load(Recipe("wan", "", {**one, "low_noise": tiny_models / "tiny-wan2.1-t2v"}, "float32"), PlainMemory())
    two = files_of(tiny_models / "tiny-wan2.2-t2v-a14b")
    for other in ("tiny-wan2.2-i2v-a14b", "tiny-wan2.2-ti2v-5b"):
        with pytest.raises(CheckpointError, match=r"is not the other half of tiny-wan2.2-t2v-a14b"):
            load(Recipe("wan", "", {**two, "low_noise": tiny_models / other}, "float32"), PlainMemory())


def copies(models: Path, folder: Path, *leave: str) -> Path:
    for name in tiny_files.FILES:
        if not name.startswith(leave):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(models / name)
    return folder


def test_what_is_missing_is_told(models: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds no text encoder.*umt5_xxl_fp16.safetensors \(11.4 GB\).*models/text_encoders"
    ):
        found(copies(models, tmp_path / "a", "text_encoders/"))
    with pytest.raises(CheckpointError, match=r"holds no VAE.*wan_2.1_vae.safetensors \(0.25 GB.*models/vae"):
        found(copies(models, tmp_path / "b", "vae/"))


def test_several_that_fit_are_named_and_damaged_ones_are_no_choice(models: Path, tmp_path: Path) -> None:
    folder = copies(models, tmp_path)
    (folder / "vae" / "damaged.safetensors").write_bytes(
        (models / "vae" / "tiny-wan-2.1-vae.safetensors").read_bytes()[:999]
    )
    (folder / "text_encoders" / "empty.safetensors").write_bytes(b"")
    assert found(folder)["vae"].name == "tiny-wan-2.1-vae.safetensors"
    (folder / "vae" / "again.safetensors").symlink_to(models / "vae" / "tiny-wan-2.1-vae.safetensors")
    with refuses(CheckpointError, "several_fit", files="vae/again.safetensors, vae/tiny-wan-2.1-vae.safetensors"):
        found(folder)
    assert found(folder, vae=folder / "vae" / "again.safetensors")["vae"].name == "again.safetensors"


def test_parts_that_do_not_fit_are_refused_at_once(models: Path, tmp_path: Path) -> None:
    files = found(models)
    wide, slim = tmp_path / "wide.safetensors", tmp_path / "slim.safetensors"
    config = dict(load_file(files["text_encoder"]))
    save_file(
        {k: (torch.cat([v, v], 1) if v.ndim == 2 and v.shape[1] == 32 else v).contiguous() for k, v in config.items()},
        wide,
    )
    save_file({k: v for k, v in load_file(files["vae"]).items() if "decoder.conv_out" not in k}, slim)
    tries = {
        "text_encoder": {
            wide: "wide.safetensors is 64 wide, .* needs a text encoder of width 32",
            models / "text_encoders/tiny-t5.safetensors": "is a T5 text encoder, not a UMT5",
        },
        "vae": {
            slim: "slim.safetensors does not fit AutoencoderKLWan: 2 missing",
            models / "vae/tiny-ltx-0.9.0-vae.safetensors": "not a VAE of Wan",
        },
    }
    for part, wrong in tries.items():
        for file, message in wrong.items():
            recipe = Recipe("wan", "", {**files, "low_noise": models / LOW, part: file}, "float32")
            with pytest.raises(CheckpointError, match=message):
                read_model(recipe, Wan.checkpoint)


@pytest.mark.parametrize("kind", ["wan", "hunyuan_video", "cogvideox", "mochi", "ltx", "svd"])
def test_files_of_other_families(models: Path, kind: str) -> None:
    for name, other in ((HIGH, "wan"), ("diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf", "ltx")):
        if other != kind:
            with pytest.raises(CheckpointError, match=r"is (Wan|LTX-Video), not .* Use the loader of its family"):
                found(models, name, kind)


def test_a_shard_that_is_missing_is_named(tiny_models: Path, tmp_path: Path) -> None:
    import shutil

    import diffusers

    shutil.copytree(tiny_models / "tiny-wan2.1-t2v", tmp_path / "model")
    folder = tmp_path / "model" / "transformer"
    network = diffusers.WanTransformer3DModel.from_pretrained(folder)
    shutil.rmtree(folder)
    network.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    load(Recipe("wan", "", files_of(tmp_path / "model"), "float32"), PlainMemory())
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {shards[1].name}. Download these files again"):
        load(Recipe("wan", "", files_of(tmp_path / "model"), "float32"), PlainMemory())


# ---------------------------------------------------------------- encoders


def published(kind: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A tiny encoder, and its weights under the names of the published files."""
    import transformers

    with seeded(1):
        if kind in ("t5", "umt5"):
            model = encoder(tiny_text.t5, kind.upper(), 100)
            return model, {k: v.clone() for k, v in model.state_dict().items() if "embed_tokens" not in k}
        if kind == "clip":
            model = transformers.CLIPTextModel(
                transformers.CLIPTextConfig(
                    hidden_size=64,
                    intermediate_size=96,
                    num_attention_heads=1,
                    num_hidden_layers=2,
                    vocab_size=100,
                    bos_token_id=98,
                    eos_token_id=99,
                )
            )
            return model, {f"text_model.{k}": v for k, v in model.state_dict().items()} | {
                "text_projection.weight": torch.zeros(64, 64)
            }
        if kind == "llama":
            model = transformers.LlamaModel(
                transformers.LlamaConfig(
                    hidden_size=256,
                    intermediate_size=96,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    num_hidden_layers=2,
                    vocab_size=100,
                    head_dim=128,
                    rms_norm_eps=1e-5,
                    rope_theta=500000.0,
                )
            )
            return model, {f"model.{k}": v for k, v in model.state_dict().items()} | {
                "lm_head.weight": torch.zeros(100, 256)
            }
        model = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=160,
                intermediate_size=96,
                num_attention_heads=2,
                num_hidden_layers=2,
                image_size=28,
                patch_size=14,
                projection_dim=32,
                hidden_act="gelu",
            )
        )
        return model, dict(model.state_dict())


def output(model: torch.nn.Module, kind: str) -> torch.Tensor:
    with torch.no_grad():
        if kind == "vision":
            with seeded(2):
                return model(pixel_values=torch.randn(1, 3, 28, 28), output_hidden_states=True).hidden_states[-2]
        return model(input_ids=torch.tensor([[1, 5, 7, 9]]))[0]


@pytest.mark.parametrize("form", ["plain", "scaled fp8"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llava"])  # which is half of a model
def test_encoders_compute_what_they_did(tmp_path: Path, kind: str, form: str) -> None:
    original, state = published(kind)
    original.eval()
    file = tmp_path / "encoder.safetensors"
    numbers = plain(file, state) if form == "plain" else scaled_fp8(file, state)
    names = (
        dict(zip(state, original.state_dict(), strict=False)) if kind not in ("t5", "umt5") else {k: k for k in state}
    )
    original.load_state_dict({names[k]: v for k, v in numbers.items() if k in names}, strict=False)
    mine = read_encoder(file, kind).build(torch.float32, form != "plain", "", lambda *_: None)
    assert (output(mine, kind) - output(original, kind)).abs().max() < 1e-4
    for other in {*KINDS} - {kind}:
        with pytest.raises(
            CheckpointError, match=f"encoder.safetensors is {KINDS[kind].title}, not {KINDS[other].title}"
        ):
            read_encoder(file, other)


def test_the_embedded_tokenizer_is_sentencepieces_own(models: Path) -> None:
    import sentencepiece

    file = models / "text_encoders" / "tiny-umt5.safetensors"
    theirs = sentencepiece.SentencePieceProcessor(
        model_proto=load_file(file)["spiece_model"].numpy().tobytes(), add_eos=True
    )
    ours = load_tokenizer(file)
    for text in ("a red circle moving left", "\u4e00\u53ea\u732b\u5728\u8dd1 q\u00fc", "  two   spaces "):
        assert ours(text).input_ids == theirs.encode(text)
    with pytest.raises(CheckpointError, match="carries no tokenizer"):
        load_tokenizer(models / "text_encoders" / "tiny-t5.safetensors")


# ---------------------------------------------------------------- real sizes


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("wan/")])
def test_wans_published_sizes_have_all_their_tensors(comfyui: Path, tmp_path: Path, variant: str) -> None:
    """The host's class at its real size -> our names and our config: nothing missing or misshapen."""
    with host_classes():
        import comfy.ops

        make = NATIVE["wan"][0](read(variant, "transformer"))
        state = make(device="meta", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init).state_dict()
    entries = {
        name: Entry(tmp_path / "wan.safetensors", name, tuple(value.shape), "BF16") for name, value in state.items()
    }
    weights = wan_files.transformer(entries, {"file": "wan.safetensors"})
    assert weights is not None
    check_fit(build(variant, "transformer"), weights.entries)
    shipped = read(variant, "transformer")
    config = {k: weights.config[k] for k in shipped}
    assert config == shipped


def test_peak_of_reading_is_the_model_itself(tmp_path: Path) -> None:
    """Half a GB in another type than it is on disk: no second copy beside it, by the process' own high-water mark."""
    import subprocess
    import sys

    file, rows = tmp_path / "big.safetensors", 2**13
    save_file({f"{i}.weight": torch.zeros(rows, rows, dtype=torch.float16) for i in range(4)}, file)
    code = f"""
import importlib.util, re, sys, torch
root = {str(Path(__file__).parents[3])!r}
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec); sys.modules["pack"] = pack; spec.loader.exec_module(pack)
from pack.loaders.weights.modules import build
from pack.loaders.weights.safetensors import read_file
from pathlib import Path
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
make = lambda: torch.nn.Sequential(*(torch.nn.Linear({rows}, {rows}, bias=False) for _ in range(4)))
entries, before = read_file(Path({str(file)!r}))[0], peak()
made = build(make, entries, torch.bfloat16, lambda *_: None)
print((peak() - before) / sum(p.nbytes for p in made.parameters()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.35  # one tensor of four is on its way; in a real model it is one of hundreds


def test_read_file_keeps_scales_with_their_weights(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    scaled_fp8(file, {"a.weight": torch.randn(64, 64)})
    (entry,) = read_file(file)[0].values()
    assert "scale" in entry.scales
    assert entry.chunk(2)[1].rows == ((32, 64),)


WRAPS = {
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled by blocks": lambda key: key.replace(".0.", ".0._orig_mod."),
    "distributed": lambda key: f"module.{key}",
    "both": lambda key: f"module._orig_mod.{key}",
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_training_put_around_a_network_is_taken_off(models: Path, tmp_path: Path, wrap: str) -> None:
    """Networks, VAEs and encoders, quantised too, are what they are without."""
    tried = 0
    for source in sorted(models.rglob("*.safetensors")):
        if source.parent.name in ("vae", "text_encoders", "diffusion_models"):
            file = tmp_path / source.name
            save_file({WRAPS[wrap](key): tensor for key, tensor in load_file(source).items()}, file)
            expected, found = read_file(source)[0], read_file(file)[0]
            assert found.keys() == expected.keys(), source.name
            assert [entry.shape for entry in found.values()] == [found[key].shape for key in found]
            assert {key: {*entry.scales} for key, entry in found.items()} == {
                key: {*entry.scales} for key, entry in expected.items()
            }
            tried += 1
    assert tried >= 6
