"""The output folder: new files in it, what goes into them beside their content, and whether they are still there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui
from comfy_execution.progress import get_progress_state

from ...loaders.files import cause_unwritten, check_writable
from ...loaders.messages import InputError, message
from ...loaders.parts import JsonObject
from .names import FORBIDDEN, check_prefix, nodes_of, parts, resolved


def output_folder() -> Path:
    """The host's output folder."""
    return Path(folder_paths.get_output_directory())


def output_file(
    cls: type[io.ComfyNode], prefix: str, suffix: str, width: int, height: int, kept: bool = True
) -> tuple[Path, str, list[str]]:
    """(the next file name in the output folder, its subfolder, notes) for a file name prefix of a node. The name is
    not taken yet: another process may be faster. Raises InputError or OSError, in words, where nothing can be written
    there. kept: False for the host's folder of temporary files."""
    prefix, notes = _resolved(cls, prefix)
    path, subfolder = _proved(prefix, suffix, width, height, kept)
    return path, subfolder, notes


def check_output(cls: type[io.ComfyNode], prefix: str, suffix: str, kept: bool = True) -> None:
    """Raise InputError or OSError, in words and before anything is made for it, where no file can be written for a file
    name prefix of a node: the same as `output_file`, as far as it does not depend on the size of the video."""
    prefix, _ = _resolved(cls, prefix)
    *folders, name = parts(prefix)
    known = takewhile(lambda folder: not _SIZE.search(folder), folders)
    _proved("/".join([*known, name]), suffix, 0, 0, kept)


def shown_file(path: Path, subfolder: str, kept: bool = True) -> JsonObject:
    """What the page is told of a video file that `output_file` has named."""
    folder = io.FolderType.output if kept else io.FolderType.temp
    return ui.PreviewVideo([ui.SavedResult(path.name, subfolder, folder)]).as_dict()


_SIZE = re.compile("%(width|height)%")


def _resolved(cls: type[io.ComfyNode], prefix: str) -> tuple[str, list[str]]:
    """(a file name prefix of a node with what its tokens stand for, notes); raises InputError."""
    check_prefix(prefix)
    prompt, extra = (getattr(cls.hidden, name, None) or {} for name in ("prompt", "extra_pnginfo"))
    resolved_prefix, notes = resolved(prefix, nodes_of(prompt, extra.get("workflow"), _titles()))
    return "/".join(parts(resolved_prefix)), notes


def _proved(prefix: str, suffix: str, width: int, height: int, kept: bool) -> tuple[Path, str]:
    """(the next file name for a resolved prefix, its subfolder): a file of this name can be written."""
    root = folder_paths.get_output_directory() if kept else folder_paths.get_temp_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
        path = Path(folder) / f"{name}_{counter:05}_{suffix}"
        check_writable(path)
    except OSError as error:
        where = "/".join(parts(prefix)[:-1]) or "."
        raise OSError(message("output_unwritable", folder=where, error=cause_unwritten(error))) from error
    except Exception as error:
        if type(error) is not Exception:  # which is the host's own, of a folder that is a link to elsewhere
            raise
        raise InputError("filename_prefix", prefix, message("prefix_is_link"), message("use_prefix")) from error
    return path, subfolder


def _titles() -> Mapping[str, str]:
    """Node type -> what the host calls it. Its module has the name of a room of this pack."""
    return getattr(sys.modules.get("nodes"), "NODE_DISPLAY_NAME_MAPPINGS", {})


def beside_output(prefix: str, suffix: str) -> Path:
    """A name in the output folder that stays the same for a prefix, whatever its tokens stand for; raises InputError
    where its folder is a link to elsewhere."""
    names = (FORBIDDEN.sub("_", name) for name in parts(f"{prefix}{suffix}"))
    path = Path(os.path.normpath(output_folder().joinpath(*names)))
    if not folder_paths.is_within_directory(str(output_folder()), str(path.parent)):
        raise InputError("filename_prefix", prefix, message("prefix_is_link"), message("use_prefix"))
    return path


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


MOST_RESULTS, MOST_FILES = 1000, 16


@dataclass
class _Written:
    """A file that a node has written. gone: whether it was missing once."""

    path: Path
    gone: bool = False
    noted: bool = False


@dataclass
class _Results:
    """The last files of a node and its own inputs. lost: how many of those before were gone, which still counts."""

    files: deque[_Written] = field(default_factory=partial(deque, maxlen=MOST_FILES))
    lost: int = 0

    def add(self, path: Path) -> None:
        if len(self.files) == MOST_FILES:
            self.lost += self.files[0].gone
        self.files.append(_Written(path))


_written: OrderedDict[str, _Results] = OrderedDict()  # the last by node and its own inputs, the latest at the end


def remember_file(cls: type[io.ComfyNode], path: Path) -> None:
    """Keep in mind that the running node has written a file, as its result rests on it."""
    key = _key(cls, _inputs(cls))
    _written.setdefault(key, _Results()).add(path)
    _written.move_to_end(key)
    while len(_written) > MOST_RESULTS:
        _written.popitem(last=False)


def files_gone(cls: type[io.ComfyNode], inputs: JsonObject) -> int:
    """How many files that a node has written of these inputs are not there any more: part of its fingerprint, so that
    the host runs it again instead of answering with a file that is gone."""
    key = _key(cls, inputs)
    if key not in _written:
        return 0
    _written.move_to_end(key)  # what the host still answers with is not forgotten
    results = _written[key]
    for file in results.files:
        file.gone = file.gone or not file.path.exists()
    return results.lost + sum(file.gone for file in results.files)


def gone_notes(cls: type[io.ComfyNode]) -> list[str]:
    """What the running node says of its files that were missing when the prompt came, each once."""
    results = _written.get(_key(cls, _inputs(cls)), _Results())
    files = [file for file in results.files if file.gone and not file.noted]
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
