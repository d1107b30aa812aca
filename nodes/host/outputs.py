"""The output folder: new files in it, what goes into them beside their content, and whether they are still there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io
from comfy_execution.progress import get_progress_state

from ...loaders.files import make_folder, part_beside
from ...loaders.messages import message
from ...loaders.parts import JsonObject
from .names import FORBIDDEN, check_prefix, nodes_of, parts, resolved


def output_folder() -> Path:
    """The host's output folder."""
    return Path(folder_paths.get_output_directory())


def output_file(
    cls: type[io.ComfyNode], prefix: str, suffix: str, width: int, height: int
) -> tuple[Path, str, list[str]]:
    """(the next file name in the output folder, its subfolder, notes) for a file name prefix of a node. The name is
    not taken yet: another process may be faster. Raises OSError, in words, where nothing can be written there."""
    check_prefix(prefix)
    prompt, extra = cls.hidden.prompt or {}, cls.hidden.extra_pnginfo or {}
    prefix, notes = resolved(prefix, nodes_of(prompt, extra.get("workflow"), _titles()))
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            "/".join(parts(prefix)), folder_paths.get_output_directory(), width, height
        )
        path = Path(folder) / f"{name}_{counter:05}_{suffix}"
        with part_beside(path):
            return path, subfolder, notes
    except OSError as error:
        where = "/".join(parts(prefix)[:-1]) or "."
        raise OSError(message("output_unwritable", folder=where, error=error.strerror or error)) from error


def check_output() -> None:
    """Raise OSError, in words and before anything is sampled, where the output folder takes no file."""
    try:
        make_folder(output_folder())
        with part_beside(output_folder() / "any"):
            pass
    except OSError as error:
        raise OSError(message("output_unwritable", folder=".", error=error.strerror or error)) from error


def _titles() -> Mapping[str, str]:
    """Node type -> what the host calls it. Its module has the name of a room of this pack."""
    return getattr(sys.modules.get("nodes"), "NODE_DISPLAY_NAME_MAPPINGS", {})


def beside_output(prefix: str, suffix: str) -> Path:
    """A name in the output folder that stays the same for a prefix, whatever its tokens stand for."""
    names = (FORBIDDEN.sub("_", name) for name in parts(f"{prefix}{suffix}"))
    return Path(os.path.normpath(output_folder().joinpath(*names)))


def metadata(cls: type[io.ComfyNode], note: Mapping[str, object] | None) -> dict[str, str]:
    """What goes into a file beside its content: prompt, workflow, and how it was made; nothing where the host was
    started with --disable-metadata."""
    if args.disable_metadata:
        return {}
    values = {"prompt": _as_sent(cls.hidden.prompt), **(cls.hidden.extra_pnginfo or {}), "reelwire": note}
    texts = {name.encode(errors="replace").decode(): _json(value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text}


def _json(value: object) -> str:
    """A value as JSON; empty where there is none, or it lies too deep to be written: no video is lost for that."""
    try:
        return "" if value is None else json.dumps(value)
    except (RecursionError, ValueError):
        return ""


def _as_sent(prompt: JsonObject | None) -> JsonObject | None:
    """A prompt without the fingerprints that the host adds to it: the same inputs make the same file."""
    if prompt is None:
        return None
    return {name: {key: node[key] for key in node if key != "is_changed"} for name, node in prompt.items()}


# ---------------------------------------------------------------- files that went away


@dataclass
class _Written:
    """A file that a node has written. gone: whether it was missing once."""

    path: Path
    gone: bool = False
    noted: bool = False


_written: dict[str, list[_Written]] = {}  # by node and its own inputs; the host keeps what it made of them


def remember_file(cls: type[io.ComfyNode], path: Path) -> None:
    """Keep in mind that the running node has written a file, as its result rests on it."""
    _written.setdefault(_key(cls, _inputs(cls)), []).append(_Written(path))


def files_gone(cls: type[io.ComfyNode], inputs: JsonObject) -> int:
    """How many files that a node has written of these inputs are not there any more: part of its fingerprint, so that
    the host runs it again instead of answering with a file that is gone."""
    files = _written.get(_key(cls, inputs), [])
    for file in files:
        file.gone = file.gone or not file.path.exists()
    return sum(file.gone for file in files)


def gone_notes(cls: type[io.ComfyNode]) -> list[str]:
    """What the running node says of its files that were missing when the prompt came, each once."""
    files = [file for file in _written.get(_key(cls, _inputs(cls)), []) if file.gone and not file.noted]
    for file in files:
        file.noted = True
    return [message("file_gone", file=file.path.name) for file in files]


def _inputs(cls: type[io.ComfyNode]) -> JsonObject:
    """The running node's inputs as the prompt has them."""
    inputs: JsonObject = get_progress_state().dynprompt.get_node(cls.hidden.unique_id)["inputs"]
    return inputs


def _key(cls: type[io.ComfyNode], inputs: JsonObject) -> str:
    """A node and what its widgets hold; what links bring is not known before it runs."""
    plain = {name: value for name, value in inputs.items() if isinstance(value, (str, int, float))}
    return json.dumps([cls.__name__, str(cls.hidden.unique_id), plain], sort_keys=True)
