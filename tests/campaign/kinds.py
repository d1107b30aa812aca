"""The kinds of files that the engine reads, and what is done with each case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from reelwire.loaders.families import family, load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.find import complete, read_source
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample

from .bases import LORA, MODELS, form_of, links
from .draw import draw
from .edits import Case, Edit, edited

TOKENIZERS = ("tokenizer", "vocab", "merges", "special_tokens", "spiece", "added_tokens")
PROMPT, WINDOWS = "a red circle, 一个红色的圆", 3
EVIL = "open('../ran', 'w')\nclass Evil:\n    def __init__(self, *_, **__): pass\n    from_pretrained = Evil = None\n"
PRESETS = ("reelwire", "model_index", "scheduler")  # what says how many steps a run has
SMALL = {"width": 64, "height": 64, "steps": 2}  # of single files, whose own presets are the published ones
Play = Callable[[Path, Path, Case], None]


@dataclass(frozen=True)
class Kind:
    """targets: (base folder) -> (base, file in it) of each file that is edited; play: runs (case folder, bases, case);
    more: further edits beside those of the file's form."""

    targets: Callable[[Path], list[tuple[str, str]]]
    play: Play
    more: Callable[[Random], Edit | None] = lambda random: None


def cases_of(name: str, bases: Path, seed: int, count: int) -> Iterator[Case]:
    """The first cases of a kind from a seed."""
    kind, targets = KINDS[name], KINDS[name].targets(bases)
    for number in range(count):
        random = Random(f"{seed} {name} {number}")
        base, target = random.choice(targets)
        more = kind.more(random)
        edits = [more] if more else draw(random, read(bases / base / target), form_of(target))
        yield Case(name, base, target, tuple(edits), seed, number)


def play(folder: Path, bases: Path, case: Case) -> None:
    """Run one case in a folder of its own; raises whatever the pack raises."""
    KINDS[case.kind].play(folder, bases, case)


def warm_up(bases: Path) -> None:
    """Import what the sound models need, so that no case is measured with it."""
    for name, (family_name, _) in MODELS.items():
        _open(family_name, {"checkpoint": bases / "models" / name}, {})
    _wan(bases)


def put(folder: Path, bases: Path, case: Case) -> Path:
    """The edited file of a case, in the case's folder."""
    path = folder / case.target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(edited(read(bases / case.base / case.target), form_of(case.target), case.edits))
    return path


@cache
def read(file: Path) -> bytes:
    """The bytes of a sound file."""
    return file.read_bytes()


# ---------------------------------------------------------------- models


def folder_model(folder: Path, bases: Path, case: Case) -> None:
    """A diffusers folder with one edited file: opened as the loader does, then used as far as that file counts."""
    name = Path(case.base).name
    links(bases / case.base, folder / name)
    (folder / name / "evil.py").write_text(EVIL)
    put(folder / name, bases, case)
    use(_open(MODELS[name][0], {"checkpoint": folder / name}, {}), case.target)


def single_model(folder: Path, bases: Path, case: Case) -> None:
    """The same of a single file, with sound ones beside it."""
    name, edited_part = _split(case.target)
    family_name, parts = MODELS[name]
    files = {part: bases / "single" / f"{name}-{part}.safetensors" for part in parts}
    files[edited_part] = put(folder, bases, case)
    files = {("checkpoint" if part == parts[0] else part): file for part, file in files.items()}
    tokenizers = {k: v for k, v in files_of(bases / "models" / name).items() if k.startswith("tokenizer")}
    if name == "tiny-hunyuan-t2v":  # the heads of a published Llama are wider than the tiny one
        tokenizers["text_encoder"] = bases / "models" / name / "text_encoder"
    use(_open(family_name, files, tokenizers), edited_part, SMALL)


def _split(target: str) -> tuple[str, str]:
    """(model, part) of a single file's name."""
    stem = target.removesuffix(".safetensors")
    name = next(name for name in MODELS if stem.startswith(f"{name}-"))
    return name, stem.removeprefix(f"{name}-")


def _open(family_name: str, files: dict[str, Path], more: dict[str, Path]) -> VideoModel:
    chosen = complete(family(family_name).checkpoint, {**files, **more}, {}, {})
    return load(Recipe(family_name, "", {**chosen, **more}, "float32"), PlainMemory())


def use(model: VideoModel, target: str, size: Mapping[str, Any] | None = None) -> None:
    """Run what an edited file counts for: prompts, the VAE, or a whole sampling. size: None for the model's own."""
    inputs = needed(model)
    if "vae" in target:
        for _ in stream_frames(model, torch.zeros(model.facts.latent_shape(64, 64, model.facts.frames(2)))):
            pass
        return
    conditioning = model.encode(PROMPT, "", inputs["keyframes"])
    if not any(word in target for word in ("encoder", *TOKENIZERS)):
        facts = model.facts
        frames = (facts.frame_counts or ((facts.frame_step or facts.temporal_ratio) + 1,))[0]
        steps = 0 if target.startswith(PRESETS) else 2
        request = Request(**inputs, seed=1, steps=steps)
        sample(model, conditioning, replace(request, **size, frames=frames) if size else request)


def gguf_model(folder: Path, bases: Path, case: Case) -> None:
    """LTX-Video as a GGUF file, which lacks a VAE: its network is opened and read."""
    form = family("ltx").checkpoint
    network = read_source(put(folder, bases, case), form).parts["transformer"]
    network.check()
    network.build(torch.float32, True, "", lambda *_: None)


# ---------------------------------------------------------------- what lies beside models


@cache
def _wan(bases: Path) -> VideoModel:
    return _open("wan", {"checkpoint": bases / "models" / "tiny-wan2.1-t2v"}, {})


def lora(folder: Path, bases: Path, case: Case) -> None:
    """A LoRA with its settings beside it."""
    from reelwire.loaders.weights.lora import LoRA, read_lora

    links(bases / "loras", folder)
    put(folder, bases, case)
    model, file = _wan(bases), folder / Path(LORA).name
    contents = read_lora(file, model.checkpoint, model.parts["transformer"])
    model = replace(model, memory=PlainMemory(), loras=(LoRA(file, 1.0, 1.0, contents.deltas, contents.low_deltas),))
    sample(model, model.encode(PROMPT, ""), Request(steps=2, seed=1))


def calibration(folder: Path, bases: Path, case: Case) -> None:
    """A calibration, read and used by a cache."""
    from reelwire.samplers.caches import store
    from reelwire.samplers.caches.policies.plan import Plan

    name = "tiny-wan2.1-t2v"
    links(bases / "models" / name, folder / name)
    put(folder, bases, case)
    model = _wan(bases)
    files = {**model.recipe.files, "checkpoint": folder / name}
    model = replace(model, recipe=replace(model.recipe, files=files), cache=Plan(speed=2.0))
    sample(model, model.encode(PROMPT, ""), Request(steps=12, seed=1))
    store.read(folder / name)


def job(folder: Path, bases: Path, case: Case) -> None:
    """An unfinished long video that is gone on with."""
    from reelwire.loaders.vae.tiles import Tiling
    from reelwire.samplers.long.job import Job

    links(bases / "job", folder / "job")
    put(folder / "job", bases, case)
    begun = Job(folder / "job")
    begun.begin({"seed": 1, "width": 64, "prompts": [[0, "a red circle"]], "adain": 0.25})
    begun.settled(Tiling(8, True))
    for number in range(WINDOWS):
        if begun.read(number) is None:
            begun.write(number, torch.zeros(1, 4, 2, 8, 8))
    begun.drop()


def timeline(folder: Path, bases: Path, case: Case) -> None:
    """A timeline, before anything else is known and with all of it."""
    from reelwire.samplers.long.timeline import read_timeline

    text = put(folder, bases, case).read_bytes().decode("utf-8", "replace")
    for fps, frames in ((None, None), (24.0, 97)):
        read_timeline(text, fps, frames)


def proof(folder: Path, bases: Path, case: Case) -> None:
    """A fault of each kind on purpose, named by the case's target: what tries others must see it."""
    import ctypes
    import socket

    from reelwire.loaders.messages import InputError, message

    faults: dict[str, Callable[[], object]] = {
        "ran": lambda: (folder / "inside").write_text(""),
        "raw": lambda: dict[str, int]()["x"],
        "hung": lambda: [sum(range(10**6)) for _ in range(10**6)],
        "died": lambda: ctypes.string_at(0),
        "socket": lambda: socket.create_connection(("192.0.2.1", 9), 0.1),
        "outside": lambda: (bases.parent / "outside").write_text(""),
        "memory": lambda: _KEPT.append(bytearray(2**27)),
    }
    if case.target in ("words", "noisy"):
        noise = "'NoneType' object has no attribute 'x'" if case.target == "noisy" else "x"
        raise InputError("at", 3, message("text_rule"), message("did_you_mean", key=noise))
    faults[case.target]()


_KEPT: list[bytearray] = []

# ---------------------------------------------------------------- the table


def _folder_targets(suffix: str, tokenizers: bool | None = None) -> Callable[[Path], list[tuple[str, str]]]:
    """Files of the tiny models' folders; tokenizers: only theirs, or none of theirs."""

    def targets(bases: Path) -> list[tuple[str, str]]:
        found = []
        for name in MODELS:
            root = bases / "models" / name
            for path in sorted(root.rglob(f"*{suffix}")):
                own = path.name.startswith(TOKENIZERS)
                if path.is_file() and tokenizers in (None, own):
                    found.append((f"models/{name}", path.relative_to(root).as_posix()))
        return found

    return targets


def _files(base: str, pattern: str) -> Callable[[Path], list[tuple[str, str]]]:
    return lambda bases: [(base, path.name) for path in sorted((bases / base).glob(pattern))]


KINDS: dict[str, Kind] = {
    "safetensors": Kind(_files("single", "*.safetensors"), single_model),
    "folder": Kind(_folder_targets(".safetensors"), folder_model),
    "config": Kind(_folder_targets(".json", tokenizers=False), folder_model),
    "tokenizer": Kind(_folder_targets("", tokenizers=True), folder_model),
    "gguf": Kind(_files("diffusion_models", "*.gguf"), gguf_model),
    "lora": Kind(_files("loras", "*.*"), lora),
    "calibration": Kind(lambda bases: [("models", "tiny-wan2.1-t2v.reelwire-cache.json")], calibration),
    "job": Kind(_files("job", "*.*"), job),
    "timeline": Kind(_files("", "timeline.json"), timeline),
    "proof": Kind(lambda bases: [], proof),
}
