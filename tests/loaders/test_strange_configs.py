"""A config that a stranger wrote is refused in words or does what a sound one does: it names no class or attention that
is not ours, builds nothing that the weights do not bear out, and reaches no other machine."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import CheckpointError, data
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.allowed import Shapes, allowed, kinds, of_class, table
from reelwire.loaders.weights.allowed.offline import offline
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.format import class_of
from reelwire.loaders.weights.lora.settings import read_settings
from reelwire.samplers.solvers import noise_schedule
from reelwire.tests.support.engine.models import MODELS, needed
from reelwire.tests.support.files.configs import VARIANTS, network, read
from reelwire.tests.support.strange_configs import EXTRAS, NESTED, Change, json_files, sampled

# of each family the models whose parts differ in kind
NAMES = (
    "tiny-hunyuan-t2v",
    "tiny-hunyuan-i2v-replace",
    "tiny-wan2.1-i2v",
    "tiny-wan2.1-vace",
    "tiny-wan2.2-ti2v-5b",
    "tiny-cogvideox-2b",
    "tiny-cogvideox1.5-5b",
    "tiny-mochi",
    "tiny-ltx-0.9.5",
    "tiny-svd",
)
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach another machine, none of which gets through."""
    tried: list[str] = []

    def forbidden(*args: Any, **kwargs: Any) -> None:
        tried.append(repr(args)[:200])
        raise OSError("no network")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, forbidden)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tried


def linked(models: Path, name: str, target: Path) -> Path:
    """A checkpoint folder as links, whose files may be replaced."""
    shutil.copytree(models / name, target, copy_function=lambda a, b: Path(b).symlink_to(Path(a).resolve()))
    return target


def put(folder: Path, file: str, content: Any) -> None:
    (folder / file).unlink()
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


def opened(folder: Path, name: str) -> VideoModel:
    return load(Recipe(MODELS[name], "", files_of(folder), "float32"), PlainMemory())


def with_change(folder: Path, name: str, change: Change, content: Any) -> VideoModel | None:
    """The model of a folder in which one entry is changed, ready to sample; None where that was refused in words."""
    put(folder, change.file, change.made(content))
    try:
        return opened(folder, name)
    except CheckpointError:
        return None
    finally:
        put(folder, change.file, content)


@each
def test_any_entry_changed(tiny_models: Path, tmp_path: Path, no_network: list[str], name: str) -> None:
    """Words or a model, soon, and nobody was called."""
    folder = linked(tiny_models, name, tmp_path / name)
    contents, taken = json_files(folder), 0
    for change in sampled(folder, 36, seed=7):
        begun = time.process_time()
        model = with_change(folder, name, change, contents[change.file])
        if model is not None:
            taken += 1
            request = model.complete(Request(width=64, height=64, sampler=usual_sampler(contents)))
            noise_schedule(model, request, torch.device("cpu"))
        assert time.process_time() - begun < 5, str(change)  # well under a second
    assert taken
    assert not no_network


def usual_sampler(contents: dict[str, Any]) -> str:
    return str(contents["reelwire.json"]["presets"]["default"]["sampler"])


@each
def test_what_a_stranger_adds_reaches_no_library(
    tiny_models: Path, tmp_path: Path, no_network: list[str], name: str
) -> None:
    """All at once, in every part: the model is the sound one's, the node says what is not used, and encoders run."""
    folder = linked(tiny_models, name, tmp_path / name)
    for file, content in json_files(folder).items():
        inner = {key: {**content[key], **EXTRAS} for key in NESTED if key in content}
        put(folder, file, {**content, **EXTRAS, **inner})
    model = opened(folder, name)
    said = " ".join(model.file_notes())
    assert all(part in said for part in ("auto_map", "config.json", "model_index.json", "scheduler_config.json"))
    for part, lazy in model.parts.items():
        module = lazy.load(lambda done, total: None)
        config = getattr(module, "config", {})
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        assert not {*EXTRAS} - {"dtype", "torch_dtype", "_name_or_path"} & {*values}, part
        assert getattr(config, "_attn_implementation", "sdpa") in ("sdpa", "eager", None)
    if model.facts.text_width:
        conditioning = model.encode("a red circle", "", needed(model)["keyframes"])
        assert conditioning.branches["cond"]["text"].isfinite().all()
    assert not no_network


@pytest.mark.parametrize("place", ["vision_config", "text_config"])
def test_an_encoder_inside_an_encoder_is_clip_and_llama(
    tiny_models: Path, tmp_path: Path, no_network: list[str], place: str
) -> None:
    name, file = "tiny-hunyuan-i2v-replace", "text_encoder/config.json"
    folder = linked(tiny_models, name, tmp_path / name)
    content = json_files(folder)[file]
    for inner in (NESTED[place], {**content[place], "model_type": "detr"}, {**content[place], "model_type": "mistral"}):
        put(folder, file, {**content, place: inner})
        with pytest.raises(CheckpointError, match="model_type"):
            opened(folder, name)
    assert not no_network


@pytest.mark.parametrize("kind", ["AutoModel", "pipeline", "owner/name", "T5ForConditionalGeneration", "", None, {}, 3])
def test_only_classes_of_the_part_are_made(tiny_models: Path, tmp_path: Path, no_network: list[str], kind: Any) -> None:
    name = "tiny-wan2.1-t2v"
    folder = linked(tiny_models, name, tmp_path / name)
    for file, key, value in (
        ("text_encoder/config.json", "architectures", [kind]),
        ("text_encoder/config.json", "architectures", kind),
        ("transformer/config.json", "_class_name", kind),
        ("vae/config.json", "_class_name", kind),
        ("model_index.json", "transformer", [kind, kind]),
        ("model_index.json", "transformer", [kind]),
    ):
        content = json_files(folder)[file]
        put(folder, file, {**content, key: value})
        with pytest.raises(CheckpointError):
            opened(folder, name)
        put(folder, file, content)
    assert not no_network


HUGE = (
    ("tiny-wan2.1-t2v", "transformer/config.json", {"num_layers": 1_000_000}),
    ("tiny-wan2.1-t2v", "transformer/config.json", {"rope_max_seq_len": 10**9}),
    ("tiny-wan2.1-vace", "transformer/config.json", {"vace_layers": [*range(100_000)]}),
    ("tiny-cogvideox-2b", "transformer/config.json", {"sample_width": 4096, "sample_height": 4096}),
    ("tiny-cogvideox-2b", "transformer/config.json", {"sample_frames": 10**9}),
    ("tiny-cogvideox-2b", "scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
    ("tiny-svd", "scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
    ("tiny-cogvideox-2b", "text_encoder/config.json", {"num_layers": 1_000_000}),
    ("tiny-hunyuan-t2v", "text_encoder/config.json", {"num_hidden_layers": 1_000_000}),
    ("tiny-ltx-0.9.5", "vae/config.json", {"layers_per_block": [10**6] * 5}),
    ("tiny-mochi", "vae/config.json", {"layers_per_block": [10**6] * 5}),
    ("tiny-svd", "image_encoder/config.json", {"image_size": 10**6}),
    ("tiny-svd", "reelwire.json", {"prompt_tokens": 10**9}),
)


@pytest.mark.parametrize(("name", "file", "entries"), HUGE, ids=[f"{case[0]}-{next(iter(case[2]))}" for case in HUGE])
def test_numbers_are_bounded_before_anything_is_built(
    tiny_models: Path, tmp_path: Path, name: str, file: str, entries: dict[str, Any]
) -> None:
    """No memory goes to them."""
    import tracemalloc

    folder = linked(tiny_models, name, tmp_path / name)
    content = json_files(folder)[file]
    put(folder, file, {**content, **entries})
    before = resident()
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        opened(folder, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert resident() - before < 64 * 2**20


def resident() -> int:
    """Bytes of this process in memory."""
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# ---------------------------------------------------------------- the tables


def test_a_key_that_nobody_reads_is_named() -> None:
    rules = table("encoders", "T5EncoderModel")
    clean, notes = allowed({"num_layers": 2, "newer": 1}, rules, Shapes(), "text_encoder/config.json")
    assert dict(clean) == {"num_layers": 2}
    assert data(notes[0])["values"]["names"] == "'newer'"


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_configs_are_taken_whole(variant: str) -> None:
    """Of every variant that is shipped: nothing is refused, nothing left out, no number changed."""
    for part in (network(variant), "vae"):
        config = read(variant, part)
        rules = of_class(class_of(config["_class_name"]), [config])
        assert allowed(config, rules, Shapes(), part) == ({k: v for k, v in config.items() if k != "_class_name"}, ())
    for part, rules in (("scheduler", table("scheduler")), ("defaults", table("defaults", "defaults"))):
        config = read(variant, part)
        clean, notes = allowed(config, rules, Shapes(), part)
        assert dict(clean) == {k: v for k, v in config.items() if k != "_class_name"}
        assert not notes


def test_encoders_that_may_be_made_are_those_of_the_families() -> None:
    from reelwire.loaders.families import FAMILIES, family

    needed = {
        kind
        for name in FAMILIES
        for part, classes in family(name).checkpoint.classes.items()
        if "encoder" in part
        for kind in classes
    }
    assert needed <= kinds("encoders")
    assert kinds("encoders") - needed == {"rope", "LlavaModel"}


# ---------------------------------------------------------------- the switch


def test_no_socket_of_this_thread_leaves_the_machine() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender, offline():
        for attempt in (
            lambda: socket.getaddrinfo("example.invalid", 443),
            lambda: socket.gethostbyname("example.invalid"),
            lambda: sender.connect(("127.0.0.1", 9)),
            lambda: sender.sendto(b"x", ("127.0.0.1", 9)),
        ):
            with pytest.raises(CheckpointError):
                attempt()
        ours, theirs = socket.socketpair()  # between processes of this machine
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        ours.close()
        theirs.close()


def test_others_go_on_as_they_do() -> None:
    """Another thread while we load, and this one afterwards, also after an error."""
    calls: list[list[Any]] = []

    def call() -> None:
        calls.append(socket.getaddrinfo("127.0.0.1", 80))

    def fail() -> None:
        with offline():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    call()
    assert len(calls) == 2


def test_a_scheduler_as_diffusers_writes_it(tiny_models: Path, tmp_path: Path) -> None:
    """DPM-Solver's has an infinity in it, which is no JSON; an infinity where a number counts is refused."""
    from diffusers import DPMSolverMultistepScheduler

    name, file = "tiny-wan2.1-t2v", "scheduler/scheduler_config.json"
    folder = linked(tiny_models, name, tmp_path / name)
    DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction").save_pretrained(tmp_path / "x")
    written = (tmp_path / "x" / "scheduler_config.json").read_text(encoding="utf-8")
    assert "-Infinity" in written
    put(folder, file, json.loads(written))
    assert not opened(folder, name).file_notes()
    for key in ("flow_shift", "beta_end", "num_train_timesteps"):
        put(folder, file, {**json.loads(written), key: float("inf")})
        with pytest.raises(CheckpointError):
            opened(folder, name)


@pytest.mark.parametrize("value", [1e308, -1e308, "nan", "inf", True, 10**30, [1], {}, "owner/name"])
def test_what_a_loras_config_says_of_ranks(value: Any) -> None:
    """peft's config beside a LoRA, or in its header."""
    for key in ("lora_alpha", "r"):
        with pytest.raises((ValueError, TypeError)):
            read_settings(json.dumps({"r": 4, "lora_alpha": 4, key: value}), "")
    for key in ("alpha_pattern", "rank_pattern"):
        with pytest.raises((ValueError, TypeError)):
            read_settings(json.dumps({"r": 4, "lora_alpha": 4, key: {"blocks.0": value}}), "")


PREPROCESSORS: tuple[dict[str, Any], ...] = (
    {"size": {"width": 224}},
    {"crop_size": {"height": 224, "width": 10**9}},
    {"crop_size": "224"},
    {"image_std": [0.2, 0.2]},
    {"image_std": [0, 0, 0]},
    {"image_mean": [float("1e30")] * 3},
    {"resample": 99},
    {"do_resize": "yes"},
)


@pytest.mark.parametrize("entries", PREPROCESSORS)
def test_what_pictures_are_made_into(tiny_models: Path, tmp_path: Path, entries: dict[str, Any]) -> None:
    name = "tiny-svd"
    folder = linked(tiny_models, name, tmp_path / name)
    file = "feature_extractor/preprocessor_config.json"
    put(folder, file, {**json_files(folder)[file], **entries})
    with pytest.raises(CheckpointError):
        opened(folder, name)


@pytest.mark.parametrize("name", ["tiny-wan2.1-i2v", "tiny-svd", "tiny-hunyuan-i2v-replace"])
def test_pictures_are_those_of_transformers_own_loader(tiny_models: Path, name: str) -> None:
    from reelwire.loaders.common.images import image_processor
    from transformers import CLIPImageProcessor

    folder = files_of(tiny_models / name).get("image_processor")
    pictures = torch.rand(2, 3, 300, 200, generator=torch.Generator().manual_seed(3))
    theirs = CLIPImageProcessor.from_pretrained(folder) if folder else CLIPImageProcessor()
    options = {"images": pictures, "do_rescale": False, "return_tensors": "pt"}
    assert torch.equal(image_processor(folder)(**options).pixel_values, theirs(**options).pixel_values)
