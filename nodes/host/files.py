"""Latents that outlive a failure."""

from __future__ import annotations

import json
import logging
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_api.latest import io
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...loaders.devices import out_of_memory
from ...loaders.files import cause_unwritten, check_writable, make_folder, read_whole, remove, write_new
from ...loaders.messages import CheckpointError, Message, message, reason_of
from ...loaders.parts import JsonObject
from ...loaders.video_model import VideoModel
from ...loaders.weights.json_files import parse_json, parse_object
from .latents import UNTOUCHED, Latent, checked_note, is_untouched, note_of
from .notes import extended
from .outputs import metadata, output_folder
from .progress import Interrupted
from .report import Report
from .sound import SOUND, SourceSound, facts_of, restored
from .sound.kept import TENSOR

KEPT = "reelwire_kept"  # of a LATENT: a KeptFile
MOST_NOTES = 100 * 2**20  # bytes of a header: as many as safetensors takes
SAVED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of latents in files


@dataclass(frozen=True, eq=False)
class KeptFile:
    """The file that latents were read from; another node may have put other samples beside it since."""

    path: Path
    samples: Tensor


# ---------------------------------------------------------------- latents that outlive a failure


def _kept_folder() -> Path:
    return output_folder() / "reelwire" / "latents"


def tell_unkept(cls: type[io.ComfyNode]) -> None:
    """Say on a node that decodes, before its latents are sampled, that they cannot be kept meanwhile: no run is refused
    for it, as it loses nothing unless something else fails."""
    try:
        make_folder(_kept_folder())
        check_writable(_kept_folder() / "latents.safetensors")
    except OSError as error:
        Report(cls).tell(message("latents_will_not_be_kept", error=cause_unwritten(error)))


def saved_latents() -> dict[str, Path]:
    """Latents that failed decodes have left, newest first. (The host empties its temporary folder when it starts.)"""
    times = dict[Path, float]()
    for path in _kept_folder().glob("*.safetensors"):
        with suppress(OSError):  # another process has used it up, or a link leads nowhere
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                times[path] = status.st_mtime
    return {path.name: path for path in sorted(times, key=lambda path: times[path], reverse=True)}


def save_latents(latent: Latent, cls: type[io.ComfyNode]) -> Path:
    """Write a LATENT to a new file, whole or not at all, with all that a decode of it needs; where it came from a kept
    file, that one is named. Raises OSError or MemoryError."""
    kept = latent.get(KEPT)
    if isinstance(kept, KeptFile) and kept.samples is latent["samples"] and kept.path.exists():
        return kept.path
    folder = _kept_folder()
    note = note_of(latent)
    family = note.get("family", "latents")
    path = folder / f"{family}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}.safetensors"
    facts, tensors = _sound_facts(latent)
    about = {**note, **facts}
    texts = {**metadata(cls, None), **({"reelwire": json.dumps(about)} if about else {})}
    tensors |= {"samples": latent["samples"], **_untouched_tensors(latent)}
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, texts)
    make_folder(folder)
    return write_new(path, content)


@contextmanager
def latents_on_disk(latent: Latent, cls: type[io.ComfyNode]) -> Iterator[None]:
    """Keep latents on disk while they are decoded; after a failure they stay, and the error says where. Latents that
    came from a kept file stay where they are."""
    before = {*saved_latents().values()}
    path, words = _saved(latent, cls)  # where there is no room, perhaps there is in the folder of the video
    if path is None:
        logging.warning("Reelwire: %s", words)
    is_new = path is not None and path not in before
    try:
        yield
    except Interrupted:
        if path is not None and is_new:
            remove(path)  # on purpose, and the host still holds them
        raise
    except Exception as error:
        if path is None or not path.exists():  # somebody has removed it since, or has made room
            _, words = _saved(latent, cls)
        raise extended(error, words) from error
    if path is not None and is_new:
        remove(path)


def _saved(latent: Latent, cls: type[io.ComfyNode]) -> tuple[Path | None, Message]:
    """(the file that keeps a LATENT, None where it cannot be written; where it is, in words)."""
    try:
        path = save_latents(latent, cls)
    except Exception as error:
        is_memory = out_of_memory(error)
        if not (is_memory or isinstance(error, OSError)):
            raise
        cause = MemoryError() if is_memory else error
        return None, message("latents_in_memory", error=cause_unwritten(cause))
    return path, message("latents_kept", place=f"output/{path.relative_to(output_folder()).as_posix()}")


def _sound_facts(latent: Latent) -> tuple[JsonObject, dict[str, Tensor]]:
    """(what a kept file says of the sound of the video that latents were made from, its samples), empty without one."""
    source, note = latent.get(SOUND), note_of(latent)
    if not isinstance(source, SourceSound):
        return {}, {}
    rate = note.get("fps") or source.fps
    facts, tensors = facts_of(source, note.get("frames", 0) / rate + 1 if rate else 0.0)
    return {"sound": facts}, tensors


def _untouched_tensors(latent: Latent) -> dict[str, Tensor]:
    """What a kept file holds of what a mask keeps, by their names there; each has memory of its own."""
    held = latent.get(UNTOUCHED)
    return {f"untouched_{name}": held[name].clone() for name in ("source", "mask")} if is_untouched(held) else {}


def read_latents(path: Path) -> tuple[Latent, list[str]]:
    """(a LATENT from a file of `save_latents`, of this version or an earlier one; what of the file is not used, in
    words); raises CheckpointError where it is damaged."""
    try:
        content = read_whole(path, follow=True)
        header = parse_object(content[8 : 8 + int.from_bytes(content[:8], "little")], MOST_NOTES)
        text = header.get("__metadata__", {}).get("reelwire")  # not there for latents that stock nodes made
        tensors = load(content)
        samples, heard = tensors["samples"], tensors.get(TENSOR)
        if samples.dtype not in SAVED or samples.ndim not in (4, 5) or not samples.numel():
            shape = message("tensor_shape", shape=list(samples.shape))
            raise ValueError(message("value_of_type", shown=shape, kind=str(samples.dtype).removeprefix("torch.")))
        note = {} if text is None else parse_json(text, infinite=True)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SafetensorError),
    ) as error:
        rule = message("latents_damaged", file=path.name, error=reason_of(error))
        raise CheckpointError(rule, message("choose_another_file")) from error
    facts = note.pop("sound", None) if isinstance(note, dict) else None
    note, notes = checked_note(note)
    sound, sound_notes = restored(facts, heard)
    latent: Latent = {"samples": samples, KEPT: KeptFile(path, samples)}
    latent |= ({"reelwire": note} if note else {}) | ({} if sound is None else {SOUND: sound})
    untouched = {name: tensors.get(f"untouched_{name}") for name in ("source", "mask")}
    latent |= {UNTOUCHED: untouched} if is_untouched(untouched) else {}
    return latent, [*notes, *sound_notes]


def latents_of(model: VideoModel, latent: Latent) -> Tensor:
    """The `samples` of a LATENT as this model's latents [1, C, t, h, w]; as they are where they cannot be that."""
    samples: Tensor = latent["samples"]
    fits = samples.ndim in (4, 5) and samples.shape[1] == model.facts.channels
    images = samples.ndim == 4 and model.facts.temporal_ratio > 1
    return model.from_host(samples) if fits and not images else samples
