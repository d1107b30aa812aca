"""Videos that know how they were made: ours by themselves, those from files by what stands in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comfy_api.latest import Input, InputImpl

from ....loaders.parts import JsonObject
from ....loaders.weights.json_files import parse_json
from ..arrivals import opened_video
from ..latents import checked_note
from .meter import Run


class MadeVideo(InputImpl.VideoFromFile):
    """A VIDEO from a file that a node of ours has written. A part that is cut from it does not know this any more."""

    def __init__(self, path: Path, note: Mapping[str, object], run: Run | None) -> None:
        super().__init__(str(path))
        self.note, self.run = dict(note), run


def made_video(path: Path, note: object, run: Run | None) -> MadeVideo:
    """The VIDEO of a file that was just written. note: what its latents say of themselves."""
    return MadeVideo(path, checked_note(note if note is not None else {})[0], run)


def about_video(video: Input.Video, name: str) -> tuple[JsonObject, Run | None]:
    """(how a VIDEO was made, empty where it does not say it; what that has cost, None where that is not known). name:
    of the input."""
    if isinstance(video, MadeVideo):
        return video.note, video.run
    if not isinstance(video, InputImpl.VideoFromFile):
        return {}, None
    with opened_video(video, name) as file:
        text = next(
            (value for tag, value in file.metadata.items() if tag.lower() == "reelwire"), ""
        )  # REELWIRE in webm
    try:
        return checked_note(parse_json(text, infinite=True) if text else {})[0], None
    except ValueError:
        return {}, None  # anybody may have written it
