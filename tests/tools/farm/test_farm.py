"""The farm itself: real ComfyUIs of its own, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from reelwire.tests.support.host import ROOT, Host, digest, workflow

RUN_SECONDS = 400


def test_a_killed_comfyui_costs_nothing(host: Host, comfyui: Path, tmp_path: Path) -> None:
    """Every file once, the same as this host's own, though one ComfyUI was killed; a second run makes what was asked
    for since."""
    prompt = workflow("ltx_t2v", {"3.steps": 2})
    (tmp_path / "w.json").write_text(json.dumps(prompt), encoding="utf-8")
    lines = [{"name": f"video_{seed}", "seed": seed} for seed in range(4)]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "farm"), str(file), "--workflow", str(tmp_path / "w.json")]
    command += ["--workers", "1", "--host", str(comfyui), "--base", str(host.base)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as farm:
        killed, said = False, list[str]()
        for line in farm.stdout or ():
            said.append(line)
            if " video_0:" in line and not killed:
                killed = True
                os.kill(comfyui_below(farm.pid), signal.SIGKILL)
        assert farm.wait(RUN_SECONDS) == 0, "".join(said)
    folder = tmp_path / "jobs.farm"
    files = sorted(folder.glob("*.mp4"))
    assert [each.stem for each in files] == [f"video_{seed}" for seed in range(4)]
    assert killed
    for seed in (0, 3):
        entry = host.post(workflow("ltx_t2v", {"3.steps": 2, "3.seed": seed}))
        assert digest(folder / f"video_{seed}.mp4") == digest(host.videos(entry)[0])
    times = [each.stat().st_mtime_ns for each in files]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0
    assert "4 done before" in done.stdout
    assert [each.stat().st_mtime_ns for each in files] == times
    assert time.monotonic() - began < 60, "nothing was started for it"


def comfyui_below(parent: int) -> int:
    """The ComfyUI that a worker of this farm has started."""
    answer = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in answer.stdout.splitlines()]
    parents = {int(pid): int(of) for pid, of, *_ in rows}

    def is_below(process: int) -> bool:
        while process in parents and process != parent:
            process = parents[process]
        return process == parent

    hosts = [int(pid) for pid, _, *rest in rows if rest and "main.py --listen" in rest[0] and "keeper" not in rest[0]]
    return next(pid for pid in hosts if is_below(pid))
