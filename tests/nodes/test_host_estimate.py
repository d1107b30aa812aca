"""The node Estimate in a real ComfyUI: every family, no part loaded, and the largest model at its published size."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from reelwire.loaders.parts import PlainMemory
from reelwire.tests.support.engine.estimates import asked, estimated
from reelwire.tests.support.engine.loaders import EVERY
from reelwire.tests.support.files.published import published
from reelwire.tests.support.host import Host, node


@pytest.mark.parametrize("name", EVERY)
def test_every_family_is_estimated(host: Host, name: str) -> None:
    loader, checkpoint, count, _ = EVERY[name]
    host.free()
    lines, page, numbers = estimated(host, asked(loader, checkpoint, price=2.5))
    assert numbers["request"]["frames"] == count
    assert numbers["verdict"] == "fits"
    assert numbers["machine"]["cpu"]
    assert numbers["request"]["preset"] == "default"
    assert lines[0] == "Fits on this processor."
    assert [line.split(":")[0] for line in lines[1:7]] == [f"{size} GB" for size in (8, 12, 16, 24, 48, 80)]
    assert "there is no card and the processor computes" in page
    assert page.startswith("# ")
    assert "| Cost |" in page
    assert [phase["part"] for phase in numbers["memory"]["phases"]][-1] == "vae"
    assert all(phase["moved"] == 0 for phase in numbers["memory"]["phases"])


def test_it_sees_what_the_models_nodes_have_set(host: Host) -> None:
    prompt = asked("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", steps=20, guidance=5.0)
    _, _, plain = estimated(host, prompt)
    prompt |= {
        "5": node("ReelwireCache", model=["1", 0], policy="plan", speed=2.0),
        "6": node("ReelwireMemory", model=["5", 0], weights="int8", most_on_card=0.0),
    }
    more = dict(low_noise_guidance=0.0, true_guidance=0.0, dynamic=False, layers="", layer_scale=2.8, layer_start=0.01)
    more |= dict(layer_end=0.2, eta=1.0, momentum=0.0, threshold=15.0)
    prompt["7"] = node("ReelwireGuidance", model=["6", 0], method="cfg", start=0.0, end=0.5, **more)
    prompt["2"]["inputs"]["model"] = ["7", 0]
    _, page, numbers = estimated(host, prompt)
    assert (plain["computing"]["computed"], plain["computing"]["branches"]) == ([20, 20], [40, 40])
    assert (numbers["computing"]["computed"], numbers["computing"]["branches"]) == ([10, 10], [15, 15])
    assert numbers["memory"]["cache"] > 0
    assert "plan keeps" in page
    weights = lambda found: next(p["weights"] for p in found["memory"]["phases"] if p["part"] == "transformer")
    assert weights(numbers) < weights(plain)


def test_keyframes_are_counted(host: Host) -> None:
    """On LTX-Video, whose tokens then have a time of their own."""
    prompt, working = asked("ReelwireLoadLTX", "bundled/tiny_ltx"), []
    keyframe = {
        "5": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "6": node("ReelwireKeyframe", image=["5", 0], frame=0, strength=1.0),
    }
    for more in ({}, keyframe):
        prompt["2"]["inputs"] |= {"keyframes": ["6", 0]} if more else {}
        _, _, numbers = estimated(host, prompt | more)
        working += [p["working"] for p in numbers["memory"]["phases"] if p["phase"] == "sample"]
    assert working[1] > working[0]


def test_this_machine_is_measured_when_asked(host: Host) -> None:
    begin = time.perf_counter()
    lines, _, numbers = estimated(host, asked("ReelwireLoadLTX", "bundled/tiny_ltx", calibrate=True))
    assert time.perf_counter() - begin < 30
    assert numbers["measured"]["products"] > 0
    assert numbers["time"][0]["basis"] == "measured"
    assert any(line.startswith("this processor: ") for line in lines)


def test_the_largest_is_estimated_without_being_loaded(host: Host, tmp_path: Path) -> None:
    """HunyuanVideo 13B at 720p and 129 frames from headers and holes: quick, and the server does not grow."""
    model = published("hunyuan_video/t2v-13b", tmp_path, PlainMemory())
    place = host.base / "models" / "diffusers" / "hunyuan-13b"
    place.symlink_to(model.recipe.files["checkpoint"], target_is_directory=True)
    try:
        host.free()
        prompt = asked("ReelwireLoadHunyuanVideo", "diffusers/hunyuan-13b", width=1280, height=720, frames=129)
        prompt["1"]["inputs"]["precision"] = "bfloat16"
        before = memory_of(host)
        began, ended = dict[str, float](), dict[str, float]()

        def on_event(kind: str, data: dict[str, Any]) -> None:
            if kind == "executing" and data.get("node") == "2":
                began["2"] = cpu_of(host)
            if kind == "executed" and data.get("node") == "2":
                ended["2"] = cpu_of(host)

        events = host.watch(prompt, on_event)
        assert ended["2"] - began["2"] < 10, "it takes under 3 s"
        (output,) = (data["output"] for data in events.all("executed") if data["node"] == "4")
        numbers = json.loads(output["text"][0])
        assert numbers["verdict"] == "does not fit" or numbers["machine"]["room"] > 60 * 2**30
        assert 0.5e18 < numbers["computing"]["total"][0] < 0.7e18
        assert memory_of(host) - before < 2**30, "weights were read"
    finally:
        place.unlink()


def cpu_of(host: Host) -> float:
    """Seconds that the server has computed, however busy the machine is."""
    return sum(psutil.Process(host.pid).cpu_times()[:2])


def memory_of(host: Host) -> int:
    """Resident bytes of the server."""
    status = Path(f"/proc/{host.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def test_what_cannot_run_is_refused(host: Host) -> None:
    refusal = host.refuse(asked("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", width=104))
    assert "width = 104" in refusal.message
    assert "Use 96 or 112" in refusal.message
