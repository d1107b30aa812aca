"""A real ComfyUI for the tests: boots it, talks to it and reads the videos that it makes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...bench.templates.inputs import write_clip
from .tiny import changed, on_tiny_files

ROOT = Path(__file__).parents[2]
PACK = "reelwire"
OPTIONS = ("--disable-api-nodes", "--database-url", "sqlite:///:memory:")
BOOT_SECONDS, RUN_SECONDS, DUMP_SECONDS = 300, 300, 2
# seconds between two looks for the end of a run: many end at once, others take long
FIRST_LOOK, LAST_LOOK = 0.005, 0.05
TINY_CLIP = 64, 49  # pixels and frames of a clip that tiny models start from
ENDS = ("execution_success", "execution_error", "execution_interrupted")
BOOTED = dict[str, "Host"]()  # by their addresses, those that run
THREADS = ROOT / "tests" / "support" / "hung" / "pack"
_COLOURS = count()  # of pictures that no cache knows
PREVIEW = 1  # the host's BinaryEventTypes.PREVIEW_IMAGE

HostKind = TypeVar("HostKind", bound="Host")
Prompt = dict[str, dict[str, Any]]
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass
class Seen:
    """What a client saw of one run: (type, data) of each event, and the preview pictures' bytes in order."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == kind]


class Refusal(NamedTuple):
    """All that the user is told about a prompt that failed, and the types of the nodes that were done by then."""

    message: str
    done: tuple[str, ...]


@dataclass(frozen=True)
class Host:
    """A running ComfyUI whose folders lie in `base`; `log` grows with what it prints."""

    url: str
    base: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    log: bytearray = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def send(self, path: str, data: Mapping[str, Any] | bool) -> tuple[int, Any]:
        """(status, answer) of a POST."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read() or b"null")

    def post(self, prompt: Prompt, workflow: Any = None) -> dict[str, Any]:
        """Run a prompt to success; its history entry. workflow: the UI form that the page would send along."""
        entry = self.run(prompt, workflow)
        assert entry["status"]["status_str"] == "success", failure(entry)
        return entry

    def refuse(self, prompt: Prompt) -> Refusal:
        """What happens to a prompt that must fail: by validation, or by the node that stops."""
        status, answer = self.queue(prompt)
        if status != 200:
            return Refusal(failure_before(answer), ())
        entry = self.wait(answer["prompt_id"])
        assert entry["status"]["status_str"] == "error", f"This was accepted: {json.dumps(prompt)}"
        done = next(data["executed"] for kind, data in entry["status"]["messages"] if kind == "execution_error")
        return Refusal(failure(entry), tuple(prompt[name]["class_type"] for name in done))

    def run(self, prompt: Prompt, workflow: Any = None) -> dict[str, Any]:
        """Run a prompt to its end; its history entry."""
        extra = {} if workflow is None else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}
        status, answer = self.queue(prompt, **extra)
        assert status == 200, failure_before(answer)
        return self.wait(answer["prompt_id"])

    def queue(self, prompt: Prompt, **extra: Any) -> tuple[int, Any]:
        return self.send("/prompt", {"prompt": prompt, **extra})

    def wait(self, prompt_id: str) -> dict[str, Any]:
        end, pause = time.monotonic() + RUN_SECONDS, FIRST_LOOK
        while time.monotonic() < end:
            self.check()
            entries = self.get(f"/history/{prompt_id}")
            if prompt_id in entries:
                return entries[prompt_id]
            time.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)
        raise TimeoutError(f"The prompt did not end in {RUN_SECONDS} s.\n{self.threads()}")

    def watch(
        self, prompt: Prompt, on_event: OnEvent = lambda *_: None, previews: str = "default", workflow: Any = None
    ) -> Seen:
        """Run a prompt to its end as the page does; on_event is called with each event when it arrives.

        previews: the page's setting, "none" for the host's own default. workflow: the UI form that the page would send
        along.
        """
        with ThreadPoolExecutor(1) as pool:  # a loop of its own: Playwright keeps one running in the test's thread
            return pool.submit(asyncio.run, self._watch(prompt, on_event, previews, workflow)).result()

    async def _watch(self, prompt: Prompt, on_event: OnEvent, previews: str, workflow: Any) -> Seen:
        import aiohttp

        client, seen = uuid.uuid4().hex, Seen()
        socket_url = f"{self.url.replace('http', 'ws')}/ws?clientId={client}"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=RUN_SECONDS)) as session,
            session.ws_connect(socket_url, max_msg_size=0) as stream,
        ):
            extra = {"preview_method": previews, **({"extra_pnginfo": {"workflow": workflow}} if workflow else {})}
            status, answer = self.queue(prompt, client_id=client, extra_data=extra)
            assert status == 200, failure_before(answer)
            async for message in stream:
                if message.type == aiohttp.WSMsgType.BINARY:
                    seen.pictures += [message.data[8:]] if int.from_bytes(message.data[:4], "big") == PREVIEW else []
                    continue
                event = json.loads(message.data)
                seen.events.append((event["type"], event["data"]))
                on_event(event["type"], event["data"])
                if event["type"] in ENDS:
                    return seen
        raise AssertionError(f"The host closed the connection.\n{self.tail()}")

    def free(self) -> None:
        """Drop all models and cached results; the run after it makes everything anew.

        The host's worker comes to it between two prompts, so when the second one ends it has been done.
        """
        self.send("/free", {"unload_models": True, "free_memory": True})
        for _ in range(2):
            self.post_nothing()

    def post_nothing(self) -> None:
        """A prompt that needs none of the results that the host keeps."""
        self.post(
            {
                "1": node("EmptyImage", width=16, height=16, batch_size=1, color=next(_COLOURS)),
                "2": node("PreviewImage", images=["1", 0]),
            }
        )

    def check(self) -> None:
        """Fail with the log's end if the host is dead."""
        assert self.process.poll() is None, f"ComfyUI ended with {self.process.returncode}.\n{self.tail()}"

    def tail(self) -> str:
        return self.log.decode(errors="replace")[-4000:]

    def threads(self) -> str:
        """The end of its log, and what each of its threads does where there are signals to ask for it."""
        end, before = self.tail(), len(self.log)
        if hasattr(signal, "SIGUSR1"):
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(DUMP_SECONDS)
        return end + self.log[before:].decode(errors="replace")

    def videos(self, entry: Mapping[str, Any]) -> list[Path]:
        """The mp4 files that a run wrote."""
        shown = [file for output in entry["outputs"].values() for file in output.get("images", [])]
        files = [self.base / "output" / f["subfolder"] / f["filename"] for f in shown if f["type"] == "output"]
        return [f for f in files if f.suffix == ".mp4"]


@contextmanager
def boot(
    comfyui: Path,
    base: Path,
    options: tuple[str, ...] = ("--cpu",),
    environment: Mapping[str, str] | None = None,
    packs: Mapping[str, Path] | None = None,
    kind: type[HostKind] = Host,  # type: ignore[assignment]
) -> Iterator[HostKind]:
    """ComfyUI from its folder, with this pack in a base directory that is empty, or was booted before.

    options: how it starts; environment: variables beside this process's; packs: name -> folder of more custom nodes;
    kind: what talks to it.
    """
    for name in ("custom_nodes", "input"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, folder in {PACK: ROOT, "reelwire_threads": THREADS, **(packs or {})}.items():
        if not (base / "custom_nodes" / name).exists():
            (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
    for file in (ROOT / "workflows" / "inputs").iterdir():  # as the page puts them there when a template is opened
        shutil.copy(file, base / "input")
    write_clip(base / "input" / "tiny_clip.mp4", *TINY_CLIP)
    port, log = _free_port(), bytearray()
    command = [sys.executable, "main.py", "--port", str(port), "--base-directory", str(base), *OPTIONS, *options]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # a pipe and not a file: a test limits how large the host's files may grow
    with subprocess.Popen(command, cwd=comfyui, env={**os.environ, **(environment or {})}, **streams) as process:
        assert process.stdout is not None

        def read() -> None:
            for line in process.stdout or ():
                log.extend(line)

        reader = threading.Thread(target=read)
        reader.start()
        host = kind(f"http://127.0.0.1:{port}", base, process, log)
        BOOTED[host.url] = host
        try:
            _wait_for_boot(host)
            yield host
        finally:
            del BOOTED[host.url]
            process.terminate()
            process.wait(30)
            reader.join(30)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _wait_for_boot(host: Host) -> None:
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        host.check()
        try:
            host.get("/system_stats")
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not answer in {BOOT_SECONDS} s.\n{host.tail()}")


def failure(entry: Mapping[str, Any]) -> str:
    """What a finished run's errors say: the node that stopped and its message."""
    errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    return "\n".join(f"{e['node_type']}: {e['exception_message'].strip()}" for e in errors)


def failure_before(answer: Mapping[str, Any]) -> str:
    """What the host says about a prompt that it does not start."""
    nodes = [
        f"{n['class_type']}: {e['message']}: {e['details']}"
        for n in answer["node_errors"].values()
        for e in n["errors"]
    ]
    return "\n".join([f"{answer['error']['message']}: {answer['error']['details']}", *nodes])


def cached(entry: Mapping[str, Any]) -> list[str]:
    """Ids of the nodes whose results a run took from earlier ones."""
    return [name for kind, data in entry["status"]["messages"] if kind == "execution_cached" for name in data["nodes"]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of an API prompt; an input is a value or a link ["id", output]."""
    return {"class_type": class_type, "inputs": inputs}


def guidance(**changes: Any) -> dict[str, Any]:
    """The Guidance node on the model of node "1", with some inputs that are not as they come."""
    plain = {"method": "cfg", "start": 0.0, "end": 1.0, "low_noise_guidance": 0.0, "true_guidance": 0.0}
    layers = {"dynamic": False, "layers": "", "layer_scale": 2.8, "layer_start": 0.01, "layer_end": 0.2}
    apg = {"eta": 1.0, "momentum": 0.0, "threshold": 15.0}
    return node("ReelwireGuidance", model=["1", 0], **{**plain, **layers, **apg, **changes})


def shipped(name: str) -> Prompt:
    """A shipped API workflow as it is, with the published files that it names."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def workflow(name: str, changes: Mapping[str, Any] | None = None) -> Prompt:
    """A shipped API workflow on tiny files, with {"3.steps": 2} set as inputs and {"9": node(...)} put in."""
    return changed(on_tiny_files(name, shipped(name)), changes or {})


def frames(video: Path) -> np.ndarray:
    """All frames [T, H, W, 3] of a video."""
    import av

    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def digest(video: Path) -> str:
    """A hash of a video's frames, whatever else the file holds."""
    return hashlib.sha256(frames(video).tobytes()).hexdigest()
