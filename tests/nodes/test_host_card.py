"""One test for each way in which the pack failed on a card, in a real ComfyUI on the pretend one.

Each is a kind: what is loaded is used again, the room shrinks and grows between runs, most weights wait in RAM, memory
runs out in a part. test_card_workflows.py runs whole workflows through all of them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image
from reelwire.tests.support.card.host import CardHost
from reelwire.tests.support.host import Host, Prompt, digest, node, workflow

GB, MB = 1 << 30, 1 << 20
INFERENCE = int(0.8 * GB) + 400 * MB  # ComfyUI keeps this much free for computing (minimum_inference_memory)
SIZE = dict(width=64, height=64, frames=9)
# loader, tiny model, what it needs: every family, and every kind of part (two experts, image encoders, VACE's control)
MODELS = {
    "wan": ("ReelwireLoadWan", "tiny-wan2.1-t2v", False),
    "wan i2v": ("ReelwireLoadWan", "tiny-wan2.1-i2v", True),
    "two experts": ("ReelwireLoadWan", "tiny-wan2.2-t2v-a14b", False),
    "hunyuan": ("ReelwireLoadHunyuanVideo", "tiny-hunyuan-t2v", False),
    "hunyuan i2v": ("ReelwireLoadHunyuanVideo", "tiny-hunyuan-i2v-concat", True),
    "cogvideox": ("ReelwireLoadCogVideoX", "tiny-cogvideox-5b-i2v", True),
    "mochi": ("ReelwireLoadMochi", "tiny-mochi", False),
    "ltx": ("ReelwireLoadLTX", "tiny-ltx-0.9.5", True),
    "svd": ("ReelwireLoadSVD", "tiny-svd", True),
}
KEPT_SIZES = ("svd", "cogvideox", "mochi")  # these make one size or length alone: 0 takes it


def prompt(name: str, seed: int = 1, memory: dict[str, Any] | None = None) -> Prompt:
    """Loader -> [Memory] -> prompt -> three steps -> a file without loss."""
    loader, model, pictured = MODELS[name]
    source = ["1", 0] if memory is None else ["9", 0]
    size = {} if name in KEPT_SIZES else SIZE
    nodes = {
        "1": node(loader, checkpoint=f"diffusers/{model}", precision="bfloat16"),
        "2": node("ReelwireEncodePrompt", model=source, positive="a red circle", negative=""),
        "3": node("ReelwireSampler", model=source, conditioning=["2", 0], **zeros(size), steps=3, seed=seed),
        "4": node("ReelwireDecodeToVideo", model=source, latent=["3", 0], fps=0.0, filename_prefix="card/a", crf=0),
    }
    if memory is not None:
        nodes["9"] = node("ReelwireMemory", model=["1", 0], **memory)
    if pictured:
        nodes["5"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0xC04080)
        nodes["6"] = node("ReelwireKeyframe", image=["5", 0], frame=0, strength=1.0)
        nodes["2"]["inputs"]["keyframes"] = nodes["3"]["inputs"]["keyframes"] = ["6", 0]
    return nodes


def zeros(size: dict[str, int]) -> dict[str, Any]:
    return {"width": 0, "height": 0, "frames": 0, "guidance": 0.0, "sampler": "default", "preset": "default", **size}


def video(host: Host, asked: Prompt) -> str:
    return digest(host.videos(host.post(asked))[0])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_is_used_again(host: Host, card_host: CardHost, name: str) -> None:
    """The second use of every part: the manager detaches what is loaded before it loads it anew."""
    for seed in (1, 2):
        assert video(card_host, prompt(name, seed)) == video(host, prompt(name, seed))


@pytest.mark.parametrize("name", MODELS)
def test_room_that_shrinks_and_grows(host: Host, card_host: CardHost, name: str) -> None:
    """The manager takes weights away, takes more, and brings them back; layers that it cannot cast stay."""
    card_host.post(prompt(name, 1))
    weights = max(size for _, _, size in card_host.card.state()["loaded"])
    base = card_host.card.allocated() - sum(there for _, there, _ in card_host.card.state()["loaded"])
    for seed, share in enumerate((0.7, 0.3, 1e6), start=3):
        card_host.card.set_cap(min(base + INFERENCE + int(weights * share), 2 * GB))
        assert video(card_host, prompt(name, seed)) == video(host, prompt(name, seed))


@pytest.mark.parametrize("name", ["wan", "hunyuan", "cogvideox", "mochi", "ltx", "svd"])
@pytest.mark.parametrize("manager", ["card_host", "dynamic_card_host"])
def test_most_on_card_is_kept(host: Host, manager: str, name: str, request: pytest.FixtureRequest) -> None:
    """The limit holds when the run is over too: nothing came back while it ran. What cannot wait in RAM is small."""
    on_card: CardHost = request.getfixturevalue(manager)
    on_card.freed()
    limit = 5e-5  # GB, about 50 KB
    asked = prompt(name, 7, {"weights": "as in the file", "most_on_card": limit})
    assert video(on_card, asked) == video(host, asked)
    state = on_card.card.state()
    assert state["loaded"]
    for (part, _, whole), pages in zip(state["loaded"], state["pages"], strict=True):
        assert pages <= limit * GB < whole, f"{part}: {pages} bytes of {whole} lie on the card"


def test_a_control_video_asks_for_room(host: Host, card_host: CardHost) -> None:
    """Weights that fill the card make room for it; where there is none the CPU prepares it, and the node says so."""
    asked = workflow("cogvideox_control", {"8.steps": 3, "9.crf": 0, "1.precision": "bfloat16"})
    only = {name: asked[name] for name in ("2", "3", "5", "6")}
    expected = pixels(host, only)
    card_host.post(prompt("wan", 1))
    full = card_host.card.allocated()
    frame = 64 * 64
    card_host.card.set_cap(full + 100 * frame)  # edges need 161 bytes a pixel
    assert pixels(card_host, changed(only, low=0.39)) == pixels(host, changed(only, low=0.39))
    assert card_host.card.state()["refusals"] == 0 or card_host.card.allocated() < full
    card_host.free()
    card_host.card.set_cap(card_host.card.allocated() + 20 * frame)
    before = card_host.tail()
    assert pixels(card_host, only) == expected
    assert "prepared on the CPU" in card_host.tail().removeprefix(before)
    card_host.card.set_cap(2 * GB)


def changed(asked: Prompt, **inputs: Any) -> Prompt:
    return {**asked, "5": {**asked["5"], "inputs": {**asked["5"]["inputs"], **inputs}}}


def pixels(host: Host, asked: Prompt) -> list[bytes]:
    shown = host.post(asked)["outputs"]["6"]["images"]
    files = [host.base / "temp" / file["subfolder"] / file["filename"] for file in shown]
    return [Image.open(file).tobytes() for file in files]  # the rest of a file tells when the clip was written


def test_memory_that_runs_out_is_told_with_what_helps(card_host: CardHost) -> None:
    """In the text encoder, then in the network; the run after it is as if nothing had been."""
    card_host.freed()
    card_host.card.fail_after(20)
    refusal = card_host.refuse(prompt("wan", 11))
    assert "Memory ran out while the prompt was read" in refusal.message
    assert refusal.done == ("ReelwireLoadWan",)
    expected = video(card_host, prompt("wan", 11))
    card_host.card.fail_after(5)
    refusal = card_host.refuse(prompt("wan", 12))
    assert "Memory ran out while 9 frames of 64x64 were sampled. Use fewer frames" in refusal.message
    assert "ReelwireEncodePrompt" not in refusal.done, "it was cached"
    card_host.free()
    assert video(card_host, prompt("wan", 11)) == expected


def test_the_node_says_how_much_of_the_card_is_in_use(card_host: CardHost) -> None:
    events = card_host.watch(workflow("ltx_t2v", {"3.steps": 2, "3.seed": 77, "4.filename_prefix": "card_in_use"}))
    said = [note for data in events.all("reelwire.note") if data["passing"] for note in data["messages"]]
    used = [note["values"] for note in said if note["key"] == "card_in_use"]
    assert used
    assert {values["total"] for values in used} == {"2.0"}
    assert all(0 <= float(values["used"]) <= 2 for values in used)  # tiny models: in GiB, less than can be said


def test_a_video_knows_the_peak_of_its_run(card_host: CardHost) -> None:
    """As much as the run held on the card at once, without what another model keeps there."""
    one, other = prompt("ltx", seed=31), prompt("wan", seed=32)
    card_host.freed()
    base = card_host.card.state(reset_peak=True)["allocated"]
    card_host.post(one)
    alone = card_host.card.peak() - base
    graph = one | {f"b{name}": entry for name, entry in linked(other).items()}
    graph["8"] = node("ReelwireCompare", video_1=["4", 0], video_2=["b4", 0], filename_prefix="card/compare")
    graph["7"] = node("PreviewAny", source=["8", 2])
    first, second = json.loads(card_host.post(graph)["outputs"]["7"]["text"][0])["videos"]
    assert 0.5 * alone < first["peak_memory_bytes"] <= alone + base
    assert 0 < second["peak_memory_bytes"] < 2 * first["peak_memory_bytes"] + 64 * MB
    assert first["device"] == second["device"] != "cpu"


def linked(graph: Prompt) -> Prompt:
    """A graph with links to nodes whose ids begin with b."""
    link = lambda value: [f"b{value[0]}", value[1]] if isinstance(value, list) else value
    return {
        name: node(entry["class_type"], **{key: link(value) for key, value in entry["inputs"].items()})
        for name, entry in graph.items()
    }
