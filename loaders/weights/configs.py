"""Configs of diffusers and transformers folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..messages import CheckpointError as CheckpointError
from ..messages import message


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


def load_config(folder: Path, name: str = "config.json") -> Config:
    """A diffusers or transformers config."""
    file = folder / name
    if not file.exists():
        raise CheckpointError(
            message("config_missing", parent=folder.parent.name, folder=folder.name, file=name),
            message("download_folder"),
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            message("not_json", folder=file.parent.name, file=name), message("download_again")
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(message("no_entries", folder=file.parent.name, file=name), message("download_again"))
    return Config(config, f"{file.parent.name}/{name}")
