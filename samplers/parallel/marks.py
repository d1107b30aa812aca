"""Whether another machine has the same files: by their sizes, headers and samples of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...loaders.messages import message
from ...loaders.parts import Recipe
from ..caches.store import fingerprint

KINDS = {".safetensors", ".gguf", ".json", ".model", ".txt", ".pt", ".pth", ".bin"}  # what a model is read from
GONE = ""
Marks = Mapping[str, str]  # path -> "size digest"; GONE where there is none


def marks_of(recipe: Recipe) -> Marks:
    """The marks of all files that a model is built from, its LoRAs included."""
    return {str(file): mark_of(file) for place in _places(recipe) for file in _files(place)}


def _places(recipe: Recipe) -> list[Path]:
    loras = [lora.file for lora in recipe.options.get("loras", ())]
    return sorted({*recipe.files.values(), *loras})


def _files(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    for file in sorted(place.rglob("*")):
        if file.suffix.lower() in KINDS and file.is_file():
            yield file


def mark_of(file: Path) -> str:
    """Size and digest of a file."""
    try:
        return f"{file.stat().st_size} {fingerprint(file)}"
    except (OSError, ValueError):
        return GONE


def other_files(marks: Marks) -> list[str]:
    """What of these files is not the same on this machine, in words."""
    here = {name: mark_of(Path(name)) for name in marks}
    words = list[str]()
    for name, mark in marks.items():
        if here[name] == GONE:
            words.append(message("worker_file_missing", file=name))
        elif here[name] != mark:
            words.append(message("worker_file_differs", file=name))
    return words
