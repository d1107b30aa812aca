"""Configs of diffusers and transformers folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..messages import CheckpointError as CheckpointError
from ..messages import message
from ..parts import ConfigDict
from .json_files import parse_object, read_object


class Config(dict[str, Any]):
    """A config as on disk. Asked for an entry that it lacks, it raises CheckpointError with the file's name."""

    def __init__(self, entries: Mapping[str, Any], name: str) -> None:
        super().__init__(entries)
        self.name = name

    def having(self, **entries: object) -> Config:
        """The same with these entries too."""
        return Config({**self, **entries}, self.name)

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(message("file_incomplete", file=self.name, key=key), message("download_again"))


def load_config(folder: Path, name: str = "config.json", infinite: bool = False) -> Config:
    """A diffusers or transformers config. infinite: as in `parse_json`."""
    file = folder / name
    if not file.exists():
        raise CheckpointError(
            message("config_missing", parent=folder.parent.name, folder=folder.name, file=name),
            message("download_folder"),
        )
    return Config(read_object(file, infinite=infinite), f"{file.parent.name}/{name}")


def stated_config(metadata: Mapping[str, str]) -> ConfigDict:
    """What the `config` of a safetensors header says of the network; nothing where it cannot be read."""
    try:
        network = parse_object(metadata.get("config", "{}")).get("transformer")
    except ValueError:
        return {}
    return network if isinstance(network, dict) else {}
