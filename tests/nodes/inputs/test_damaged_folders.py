"""Damaged files in ComfyUI's folders disturb no loader and no sound file; a library that panics ends no thread."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.messages import Message, message_of

INDEXES: dict[str, bytes] = {
    "deep": b'{"_class_name":' * 10**5,
    "list": b"[1, 2]",
    "null": b"null",
    "text": b'"WanPipeline"',
    "empty": b"",
    "zeros": bytes(100),
    "number": b'{"_class_name": 3}',
    "object": b'{"_class_name": {"a": "WanPipeline"}}',
    "nameless": b"{}",
    "digits": b'{"_class_name": ' + b"9" * 5000 + b"}",
    "half": b'{"_class_name": "Wan\\ud800"}',
    "latin": '{"_class_name": "Wän"}'.encode("latin-1"),
    "large": b'{"_class_name": "' + b"W" * 5 * 2**20 + b'"}',
}


@pytest.fixture
def strange_folders(nodes: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/diffusers and models/diffusion_models with every kind of damage, and a sound folder among it."""
    import folder_paths

    root, single = tmp_path / "diffusers", tmp_path / "diffusion_models"
    for name, content in INDEXES.items():
        (root / name).mkdir(parents=True)
        (root / name / "model_index.json").write_bytes(content)
    for name in ("pipe", "folder", "device", "gone"):
        (root / name).mkdir()
    os.mkfifo(root / "pipe" / "model_index.json")
    (root / "folder" / "model_index.json").mkdir()
    (root / "device" / "model_index.json").symlink_to("/dev/zero")
    (root / "gone" / "model_index.json").symlink_to("nowhere")
    (root / "gone" / "more.txt").symlink_to("nowhere")
    for link in ("up", "round", "again"):
        (root / "list" / link).symlink_to(root)
    (root / "sound").mkdir()
    (root / "sound" / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    single.mkdir()
    (single / "folder.gguf").mkdir()
    (single / "empty.safetensors").write_bytes(b"")
    (single / "gone.safetensors").symlink_to("nowhere")
    os.mkfifo(single / "pipe.safetensors")
    os.mkfifo(single / "pipe.gguf")
    shutil.copy(__file__, single / "python.gguf")
    for kind, folder in (("diffusers", root), ("diffusion_models", single)):
        known = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], known[1]))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def test_every_loader_is_listed_with_what_is_sound(strange_folders: Path) -> None:
    from reelwire.nodes import ReelwireExtension

    with ThreadPoolExecutor() as pool:  # tests of the page leave an event loop running in this thread
        listed = pool.submit(asyncio.run, ReelwireExtension().get_node_list()).result()
    loaders = {node.define_schema().node_id: node for node in listed if "Load" in node.define_schema().node_id}
    assert {"ReelwireLoadWan", "ReelwireLoadLTX", "ReelwireLoadSVD", "ReelwireLoadMochi"} <= loaders.keys()
    options = {
        name: node.define_schema().inputs[0].options for name, node in loaders.items() if name != "ReelwireLoadLatent"
    }
    assert "bundled/tiny_ltx" in options["ReelwireLoadLTX"]
    assert "diffusers/sound" in options["ReelwireLoadWan"]
    assert not {f"diffusers/{name}" for name in INDEXES} & {*options["ReelwireLoadWan"]}
    assert not [name for names in options.values() for name in names if "/up/" in name or "folder.gguf" in name]


def test_any_file_of_the_folders_is_refused_in_words(strange_folders: Path) -> None:
    from reelwire.loaders.messages import RefusedError
    from reelwire.nodes import host
    from reelwire.nodes.loaders import NODES

    wan = next(node for node in NODES if node.define_schema().node_id == "ReelwireLoadWan")
    for name in host.checkpoints():
        assert wan.fingerprint_inputs(checkpoint=name)
        if "bundled" not in name and "sound" not in name:
            with pytest.raises(RefusedError):
                wan.execute(checkpoint=name)


# ---------------------------------------------------------------- panics


class PanicException(BaseException):
    """What a panic in Rust becomes; pyo3's own has no module to import it from."""


def panic(*_: Any, **__: Any) -> Any:
    raise PanicException("index out of bounds: the len is 3 but the index is 7")


def test_a_panic_of_a_tokenizer_names_its_file(nodes: list[Any]) -> None:
    from reelwire.loaders.common.tokenizer_files import reading
    from reelwire.loaders.messages import CheckpointError

    for source in (Path("folder/tokenizer"), Path("file.safetensors")):
        with pytest.raises(CheckpointError) as refused, reading(source):
            panic()
        assert source.name in str(refused.value)
        assert isinstance(refused.value.rule, Message)


@pytest.mark.parametrize("call", ["execute", "check_lazy_status", "fingerprint_inputs", "validate_inputs"])
def test_a_panic_in_any_call_of_a_node_is_an_exception(nodes: list[Any], call: str) -> None:
    from comfy_api.latest import io
    from reelwire.nodes.host import speaking, valid

    class Panics(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            text = io.String.Input("text", default="", lazy=True)
            return io.Schema("ReelwireTestPanics", inputs=[text], outputs=[])

        @classmethod
        def execute(cls, text: str) -> io.NodeOutput:
            return io.NodeOutput(panic())

        @classmethod
        def check_lazy_status(cls, text: str) -> list[str]:
            return list(panic())

        @classmethod
        def fingerprint_inputs(cls, text: str) -> str:
            return str(panic())

        @classmethod
        def validate_inputs(cls, text: str) -> bool | str:
            return valid((panic, text))

    node: Any = speaking(Panics)
    if call == "validate_inputs":
        assert "index out of bounds" in node.validate_inputs(text="a")
        return
    with pytest.raises(Exception, match="index out of bounds") as refused:
        getattr(node, call)(text="a")
    assert isinstance(refused.value, ValueError if call != "execute" else Exception)
    assert isinstance(message_of(refused.value), Message)


@pytest.mark.parametrize("ends", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "Interrupted"])
def test_what_is_meant_to_end_a_run_does(nodes: list[Any], ends: str) -> None:
    import builtins

    from reelwire.nodes.host import Interrupted
    from reelwire.nodes.host.notes import contained

    kind = Interrupted if ends == "Interrupted" else getattr(builtins, ends)
    with pytest.raises(kind), contained():
        raise kind


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_prompt_that_ends_by_an_error_holds_nothing(nodes: list[Any], interrupted: bool, later: bool) -> None:
    """The host's functions hold a node's inputs, its task, the error and the traceback, each of them in circles.

    later: as a node that is waited for elsewhere, while others run.
    """
    from reelwire.nodes.host import Interrupted
    from reelwire.nodes.host.notes import _watch_prompt

    kind = Interrupted if interrupted else ValueError

    async def node(model: object) -> None:
        _watch_prompt()
        await asyncio.sleep(0.01 if later else 0)
        try:
            raise KeyError("a")
        except KeyError as cause:
            raise kind("b") from cause

    async def execute(inputs: dict[str, object]) -> tuple[str, BaseException | None]:
        try:
            task = asyncio.create_task(node(**inputs))
            while not task.done():
                await asyncio.sleep(0)
            return "done", task.result()
        except (ValueError, Interrupted) as error:
            _, _, traceback = sys.exc_info()
            assert traceback is not None
            return "failed", error

    async def waiting(model: object) -> None:
        _watch_prompt()
        await asyncio.sleep(60)

    async def prompt(inputs: dict[str, object]) -> str:
        tasks = [asyncio.create_task(waiting(**inputs))]  # of another node
        together = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        how, error = await execute(inputs)
        assert not together.done()
        assert isinstance(error, kind)
        return how

    model = set[int]()
    held = weakref.ref(model)
    inputs: dict[str, object] = {"model": model}
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:  # as the host does; Playwright has a loop in the test's own
            assert pool.submit(asyncio.run, prompt(inputs)).result() == "failed"
        del model, inputs
        assert held() is None
    finally:
        gc.enable()
