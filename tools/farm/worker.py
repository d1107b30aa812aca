"""A worker of the farm: a ComfyUI of its own on a private port, which takes one job after another."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...loaders.parts import JsonObject
from ...samplers.parallel.scratch import Scratch
from ..websocket import ADDRESS, messages, open_websocket
from .keeper import ENDED

BOOT_SECONDS = 300
LEAVE_SECONDS = 15
SAMPLE_SECONDS = 0.5  # between two looks at the memory
ENDS = ("execution_success", "execution_error", "execution_interrupted")
KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class FarmGreeting:
    """What a worker is told first.

    host: the folder of ComfyUI; base: its base directory, with the models; REELWIRE_COMFYUI and REELWIRE_BASE of a
    machine go before them. has_base: whether that is another folder than ComfyUI's. flags: for its start.
    """

    host: str
    base: str
    has_base: bool
    flags: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class FarmWork:
    """A prompt to run. save: the node whose file is meant; empty: the only one that saves."""

    key: str
    prompt: dict[str, JsonObject]
    save: str


@dataclass(frozen=True)
class Made:
    """A file. seconds: how long it took; ram, vram: bytes seen at most; texts: what nodes said."""

    ending: str
    content: bytes
    seconds: float
    ram: int
    vram: int
    machine: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmade:
    """Why there is no file. is_lost: whether ComfyUI itself is gone, so that another worker may make it."""

    words: str
    machine: str
    is_lost: bool = False


@dataclass
class _Bench:
    """What this process has."""

    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    scratch: Scratch | None = None
    folder: Path = Path()
    log: Path = Path()
    look: tuple[int, int] = (0, 0)
    ram: int = 0
    vram: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


_bench = _Bench()


class GoneError(ConnectionError):
    """ComfyUI has ended."""


def machine() -> str:
    """The name of this machine, and the process."""
    return f"{socket.gethostname()} ({os.getpid()})"


def versions() -> dict[str, str]:
    """What must be the same on all machines."""
    from ...samplers.parallel.versions import versions

    return versions()


def hello(greeting: FarmGreeting) -> tuple[str, list[str]]:
    """Start ComfyUI; (the name of this machine, what is not as the one who asks has it, in words)."""
    from ...samplers.parallel.versions import differences

    wrong = differences(greeting.versions)
    host = Path(os.environ.get("REELWIRE_COMFYUI") or greeting.host)
    if not (host / "main.py").is_file():
        wrong.append(f"{host} is no ComfyUI")
    if not wrong:
        _start(host, greeting)
    return machine(), [*wrong]


def _start(host: Path, greeting: FarmGreeting) -> None:
    """A ComfyUI whose output, user data and port are this worker's alone."""
    _bench.scratch = Scratch("farm")
    _bench.folder = _bench.scratch.path
    for name in ("output", "temp", "user"):
        (_bench.folder / name).mkdir()
    with socket.create_server((ADDRESS, 0)) as server:
        _bench.port = int(server.getsockname()[1])
    places: list[object] = ["--output-directory", _bench.folder / "output", "--temp-directory", _bench.folder / "temp"]
    places += ["--user-directory", _bench.folder / "user", "--database-url", "sqlite:///:memory:"]
    base = os.environ.get("REELWIRE_BASE") or greeting.base
    if greeting.has_base:
        places += ["--base-directory", base]
    command = [
        sys.executable,
        KEEPER,
        _bench.folder,
        sys.executable,
        "main.py",
        "--listen",
        ADDRESS,
        "--port",
        _bench.port,
    ]
    command += ["--disable-api-nodes", *places, *greeting.flags, *_device_flags()]
    _bench.log = _bench.folder / "comfyui.log"
    with _bench.log.open("wb") as log:
        _bench.process = subprocess.Popen(
            [*map(str, command)], cwd=host, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        _check_alive()
        with suppress(OSError, http.client.HTTPException):
            if _call("/system_stats")[0] == http.HTTPStatus.OK:
                return
        time.sleep(0.2)
    raise GoneError(f"ComfyUI did not answer within {BOOT_SECONDS} s. {_tail()}")


def _device_flags() -> list[str]:
    import torch

    kinds = torch.cuda, getattr(torch, "xpu", None), getattr(torch, "npu", None), torch.backends.mps
    return [] if any(kind is not None and kind.is_available() for kind in kinds) else ["--cpu"]


def _check_alive() -> None:
    if _has_ended():
        raise GoneError(f"ComfyUI has ended. {_tail()}")


def _has_ended() -> bool:
    return _bench.process is None or _bench.process.poll() is not None or (_bench.folder / ENDED).exists()


def _tail() -> str:
    """The end of its log."""
    try:
        lines = _bench.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line[:200] for line in lines[-5:])


def _call(path: str, body: JsonObject | None = None) -> tuple[int, str]:
    """One request to ComfyUI: its status and text."""
    with closing(http.client.HTTPConnection(ADDRESS, _bench.port, timeout=60)) as connection:
        connection.request("POST" if body is not None else "GET", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")


def work(job: FarmWork) -> Made | Unmade:
    """Make a file."""
    _bench.stop.clear()
    _bench.look, _bench.ram, _bench.vram = (0, 0), 0, 0
    over = threading.Event()
    watching = threading.Thread(target=_watch_memory, args=(over,), daemon=True)
    watching.start()
    try:
        return _made(job)
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        time.sleep(SAMPLE_SECONDS)  # its keeper says so a moment later
        is_lost = _has_ended()
        return Unmade(f"{error} {_tail() if is_lost else ''}".strip(), machine(), is_lost)
    finally:
        over.set()
        watching.join()


def _made(job: FarmWork) -> Made | Unmade:
    began = time.monotonic()
    for _ in range(2):  # a file that an earlier run made may be gone: ComfyUI then hands on what it remembers of it
        outputs, words = _run(job.prompt)
        if words:
            return Unmade(words, machine())
        files = _saved(outputs, job.save)
        if len(files) != 1:
            rule = "the workflow saved no file" if not files else f"the workflow saved {len(files)} files"
            return Unmade(f"{rule}; one is wanted: name the node that saves it by --save", machine())
        if files[0].is_file():
            content = files[0].read_bytes()
            files[0].unlink()
            texts = tuple(str(text) for output in outputs.values() for text in output.get("text", ()))
            seconds = time.monotonic() - began
            return Made(files[0].suffix, content, seconds, _bench.ram, _bench.vram, machine(), texts)
        _call("/free", {"free_memory": True, "unload_models": True})
    return Unmade("the file that the workflow saved is not there", machine())


def _saved(outputs: dict[str, JsonObject], save: str) -> list[Path]:
    """The files that nodes have put into the output folder."""
    of_nodes = (output for key, output in outputs.items() if save in ("", key))
    groups = (group for output in of_nodes for group in output.values() if isinstance(group, list))
    items = [item for group in groups for item in group if isinstance(item, dict) and item.get("type") == "output"]
    return [_bench.folder / "output" / item.get("subfolder", "") / item["filename"] for item in items]


def _run(prompt: dict[str, JsonObject]) -> tuple[dict[str, JsonObject], str]:
    """(what each node put out, why it failed)."""
    _check_alive()
    client = os.urandom(16).hex()
    with closing(open_websocket(_bench.port, f"/ws?clientId={client}")) as stream:
        status, text = _call("/prompt", {"prompt": prompt, "client_id": client})
        answer: JsonObject = json.loads(text) if text.startswith("{") else {"error": {"message": text}}
        errors = [
            f"{node['class_type']}: {error['message']}: {error['details']}"
            for node in dict(answer.get("node_errors") or {}).values()
            for error in node["errors"]
        ]
        if status != http.HTTPStatus.OK or errors:
            head = dict(answer.get("error") or {}).get("message", "")
            return {}, "; ".join(filter(None, [str(head), *errors]))
        words = _follow(stream, answer["prompt_id"])
    if words:
        return {}, words
    return _outputs(answer["prompt_id"]), ""


def _outputs(prompt_id: str) -> dict[str, JsonObject]:
    """What each node put out; ComfyUI lists it a moment after the end."""
    while True:
        _, text = _call(f"/history/{prompt_id}")
        if prompt_id in (history := json.loads(text)):
            return dict(history[prompt_id]["outputs"])
        _check_alive()
        time.sleep(0.02)


def _follow(stream: object, prompt_id: str) -> str:
    """Wait until a prompt ends; why it failed, empty where it did not."""
    halted = False
    for event in messages(stream):  # type: ignore[arg-type]
        if not isinstance(event, str):
            continue
        content = json.loads(event)
        kind, data = content["type"], content["data"]
        if _bench.stop.is_set() and not halted:
            halted = True
            _call("/interrupt", {})
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            _bench.look = int(data["value"]), int(data["max"])
        elif kind == "execution_error":
            return f"{data['node_type']}: {str(data['exception_message']).strip()}"
        elif kind == "execution_interrupted":
            return "it was interrupted"
        elif kind == "execution_success":
            return ""
    return "ComfyUI ended the connection"


def _watch_memory(over: threading.Event) -> None:
    """Note the most that ComfyUI holds until the job is over."""
    import psutil

    while not over.wait(SAMPLE_SECONDS):
        with suppress(Exception):
            parent = psutil.Process(_bench.process.pid if _bench.process else 0)
            held = sum(each.memory_info().rss for each in parent.children(recursive=True))
            _bench.ram = max(_bench.ram, held)
            cards = json.loads(_call("/system_stats")[1])["devices"]
            used = sum(card["vram_total"] - card["vram_free"] for card in cards if card["type"] != "cpu")
            _bench.vram = max(_bench.vram, used)


def look(_: bool) -> tuple[int, int]:
    """(steps done, in all) of the node that runs."""
    return _bench.look


def halt() -> None:
    """Stop the job under way."""
    _bench.stop.set()
    with suppress(OSError, http.client.HTTPException):
        _call("/interrupt", {})


def rest() -> None:
    """Have ComfyUI give its memory back."""
    with suppress(OSError, http.client.HTTPException):
        _call("/free", {"unload_models": True, "free_memory": True})


def leave() -> None:
    """End ComfyUI; its keeper removes what it has left."""
    process = _bench.process
    if _bench.scratch is not None:
        _bench.scratch.release()
    if process is not None and process.stdin is not None:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)


OFFERED: dict[str, Callable[..., object]] = {
    "hello": hello,
    "work": work,
    "look": look,
    "halt": halt,
    "rest": rest,
    "leave": leave,
}
