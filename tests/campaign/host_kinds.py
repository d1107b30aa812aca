"""Prompts, and what their nodes read, in a ComfyUI that runs: each case is one prompt."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import psutil

from ..support.files.bad_files import full_disk
from ..support.host import PACK, Host, Prompt, boot, node, workflow
from ..support.tiny_base import comfyui_folder, tiny_base
from .bases import form_of
from .draw import HOSTILE, draw
from .edits import Case, Edit, edited, json_edited
from .watch import ROOT
from .worker import NOISE

BOUND, PATIENCE = 25.0, 20.0  # seconds until a prompt is interrupted, and until it must have heard it
KEPT = 2**28  # bytes that a prompt may leave behind, the host's own caches of models included
PROBE = Path(__file__).with_name("probe")
TINY: Prompt = {
    "1": node("ReelwireLoadLTX", checkpoint="bundled/tiny_ltx", text_encoder="auto", vae="auto", precision="auto"),
    "2": node("ReelwireEncodePrompt", model=["1", 0], positive="a red circle", negative=""),
}
# shipped workflows that run in a second on tiny files, with as few steps as they can have
GRAPHS: Mapping[str, Mapping[str, Any]] = {
    "ltx_t2v": {"3.steps": 1, "3.frames": 5},
    "ltx_keyframes": {"11.steps": 1, "11.frames": 9},
    "any_cached": {"4.steps": 4, "4.frames": 5},
    "ltx_long": {"11.steps": 1},
    "wan_vace": {"7.steps": 1},
    "wan_lora_distilled": {"3.steps": 1},
    "wan22_t2v": {"4.steps": 2},
    "svd_i2v": {},
    "ltx_v2v": {},
}


@dataclass(frozen=True)
class HostKind:
    """sources: file under a base folder, or name of a graph -> its bytes as they are edited, and its form.

    place: where the edited file goes, under the host's base; empty: the edited thing is the prompt.
    prompt: what then runs, for the file's name and the case's number.
    """

    sources: Callable[[Path], Mapping[str, bytes]]
    place: str = ""
    prompt: Callable[[str, int], Prompt] = lambda name, number: {}


# ---------------------------------------------------------------- prompts


def _graph(name: str) -> Prompt:
    return workflow(name, GRAPHS[name])


def _graphs(_: Path) -> Mapping[str, bytes]:
    return {f"{name}.json": json.dumps(_graph(name)).encode() for name in GRAPHS}


def prompt_edit(random: Random, prompt: Prompt) -> Edit:
    """A value, a link, a literal where a link belongs, a link where a literal does, or a node that is gone."""
    name = random.choice(list(prompt))
    inputs = prompt[name]["inputs"]
    key, roll = random.choice(list(inputs) or ["x"]), random.random()
    links = [[other, random.randrange(3)] for other in prompt]
    if roll < 0.08:
        return ["del", [name]]
    if roll < 0.2:
        return ["del", [name, "inputs", key]]
    if roll < 0.4:
        return ["set", [name, "inputs", key], random.choice([*links, ["missing", 0], [name, 0]])]
    if roll < 0.55 and isinstance(inputs.get(key), int | float):
        return ["set", [name, "inputs", key], random.choice((inputs[key] + 1, -inputs[key], inputs[key] * 1000, 0.5))]
    if roll < 0.6:
        key, value = random.choice(("source", "mask", "keyframes", "control", "audio", "x")), random.choice([*links, 3])
        ours = prompt[name]["class_type"].startswith(
            "Reelwire"
        )  # of others the host follows links to what is not there
        return ["set", [name, "inputs", key], value if ours else 3]
    return ["set", [name, "inputs", key], random.choice([v for v in HOSTILE if "@@deep" not in str(v)])]


# ---------------------------------------------------------------- files


def _file_prompt(*more: tuple[str, dict[str, Any]], **inputs: Any) -> Prompt:
    return {**TINY, **dict(more)}


def _latents_prompt(name: str, number: int) -> Prompt:
    kind = "ReelwireLoadLatent" if name.endswith(".safetensors") else "LoadLatent"
    load = node(kind, **{"file" if kind.startswith("Reel") else "latent": name})
    decode = node(
        "ReelwireDecodeToVideo", latent=["3", 0], model=["1", 0], fps=0.0, crf=17, filename_prefix="tried/latents"
    )
    return {"1": TINY["1"], "3": load, "4": decode}


def _picture_prompt(name: str, number: int) -> Prompt:
    story = {"prompts": [{"at": 0, "text": "a red circle"}], "keyframes": [{"at": 0, "image": name}]}
    return _long(timeline=json.dumps(story), frames=17, seed=number, filename_prefix="tried/picture")


def _video_prompt(name: str, number: int) -> Prompt:
    load = node("LoadVideo", file=name)
    sampler = dict(width=64, height=64, frames=9, steps=2, guidance=1.0, sampler="default", preset="default")
    sample = node(
        "ReelwireSampler", model=["1", 0], conditioning=["2", 0], source=["3", 0], strength=0.5, seed=number, **sampler
    )
    write = node(
        "ReelwireDecodeToVideo", latent=["4", 0], model=["1", 0], fps=0.0, crf=17, filename_prefix="tried/video"
    )
    return {**TINY, "3": load, "4": sample, "5": write}


def _long(**inputs: Any) -> Prompt:
    usual: dict[str, Any] = dict(width=0, height=0, window=33, overlap=9, steps=1, guidance=1.0, sampler="default")
    usual |= dict(preset="default", frames=73, seed=1, timeline=json.dumps({"prompts": [{"at": 0, "text": "a"}]}))
    return {"1": TINY["1"], "2": node("ReelwireLongVideo", **{"model": ["1", 0], **usual, **inputs})}


def _render_prompt(name: str, number: int) -> Prompt:
    return _long(filename_prefix="tried/job", crf=0)


def _beside_prompt(name: str, number: int) -> Prompt:
    """The bundled model, and one whose parts are found among the files: neither has to do with the damaged one."""
    graph = workflow("ltx_gguf", {"3.steps": 1, "3.frames": 9, "3.seed": number, "4.filename_prefix": "tried/beside"})
    precision = ("auto", "float32")[number % 2]  # so that the loader looks for them anew
    graph["1"]["inputs"] |= {"vae": "auto", "text_encoder": "text_encoders/tiny-t5.safetensors", "precision": precision}
    return graph


def _pictures(_: Path) -> Mapping[str, bytes]:
    """A picture of each kind that Pillow writes."""
    from io import BytesIO

    from PIL import Image

    modes = {"rgb.png": "RGB", "alpha.png": "RGBA", "palette.png": "P", "deep.png": "I;16", "bits.png": "1"}
    modes |= {
        "rgb.jpg": "RGB",
        "cmyk.jpg": "CMYK",
        "rgb.webp": "RGB",
        "rgb.gif": "P",
        "rgb.bmp": "RGB",
        "rgb.tiff": "RGB",
    }
    files = {}
    for name, mode in modes.items():
        stream = BytesIO()
        Image.new(mode, (64, 64)).save(stream, {"jpg": "jpeg"}.get(name[-3:], name.partition(".")[2]))
        files[name] = stream.getvalue()
    return files


def _video(work: Path) -> Mapping[str, bytes]:
    return {"clip.mp4": (work / "base" / "input" / "tiny_clip.mp4").read_bytes()}


def _kept(_: Path) -> Mapping[str, bytes]:
    """Latents as the pack and as ComfyUI keep them."""
    import torch
    from safetensors.torch import save

    samples, note = (
        torch.zeros(1, 16, 2, 8, 8),
        {"family": "ltx", "frames": 5, "fps": 12.0, "seed": 1, "clip_frames": 0},
    )
    ours = save({"samples": samples}, {"reelwire": json.dumps(note)})
    return {
        "ltx.safetensors": ours,
        "ltx.latent": save({"latent_tensor": samples, "latent_format_version_0": samples[:0]}),
    }


def _only(files: Mapping[str, bytes], ending: str) -> Mapping[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(ending)}


def _job(work: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((work / "render").iterdir())}


def _models(work: Path) -> Mapping[str, bytes]:
    bases = work / "bases"
    files = {"vae/bad.safetensors": bases / "single" / "tiny-mochi-vae.safetensors"}
    files |= {"text_encoders/bad.safetensors": bases / "text_encoders" / "tiny-umt5.safetensors"}
    files |= {"diffusers/bad/model_index.json": bases / "models" / "tiny-mochi" / "model_index.json"}
    files |= {"diffusion_models/bad.gguf": bases / "diffusion_models" / "tiny-ltx-0.9.0-Q8_0.gguf"}
    return {name: path.read_bytes() for name, path in files.items()}


HOST_KINDS: dict[str, HostKind] = {
    "prompt": HostKind(_graphs),
    "latents": HostKind(lambda work: _only(_kept(work), "s"), "output/reelwire/latents", _latents_prompt),
    "latent": HostKind(lambda work: _only(_kept(work), ".latent"), "input", _latents_prompt),
    "picture": HostKind(_pictures, "input", _picture_prompt),
    "video": HostKind(_video, "input", _video_prompt),
    "render": HostKind(_job, "output/tried/job.unfinished", _render_prompt),
    "beside": HostKind(_models, "models", _beside_prompt),
}


@cache
def _sources(kind: str, work: Path) -> Mapping[str, bytes]:
    return HOST_KINDS[kind].sources(work)


def host_cases(work: Path, counts: Mapping[str, int], seed: int) -> Iterator[Case]:
    """The first cases of each kind from a seed."""
    for kind, count in counts.items():
        sources = _sources(kind, work)
        for number in range(count):
            random = Random(f"{seed} {kind} {number}")
            name = random.choice(list(sources))
            if kind == "prompt":
                edits = [prompt_edit(random, json.loads(sources[name])) for _ in range(random.choice((1, 1, 2)))]
            else:
                edits = draw(random, sources[name], form_of(name))
            yield Case(kind, "", name, tuple(edits), seed, number)


# ---------------------------------------------------------------- the host


@dataclass
class Tried:
    """A ComfyUI, and what it does with a case."""

    host: Host
    work: Path
    log: Path | None = None
    _read: int = 0

    @classmethod
    @contextmanager
    def boot(cls, work: Path) -> Iterator[Tried]:
        """One of its own, with tiny models and a probe that notes sockets, programs and writes."""
        base = tiny_base(work / "base")
        (base / "temp").mkdir()
        log = base / "campaign.log"
        environment = {"REELWIRE_CAMPAIGN_LOG": str(log), "TMPDIR": str(base / "temp"), "HF_HOME": str(base / "hub")}
        packs = {"campaign_probe": PROBE}
        with boot(comfyui_folder(), base, environment=environment, packs=packs, kind=Host) as host:
            tried = cls(host, work, log)
            tried.begin()
            yield tried

    def begin(self) -> None:
        """Run all sound graphs once, and keep an unfinished render."""
        for name in GRAPHS:
            self.host.post(_graph(name))
        with full_disk(self.host, 30_000):
            self.host.refuse(_render_prompt("", 0))
        shutil.copytree(self.host.base / "output" / "tried" / "job.unfinished", self.work / "render")
        for kind in filter(lambda kind: HOST_KINDS[kind].place, HOST_KINDS):
            answer = self.run(Case(kind, "", next(iter(_sources(kind, self.work))), ()))
            if answer["verdict"] != "ran":
                raise RuntimeError(f"a sound {kind} does not run: {answer}")
        self._seen()

    def run(self, case: Case) -> dict[str, Any]:
        """The verdict on one case."""
        prompt, path = self._placed(case)
        before, began = self._memory(), time.monotonic()
        answer = self._posted(prompt)
        answer["seen"] = self._seen()
        answer["seconds"] = round(time.monotonic() - began, 2)
        if self._memory() - before > KEPT:
            self.host.free()
            if (kept := self._memory() - before) > KEPT:
                answer["seen"]["memory"] = f"left {kept / 2**20:.0f} MB; {answer['text'][:120]}"
        if path is not None:
            path.unlink(missing_ok=True)
        return answer

    def _placed(self, case: Case) -> tuple[Prompt, Path | None]:
        """(the prompt of a case, the file that it put into the host's folders)."""
        kind, source = HOST_KINDS[case.kind], _sources(case.kind, self.work)[case.target]
        if not kind.place:
            prompt = json_edited(json.loads(source), list(case.edits))
            return prompt, None
        if case.kind == "render":
            folder = self.host.base / kind.place
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.work / "render", folder)
        path = self.host.base / kind.place / case.target
        path.parent.mkdir(parents=True, exist_ok=True)
        if case.kind != "beside" and case.kind != "render":
            path = path.with_name(f"case{case.number}-{path.name}")  # the host keeps results by names
        path.write_bytes(edited(source, form_of(case.target), case.edits))
        return kind.prompt(path.name, case.number), path

    def _posted(self, prompt: Prompt) -> dict[str, Any]:
        """The verdict on a prompt: of the host's checks, or of how it ended."""
        try:
            status, answer = self.host.queue(prompt)
            if status != 200:
                return _checked(status, answer)
            return _ended(*self._waited(answer["prompt_id"]))
        except Exception as error:  # noqa: BLE001 - whatever a host answers that is no answer
            dead = "the host died: " if self.host.process.poll() is not None else ""
            return _verdict("raw", f"{dead}{type(error).__name__}: {error}")

    def _waited(self, prompt_id: str) -> tuple[Mapping[str, Any] | None, bool]:
        """(the history entry of a prompt, whether it had to be interrupted); None where it does not end."""
        start, stopped = time.monotonic(), False
        while time.monotonic() - start < BOUND + PATIENCE:
            self.host.check()
            entries = self.host.get(f"/history/{prompt_id}")
            if prompt_id in entries:
                return entries[prompt_id], stopped
            if not stopped and time.monotonic() - start > BOUND:
                stopped = bool(self.host.send("/interrupt", {}))
            time.sleep(0.02)
        return None, True

    def _memory(self) -> int:
        with suppress(psutil.Error):
            return int(psutil.Process(self.host.pid).memory_info().rss)
        return 0

    def _seen(self) -> dict[str, str]:
        """What the probe has noted since the last time."""
        if self.log is None or not self.log.exists():
            return {}
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        new, self._read = lines[self._read :], len(lines)
        return {line.partition(" ")[0]: line.partition(" ")[2] for line in reversed(new)}


def _verdict(verdict: str, text: str, where: str = "") -> dict[str, Any]:
    return {"verdict": verdict, "text": text[:400], "place": where, "seen": {}}


def _checked(status: int, answer: Any) -> dict[str, Any]:
    """The verdict on a prompt that the host did not start."""
    errors = [e for n in (answer or {}).get("node_errors", {}).values() for e in n["errors"]]
    thrown = [e for e in errors if f"custom_nodes/{PACK}/" in json.dumps(e.get("extra_info", {}).get("traceback", ""))]
    if status != 400 or thrown:
        return _verdict("raw", json.dumps(thrown or answer), f"status {status}")
    return _verdict("words", json.dumps(errors or answer))


def _ended(entry: Mapping[str, Any] | None, stopped: bool) -> dict[str, Any]:
    """The verdict on a prompt that ran."""
    if entry is None:
        return _verdict("hung", "an interrupt was not heard")
    errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    if not errors:
        return _verdict("ran", "interrupted" if stopped else "")
    error = errors[0]
    text, ours = f"{error['node_type']}: {error['exception_type']}: {error['exception_message']}", _is_ours(error)
    if ours:
        return _verdict("noisy" if NOISE.search(text) else "words", text, error["node_type"])
    places = re.findall(r'File "([^"]+)", line (\d+)', "".join(error["traceback"]))
    own = [(Path(file).resolve(), line) for file, line in places if Path(file).resolve().is_relative_to(ROOT)]
    if not own:
        return _verdict("words", f"by the host: {text}", error["node_type"])
    return _verdict("raw", text, f"{own[-1][0].relative_to(ROOT)}:{own[-1][1]}")


def _is_ours(error: Mapping[str, Any]) -> bool:
    """Whether an error is in words of ours: of our classes, or one of our messages."""
    if error["exception_type"].startswith("reelwire."):
        return True
    return any(pattern.match(error["exception_message"].strip()) for pattern in _patterns())


@cache
def _patterns() -> list[re.Pattern[str]]:
    """What our messages begin with, those alone that say something before their first value."""
    from reelwire.loaders.messages import texts

    patterns = []
    for text in texts().values():
        parts = re.split(r"\{[^{}]*\}", text)
        if max(map(len, parts)) >= 12:
            patterns.append(re.compile(".*".join(map(re.escape, parts)), re.DOTALL))
    return patterns
