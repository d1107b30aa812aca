"""How often files of pictures and videos are opened and decoded, in all checks of a node and its run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from reelwire.bench.templates.inputs import write_clip
from reelwire.loaders.messages import InputError, RefusedError
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.models import open_model

NODES = ("ReelwireSampler", "ReelwireLongVideo")
FILES = ("plain.png", "alpha.png", "moving.gif", "turned.jpg")
OPENS = 5  # of a VIDEO's file: its sound, its frames, its rate, whether its sound can be copied, and to decode it


@pytest.fixture
def model(tiny_models: Path) -> VideoModel:
    return open_model(tiny_models, "tiny-ltx-0.9.5")


@pytest.fixture
def folder(tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """ComfyUI's input and output folders of this test, with pictures."""
    import folder_paths

    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    images = [Image.fromarray(np.full((48, 64, 4), n * 40, np.uint8)) for n in range(3)]
    images[0].convert("RGB").save(tmp_path / "input" / "plain.png")
    images[1].save(tmp_path / "input" / "alpha.png")
    frames = [image.convert("P") for image in images]
    frames[0].save(tmp_path / "input" / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    images[2].convert("RGB").save(tmp_path / "input" / "turned.jpg", exif=exif)
    yield tmp_path / "input"
    from reelwire.nodes import host

    host.forget_pictures()
    host.forget_video()


@pytest.fixture
def counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """By file: how often it is "decoded" and, with FFmpeg, "opened"."""
    import av
    from comfy_api.latest import InputImpl

    found: dict[str, Counter[str]] = {"decoded": Counter(), "opened": Counter()}
    load, decode, opened = ImageFile.ImageFile.load, InputImpl.VideoFromFile.get_components, av.open

    def counting_load(self: Any) -> Any:
        is_whole = self.tile and not getattr(self, "_counted", False)
        if is_whole:
            self._counted = True
            found["decoded"][Path(self.fp.name if hasattr(self.fp, "name") else self.filename).name] += 1
        return load(self)

    def counting_decode(self: Any) -> Any:
        found["decoded"][Path(self.get_stream_source()).name] += 1
        return decode(self)

    def counting_open(file: Any, *args: Any, **options: Any) -> Any:
        found["opened"][Path(str(file)).name] += 1
        return opened(file, *args, **options)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting_load)
    monkeypatch.setattr(InputImpl.VideoFromFile, "get_components", counting_decode)
    monkeypatch.setattr(av, "open", counting_open)
    return found


def story(*files: str) -> str:
    pictures = [{"at": 8 * n, "image": file} for n, file in enumerate(files)]
    return json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": "a cat"}], "keyframes": pictures})


def inputs_of(nodes: list[Any], name: str, model: VideoModel, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """(a node, its inputs at their defaults, with changes)."""
    node = next(node for node in nodes if node.define_schema().node_id == name)
    usual = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
    return node, {**usual, "model": model, "width": 64, "height": 64, "frames": 33, "steps": 4, **changes}


def run(name: str, model: VideoModel, inputs: dict[str, Any]) -> None:
    """What a node does with its inputs before anything is sampled."""
    from reelwire.nodes import host
    from reelwire.nodes.sampling.long import prepared
    from reelwire.nodes.sampling.request import request_of
    from reelwire.samplers.plan import plan

    if name == "ReelwireLongVideo":
        left_out = ("crf", "unfinished")
        prepared(**{key: value for key, value in inputs.items() if key not in left_out})
    else:
        plan(model, request_of(model, **{key: value for key, value in inputs.items() if key != "model"}))
        host.source_sound(inputs["source"])


@pytest.mark.parametrize("stages", [1, 4])
def test_a_picture_is_decoded_once(
    nodes: list[Any], model: VideoModel, folder: Path, counts: dict[str, Counter[str]], stages: int
) -> None:
    node, inputs = inputs_of(nodes, "ReelwireLongVideo", model, timeline=story(*FILES, "plain.png"))
    for _ in range(stages):
        assert node.validate_inputs(timeline=inputs["timeline"], frames=33) is True
        node.check_lazy_status(**inputs, audio=None)
    run("ReelwireLongVideo", model, inputs)
    assert counts["decoded"] == dict.fromkeys(FILES, 1)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("stages", [1, 4])
def test_videos_are_decoded_once(
    nodes: list[Any], model: VideoModel, folder: Path, counts: dict[str, Counter[str]], name: str, stages: int
) -> None:
    """And their files opened as often, whatever the number of stages in which a node waits for its inputs."""
    from comfy_api.latest import InputImpl

    write_clip(folder / "source.mp4", 64, 33)
    write_clip(folder / "sound.mp4", 64, 33)
    videos = {"source": InputImpl.VideoFromFile(str(folder / "source.mp4"))}
    if name == "ReelwireLongVideo":
        videos["audio"] = InputImpl.VideoFromFile(str(folder / "sound.mp4"))
    node, inputs = inputs_of(nodes, name, model, **videos)
    inputs |= {"timeline": story()} if "timeline" in inputs else {}
    counts["opened"].clear()
    later = {"conditioning": None} if name != "ReelwireLongVideo" else {"mask": None}
    for _ in range(stages):
        node.check_lazy_status(**inputs, **later)
    run(name, model, inputs)
    assert counts["decoded"] == {"source.mp4": 1}
    assert counts["opened"]["source.mp4"] <= OPENS
    assert counts["opened"]["sound.mp4"] <= OPENS


def test_a_file_that_changes_is_read_again(
    nodes: list[Any], model: VideoModel, folder: Path, counts: dict[str, Counter[str]]
) -> None:
    """What was looked at before is not taken for what is there now."""
    from comfy_api.latest import InputImpl
    from reelwire.nodes import host

    size = {(48, 64): None, (32, 32): None}
    assert host.input_size("plain.png") in {(64, 48)}
    first = host.input_images(["plain.png"])["plain.png"]
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(folder / "plain.png")
    assert host.input_size("plain.png") == (32, 32)
    second = host.input_images(["plain.png"])["plain.png"]
    assert (first.shape[1:3], second.shape[1:3]) == (*size,)
    write_clip(folder / "source.mp4", 64, 9)
    video = InputImpl.VideoFromFile(str(folder / "source.mp4"))
    node, inputs = inputs_of(nodes, "ReelwireSampler", model, source=video, frames=9)
    node.check_lazy_status(**inputs, conditioning=None)
    host.forget_video()
    (folder / "source.mp4").write_bytes(b"no video any more")
    with pytest.raises(RefusedError):
        node.check_lazy_status(**inputs, conditioning=None)


def test_what_cannot_work_is_refused_before_a_picture_is_decoded(
    nodes: list[Any], model: VideoModel, folder: Path, counts: dict[str, Counter[str]]
) -> None:
    node, inputs = inputs_of(nodes, "ReelwireLongVideo", model, timeline=story("plain.png"), window=18)
    with pytest.raises(RefusedError):
        node.check_lazy_status(**inputs, source=None)
    assert not counts["decoded"]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_damaged_picture_is_refused_before_the_source_is_made(
    nodes: list[Any], model: VideoModel, folder: Path, share: float
) -> None:
    """Of which the header is sound."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "plain.png")
    whole = (folder / "plain.png").read_bytes()
    (folder / "plain.png").write_bytes(whole[: int(len(whole) * share)])
    node, inputs = inputs_of(nodes, "ReelwireLongVideo", model, timeline=story("plain.png"))
    with pytest.raises(InputError) as refusal:
        node.check_lazy_status(**inputs, source=None)
    assert refusal.value.name == "timeline"


def test_pictures_that_wait_take_little_memory(
    nodes: list[Any], folder: Path, counts: dict[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    pictures = importlib.import_module("reelwire.nodes.host.pictures.named")
    monkeypatch.setattr(pictures, "MOST_WAITING", 100_000)
    for _ in range(2):
        images = pictures.input_images(FILES)
        assert [image.shape[1:] for image in images.values()] == [*[(48, 64, 3)] * 3, (64, 48, 3)]
        assert sum(image.nbytes for image, _ in pictures._waiting.values()) <= 100_000
    assert counts["decoded"].total() == 2 * len(FILES) - len(pictures._waiting)
    pictures.forget_pictures()
    assert not pictures._waiting


def test_a_video_of_another_pack_that_nothing_can_be_kept_for(nodes: list[Any]) -> None:
    """It is compared by what it holds, or has no room for a reference to it."""
    from comfy_api.latest import Input
    from reelwire.nodes import host

    class Compared(Input.Video):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def get_components(self) -> Any:
            return SimpleNamespace(images=self, audio=None, frame_rate=24)

        def get_dimensions(self) -> tuple[int, int]:
            return 64, 64

        def save_to(self, *args: Any, **options: Any) -> None:
            raise NotImplementedError

        def as_trimmed(self, *args: Any, **options: Any) -> Any:
            return None

    videos = [Compared(), Compared()]
    for _ in range(2):
        assert [host.video_frames(video) is video for video in videos] == [True, True]
        assert [host.source_rate(video) for video in videos] == [24, 24]
    host.forget_video()
