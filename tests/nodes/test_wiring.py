"""Wires that may stay open, inputs that say what they are, and nodes that say what they did."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.card import seen_by_comfyui
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.host import PACK, ROOT, Host, Prompt, frames, guidance, node, workflow

PICTURE = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
BLUE = node("EmptyImage", width=64, height=64, batch_size=1, color=0x0000FF)


def t2v(changes: dict[str, Any]) -> Prompt:
    """A short run of the bundled model into a lossless file."""
    return workflow("ltx_t2v", {"3.steps": 2, "4.crf": 0, "4.filename_prefix": "wiring/video", **changes})


def unwired(prompt: Prompt, *places: str) -> Prompt:
    """The prompt without the inputs {"4.model"}."""
    for place in places:
        at, name = place.split(".")
        del prompt[at]["inputs"][name]
    return prompt


def said(entry: dict[str, Any], name: str) -> list[str]:
    """What stays on a node after a run."""
    output = entry["outputs"].get(name, {})
    assert [json.loads(line)["text"] for line in output.get("reelwire", [])] == output.get("text", [])
    return output.get("text", [])


@pytest.fixture(scope="module")
def info(host: Host) -> dict[str, Any]:
    return {k: v for k, v in host.get("/object_info").items() if v["python_module"] == f"custom_nodes.{PACK}"}


# ---------------------------------------------------------------- the model, wired once


def test_decoders_need_no_wire_to_the_model(host: Host) -> None:
    wired = host.post(t2v({"4.filename_prefix": "wiring/wired"}))
    open_ = host.post(unwired(t2v({"4.filename_prefix": "wiring/open"}), "4.model"))
    assert (frames(host.videos(wired)[0]) == frames(host.videos(open_)[0])).all()


def test_what_lies_between_loader_and_sampler_changes_nothing_for_the_decoder(host: Host) -> None:
    """Caches, guidance and memory sit on the sampler's model; the decoder takes that one or the loader's alike."""
    between = {
        "8": node("ReelwireFORA", model=["1", 0], interval=2),
        "9": node("ReelwireMemory", model=["8", 0], weights="as in the file", most_on_card=0.0),
        "3.model": ["9", 0],
        "3.steps": 12,
    }
    wired = host.post(t2v({**between, "4.filename_prefix": "wiring/between_wired"}))
    open_ = host.post(unwired(t2v({**between, "4.filename_prefix": "wiring/between"}), "4.model"))
    assert (frames(host.videos(wired)[0]) == frames(host.videos(open_)[0])).all()


def test_latents_of_disk_ask_for_their_model(host: Host) -> None:
    graph = unwired(t2v({"8": node("SaveLatent", samples=["3", 0], filename_prefix="wiring")}), "4.model")
    entry = host.post(graph)
    (saved,) = entry["outputs"]["8"]["latents"]
    file = host.base / "output" / saved["subfolder"] / saved["filename"]
    (host.base / "input" / "wiring.latent").write_bytes(file.read_bytes())
    graph["3"] = node("LoadLatent", latent="wiring.latent")
    del graph["8"], graph["2"]
    refusal = host.refuse(graph)
    assert "do not say which model made them" in refusal.message
    assert "Connect the loader" in refusal.message
    graph["4"]["inputs"]["model"] = ["1", 0]
    assert (frames(host.videos(host.post(graph))[0]) == frames(host.videos(entry)[0])).all()


@pytest.fixture(scope="module")
def origin(comfyui: Path) -> Iterator[Any]:
    """nodes/origin.py with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    with seen_by_comfyui():
        import reelwire.nodes.origin as module

    yield module
    sys.path.remove(str(comfyui))


def bundled() -> VideoModel:
    files = {"checkpoint": BUNDLED, "text_encoder": BUNDLED / "text_encoder", "tokenizer": BUNDLED / "tokenizer"}
    return load(Recipe("ltx", "", files, "float32"), PlainMemory("cpu"))


def test_latents_keep_no_model_in_memory(origin: Any) -> None:
    model = bundled()
    latent = origin.from_model(model, torch.zeros(1), {})
    assert origin.decoder(None, latent) is model
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    again = origin.decoder(None, latent)
    assert (again.name, again.recipe.dtype) == ("ltx", "float32")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda latent: pickle.loads(pickle.dumps(latent))])
def test_copied_latents_still_name_their_model(origin: Any, copied: Any) -> None:
    latent = copied(origin.from_model(bundled(), torch.zeros(1), {}))
    assert origin.decoder(None, latent).variant == bundled().variant


def test_a_wired_model_goes_before(origin: Any) -> None:
    other = bundled()
    assert origin.decoder(other, origin.from_model(bundled(), torch.zeros(1), {})) is other
    with pytest.raises(InputError, match="Connect the loader"):
        origin.decoder(None, {"samples": torch.zeros(1)})


# ---------------------------------------------------------------- keyframes


def keyframes(first: int, second: int, prefix: str) -> Prompt:
    return t2v(
        {
            "8": node("ReelwireKeyframe", image=["10", 0], frame=first, strength=1.0),
            "9": node("ReelwireKeyframe", image=["11", 0], frame=second, strength=1.0, keyframes=["8", 0]),
            "10": PICTURE,
            "11": BLUE,
            "3.keyframes": ["9", 0],
            "4.filename_prefix": f"wiring/{prefix}",
        }
    )


def test_two_keyframes_as_they_are_mean_first_and_last(host: Host) -> None:
    chained = host.post(keyframes(0, 0, "chained"))
    entry = host.post(keyframes(0, -1, "told"))
    assert (frames(host.videos(chained)[0]) == frames(host.videos(entry)[0])).all()
    assert said(chained, "9") == ["Frame 0 is taken by an earlier keyframe: this one is the last frame."]
    assert said(entry, "9") == []


def test_saved_chains_mean_what_they_did(host: Host) -> None:
    """Frame 0 behind another frame is the first one still."""
    backwards = host.post(keyframes(-1, 0, "backwards"))
    assert said(backwards, "9") == []
    video = frames(host.videos(backwards)[0]).astype(float)
    blue = lambda frame: frame[..., 2].mean() - frame[..., 0].mean()
    assert blue(video[0]) > 50
    assert abs(blue(video[-1])) < 50


def test_a_third_keyframe_is_refused_in_words(host: Host) -> None:
    graph = keyframes(0, 0, "third")
    graph["12"] = node("ReelwireKeyframe", image=["11", 0], frame=0, strength=1.0, keyframes=["9", 0])
    graph["3"]["inputs"]["keyframes"] = ["12", 0]
    assert "cannot share frames" in host.refuse(graph).message


def test_keyframes_that_a_prompt_does_not_read_are_said(host: Host) -> None:
    graph = keyframes(0, -1, "unread")
    graph["2"]["inputs"]["keyframes"] = ["9", 0]
    assert any("not read here" in line for line in said(host.post(graph), "2"))


# ---------------------------------------------------------------- what 0 became


def test_the_sampler_says_what_every_0_became(host: Host) -> None:
    changes = {f"3.{name}": 0 for name in ("width", "height", "frames", "guidance")}
    entry = host.post(t2v({**changes, "3.preset": "default", "3.sampler": "default", "3.seed": 901}))
    line = said(entry, "3")[0]
    assert re.fullmatch(r"64x64, 17 frames \(0\.68 s at 25 fps\), 2 steps, guidance 4, euler, \d+\.\d s", line), line
    record = json.loads(entry["outputs"]["3"]["reelwire"][0])
    assert record["key"] == "sampled"
    assert {"size": "64x64", "frames": 17, "steps": 2, "guidance": "4"}.items() <= record["values"].items()
    assert re.fullmatch(r"64x64, 17 frames \(\S+ s at \S+ fps\), \S+ [KM]B", said(entry, "4")[0])


def test_a_long_video_says_what_it_made(host: Host) -> None:
    timeline = json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": "a red circle moving right"}]})
    entry = host.post(
        {
            "1": node("ReelwireLoadLTX", checkpoint="bundled/tiny_ltx", precision="float32"),
            "2": node(
                "ReelwireLongVideo",
                model=["1", 0],
                timeline=timeline,
                frames=25,
                width=0,
                height=0,
                window=17,
                overlap=9,
                steps=2,
                guidance=0.0,
                sampler="default",
                seed=3,
                preset="default",
                filename_prefix="wiring/long",
            ),
        }
    )
    pattern = r"64x64, 25 frames \(1 s at 25 fps\), 2 windows of 2 steps, guidance 4, euler, \d+\.\d s, \S+ [KM]B"
    assert re.fullmatch(pattern, said(entry, "2")[0]), said(entry, "2")


IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "ReelwireCache": (
        {"policy": "plan", "speed": 2.0, "threshold": 0.5},
        "threshold = 0.5 does nothing while policy is plan",
    ),
    "ReelwireGuidance": (
        guidance(eta=0.5)["inputs"],
        "eta = 0.5 does nothing while method is cfg",
    ),
    "ReelwireTeaCache": ({"threshold": 0.0, "retention": True}, "retention = True does nothing on LTX-Video"),
    "ReelwireMotion": ({"motion_bucket": 127, "fps": 7, "noise_augmentation": 0.02}, "does nothing on LTX-Video"),
}


@pytest.mark.parametrize("kind", IDLE)
def test_no_changed_input_is_silently_unused(host: Host, kind: str) -> None:
    inputs, words = IDLE[kind]
    graph = t2v({"8": node(kind, **{"model": ["1", 0], **inputs}), "3.model": ["8", 0], "3.steps": 12})
    assert any(words in line for line in said(host.post(graph), "8"))


# ---------------------------------------------------------------- titles, tooltips, help


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_socket_and_widget_has_a_tooltip(host: Host, info: dict[str, Any], language: str) -> None:
    texts = host.get("/i18n")[language]["nodeDefs"]
    for name, node_info in info.items():
        inputs = {k: v for kind in ("required", "optional") for k, v in node_info["input"].get(kind, {}).items()}
        for field, (_, options) in inputs.items():
            assert options.get("tooltip"), f"{name}.{field} has no tooltip"
            if (language, name, field) != ("en", "ReelwireSpeed", "attention"):
                assert texts[name]["inputs"][field]["tooltip"], f"{name}.{field} has no tooltip in {language}"
        for index, tooltip in enumerate(node_info["output_tooltips"]):
            assert tooltip, f"{name}, output {index} has no tooltip"
            assert texts[name]["outputs"][str(index)]["tooltip"], f"{name}, output {index} has no tooltip in {language}"


@pytest.mark.parametrize(("language", "word"), [("en", "video"), ("zh", "视频")])
def test_titles_say_that_it_is_about_video(host: Host, info: dict[str, Any], language: str, word: str) -> None:
    titles = {name: host.get("/i18n")[language]["nodeDefs"][name]["display_name"] for name in info}
    exceptions = {"ReelwireLoadCogVideoX", "ReelwireLoadSVD"} if language == "en" else set()
    assert [title for name, title in titles.items() if word not in title.lower() and name not in exceptions] == []


def test_no_socket_hides_its_translations(info: dict[str, Any]) -> None:
    """The page shows a socket's label of the schema in every language; those of widgets are translated."""
    sockets = [
        (name, field, options)
        for name, schema in info.items()
        for kind in ("required", "optional")
        for field, (type_, options) in schema["input"].get(kind, {}).items()
        if isinstance(type_, str)
        and type_.split(",")[0] in ("VIDEO_MODEL", "VIDEO_CONDITIONING", "KEYFRAMES", "LATENT", "IMAGE")
    ]
    assert len(sockets) > 20
    assert [(name, field) for name, field, options in sockets if "display_name" in options] == []


def test_the_two_experts_are_told_apart(info: dict[str, Any]) -> None:
    inputs = info["ReelwireLoadWan"]["input"]
    assert "high noise" in inputs["required"]["checkpoint"][1]["display_name"]
    low = inputs["optional"]["low_noise_checkpoint"][1]
    assert "low noise" in low["display_name"]
    assert not low.get("advanced"), "single files of Wan 2.2 need it"


@pytest.mark.parametrize(
    "page", sorted((ROOT / "web" / "docs").glob("*/*.md")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_help_fits_a_narrow_panel_and_has_the_nodes_title(page: Path) -> None:
    titles = json.loads((ROOT / "locales" / page.stem / "nodeDefs.json").read_text(encoding="utf-8"))
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {titles[page.parent.name]['display_name']}"
    rows = [line for line in lines if line.startswith("|")]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) > 3] == [], "a table of more than two columns"
