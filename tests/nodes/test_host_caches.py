"""Cache nodes in a real ComfyUI: what they say, what goes into the file, and that nothing stays behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from reelwire.samplers.caches.policies import choices
from reelwire.tests.support.documents import code_blocks
from reelwire.tests.support.files.bad_files import NOISE
from reelwire.tests.support.host import PACK, ROOT, Host, Prompt, boot, digest, node, workflow

BUNDLED = {"checkpoint": "bundled/tiny_ltx"}


def cached(cache: dict[str, Any] | None, seed: int = 7, **sampler: Any) -> Prompt:
    """The bundled model through a cache node, 12 steps."""
    sampling = {"4.steps": 12, "4.frames": 9, "4.seed": seed, **{f"4.{k}": v for k, v in sampler.items()}}
    graph = workflow("any_cached", {**sampling, "5.filename_prefix": "cached/made"})
    if cache is None:
        return {
            name: {**n, "inputs": {k: ["1", 0] if v == ["2", 0] else v for k, v in n["inputs"].items()}}
            for name, n in graph.items()
            if name != "2"
        }
    graph["2"] = cache
    return graph


CACHES = {
    "plan": node("ReelwireCache", model=["1", 0], policy="plan", speed=2.0),
    "easycache": node("ReelwireCache", model=["1", 0], policy="easycache", speed=1.0, threshold=5.0),
    "first block": node("ReelwireCache", model=["1", 0], policy="first block", speed=1.0, threshold=5.0),
    "taylorseer": node("ReelwireCache", model=["1", 0], policy="diffusers taylorseer", speed=1.0, interval=3),
    "cache-dit": node("ReelwireCache", model=["1", 0], policy="cache-dit", speed=1.0, threshold=5.0),
    "TeaCache": node("ReelwireTeaCache", model=["1", 0], threshold=0.5, coefficients="published"),
    "FORA": node("ReelwireFORA", model=["1", 0], interval=3),
    "FORA, modules": node("ReelwireFORA", model=["1", 0], interval=2, granularity="module"),
}


@pytest.fixture(scope="module")
def plain(host: Host) -> str:
    return digest(host.videos(host.post(cached(None)))[0])


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_says_what_it_did(host: Host, plain: str, name: str) -> None:
    """On the node in words and as a chart, in the file as numbers; without it the video is what it was."""
    entry = host.post(cached(CACHES[name]))
    said = " ".join(entry["outputs"]["4"]["text"])
    assert "computed. Ideal speed-up" in said
    chart = json.loads(*entry["outputs"]["4"]["reelwire_chart"])
    assert host.get(f"/api/jobs/{entry['prompt'][1]}")["outputs_count"] == 1, "ComfyUI counts the video alone"
    computed = [step for row in chart["rows"] for step in row["computed"]]
    assert "default size it holds about" in " ".join(entry["outputs"]["2"]["text"])
    (file,) = host.videos(entry)
    with av.open(str(file)) as container:
        record = json.loads(container.metadata["reelwire"])["cache"]
    steps = "".join(record["predictions"].values())
    assert 1 < steps.count("x") < len(steps)
    assert computed == [step == "x" for step in steps]
    assert record["ideal"] > 1
    written = digest(file)
    assert written != plain
    assert digest(host.videos(host.post(cached(None)))[0]) == plain
    host.free()
    assert digest(host.videos(host.post(cached(CACHES[name])))[0]) == written


def test_a_node_puts_out_the_same_kinds_of_things_each_time(host: Host) -> None:
    """ComfyUI joins what a node puts out for each item of a list by what it did for the first."""
    runs = [host.post(cached(cache, seed=11, steps=2))["outputs"] for cache in (None, CACHES["plan"])]
    assert runs[0]["4"].keys() == runs[1]["4"].keys() >= {"text", "reelwire", "reelwire_chart"}
    assert runs[1]["2"].keys() == {"text", "reelwire"}


def test_interval_1_is_no_cache(host: Host, plain: str) -> None:
    one = node("ReelwireFORA", model=["1", 0], interval=1)
    assert digest(host.videos(host.post(cached(one)))[0]) == plain


def test_the_later_of_two_caches_wins(host: Host) -> None:
    alone = digest(host.videos(host.post(cached(CACHES["FORA"])))[0])
    graph = cached({**CACHES["FORA"], "inputs": {**CACHES["FORA"]["inputs"], "model": ["first", 0]}})
    graph["first"] = CACHES["plan"]
    entry = host.post(graph)
    assert "had a cache already (plan): this one takes its place" in " ".join(entry["outputs"]["2"]["text"])
    assert digest(host.videos(entry)[0]) == alone


def test_two_branches_of_one_loader(host: Host, plain: str) -> None:
    """Two caches and none at all, side by side in one graph, make what each makes alone."""
    names = ("plan", "FORA")
    alone = {plain, *(digest(host.videos(host.post(cached(CACHES[name])))[0]) for name in names)}
    graph: Prompt = {}
    for i, one in enumerate((None, *(CACHES[name] for name in names))):
        moved = {
            k: {
                **n,
                "inputs": {
                    a: [v[0] if v[0] == "1" else f"{i}.{v[0]}", v[1]] if isinstance(v, list) else v
                    for a, v in n["inputs"].items()
                },
            }
            for k, n in cached(one).items()
        }
        graph |= {k if k == "1" else f"{i}.{k}": n for k, n in moved.items()}
    host.free()
    assert {digest(file) for file in host.videos(host.post(graph))} == alone


def test_an_interrupt_leaves_nothing(host: Host) -> None:
    expected = digest(host.videos(host.post(cached(CACHES["TeaCache"], 11)))[0])
    host.free()
    steps: list[int] = []

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data.get("max") == 12 and data.get("value", 0) >= 5 and not steps:
            steps.append(data["value"])
            host.send("/interrupt", {})

    ended = host.watch(cached(CACHES["TeaCache"], 11, steps=12), stop)
    assert ended.all("execution_interrupted")
    assert digest(host.videos(host.post(cached(CACHES["TeaCache"], 11)))[0]) == expected


def test_few_steps_are_said_to_pass(host: Host) -> None:
    entry = host.post(cached(CACHES["FORA"], steps=6))
    assert "FORA is off: of 6 predictions each one counts" in " ".join(entry["outputs"]["4"]["text"])


def test_few_steps_are_calibrated_for_a_corrected_plan(host: Host) -> None:
    """Which is off without, and says what would help."""
    short = {"3.steps": 6, "6.steps": 6}
    corrected = node("ReelwireCache", model=["3", 0], policy="corrected plan", speed=2.0)
    entry = host.post(workflow("cache_calibrate", {**short, "4": corrected}))
    assert "only corrected plan leaves some out" in " ".join(entry["outputs"]["3"]["text"])
    said = " ".join(entry["outputs"]["6"]["text"])
    assert "corrected plan is off" not in said
    assert "computed. Ideal speed-up" in said
    more = workflow("cache_calibrate", {"3.steps": 6, "6.steps": 7, "4": corrected})
    said = " ".join(host.post(more)["outputs"]["6"]["text"])
    assert "corrected plan is off: of 7 predictions each one counts. In runs of fewer than 10" in said
    plan = node("ReelwireCache", model=["3", 0], policy="plan", speed=2.0)
    said = " ".join(host.post(workflow("cache_calibrate", {**short, "4": plan}))["outputs"]["6"]["text"])
    assert "plan is off: of 6 predictions each one counts. Caches begin to pay at 10" in said


def test_a_calibration_is_used_by_what_comes_after(host: Host) -> None:
    entry = host.post(workflow("cache_calibrate"))
    assert "tiny-wan2.1-t2v.reelwire-cache.json: 12 predictions" in " ".join(entry["outputs"]["3"]["text"])
    assert (host.base / "models" / "diffusers" / "tiny-wan2.1-t2v.reelwire-cache.json").exists()
    assert "not calibrated" not in " ".join(entry["outputs"]["6"]["text"])
    magcache = node("ReelwireCache", model=["3", 0], policy="magcache", speed=1.0, threshold=1.0)
    entry = host.post(workflow("cache_calibrate", {"4": magcache}))
    assert "MagCache" in " ".join(entry["outputs"]["6"]["text"])


PICTURE = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
SVD = {
    "1": node("ReelwireLoadSVD", checkpoint="diffusers/tiny-svd"),
    "picture": PICTURE,
    "key": node("ReelwireKeyframe", image=["picture", 0], frame=0, strength=1.0),
    "4.keyframes": ["key", 0],
}
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a policy that the family has not": ({**SVD, "2": CACHES["TeaCache"]}, ("TeaCache", "UNet", "Use FORA")),
    "start after end": (
        {"2": node("ReelwireFORA", model=["1", 0], interval=2, start=0.8, end=0.2)},
        ("start, end = 0.8, 0.2", "0 <= start < end <= 1"),
    ),
    "interval 0": ({"2": node("ReelwireFORA", model=["1", 0], interval=0)}, ("interval = 0", "from 1 to 1000")),
    "interval above the steps": (
        {"2": node("ReelwireFORA", model=["1", 0], interval=13)},
        ("interval = 13", "The run has 12 predictions", "2 or 3 are usual"),
    ),
    "MagCache without a calibration": (
        {"2": node("ReelwireCache", model=["1", 0], policy="magcache", speed=2.0)},
        ("no calibration for 12 steps", "Calibrate Cache"),
    ),
    "compiled modules": (
        {
            "2": CACHES["FORA, modules"],
            "fast": node("ReelwireSpeed", model=["2", 0], compile=True, attention="auto"),
            "4.model": ["fast", 0],
        },
        ("compile = on", "module granularity", "stack"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told(host: Host, case: str) -> None:
    changes, message = REFUSED[case]
    graph = cached(CACHES["plan"])
    for place, value in changes.items():
        at, _, name = place.partition(".")
        graph[at] = {**graph[at], "inputs": {**graph[at]["inputs"], name: value}} if name else value
    text, done = host.refuse(graph)
    missing = [words for words in message if words not in text]
    assert not missing, f"{missing} is not in: {text}"
    assert not [noise for noise in NOISE if noise in text], text
    assert "ReelwireSampler" not in done
    host.check()


# ---------------------------------------------------------------- a policy is one file

(TOY,) = code_blocks("add-a-cache.md")
# what Python has compiled is taken along, but for what it writes just now
LEFT_OUT = (".*", "tests", "training", "bench", "docs", "*.pyc.*")


@pytest.fixture(scope="module")
def toy_host(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI with a copy of the pack that has two more files in its folder of policies."""
    pack = tmp_path_factory.mktemp("pack") / PACK
    shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(*LEFT_OUT))
    policies = pack / "samplers" / "caches" / "policies"
    (policies / "every_other.py").write_text(TOY, encoding="utf-8")
    (policies / "broken.py").write_text("from nowhere import nothing\n", encoding="utf-8")
    with boot(comfyui, tmp_path_factory.mktemp("comfyui"), packs={PACK: pack}, kind=Host) as running:
        yield running


def test_a_policy_is_one_file(toy_host: Host) -> None:
    inputs = toy_host.get("/object_info/ReelwireCache")["ReelwireCache"]["input"]
    kind, options = inputs["required"]["policy"]
    offered = options["options"]
    assert kind == "COMBO"
    assert offered[0] == "plan"
    assert offered[-1] == "every other"
    assert "every other: every second step is computed" in options["tooltip"]
    assert "every other" in inputs["optional"]["order"][1]["reelwire"]["when"]["policy"]
    assert "every other" not in inputs["optional"]["threshold"][1]["reelwire"]["when"]["policy"]

    toy = node("ReelwireCache", model=["1", 0], policy="every other", speed=2.0)
    entry = toy_host.post(
        workflow("any_cached", {"2": toy, "4.steps": 12, "4.frames": 9, "5.filename_prefix": "toy/video"})
    )
    (row,) = json.loads(*entry["outputs"]["4"]["reelwire_chart"])["rows"]
    assert row["computed"] == [i % 2 == 0 or i == 11 for i in range(12)]


def test_a_broken_policy_takes_out_itself(toy_host: Host) -> None:
    assert "broken.py is missing" in toy_host.log.decode(errors="replace")
    inputs = toy_host.get("/object_info/ReelwireCache")["ReelwireCache"]["input"]
    assert inputs["required"]["policy"][1]["options"] == [*choices(), "every other"]
