"""What needs no model is refused before it is queued; later errors reach the page as messages of their node."""

from __future__ import annotations

import io
import json
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from reelwire.tests.support.host import Host, Prompt, Seen, guidance, node, workflow

PICTURE = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
MASK = node("SolidMask", width=64, height=64, value=1.0)


def timeline(*prompts: Any, **more: Any) -> str:
    return json.dumps({"prompts": [{"at": at, "text": text} for at, text in prompts], **more})


# ---------------------------------------------------------------- before it is queued


@dataclass(frozen=True)
class Early:
    """Inputs of the last node of a workflow that are refused whatever the model is, and what is said of them."""

    graph: str
    changes: Mapping[str, Any]
    node: str
    words: tuple[str, str, str]  # value, rule, remedy


def sampler(**inputs: Any) -> dict[str, Any]:
    return {f"3.{name}": value for name, value in inputs.items()}


def control(**inputs: Any) -> dict[str, Any]:
    return {f"3.{name}": value for name, value in inputs.items()}


def long(**inputs: Any) -> dict[str, Any]:
    return {f"11.{name}": value for name, value in inputs.items()}


def guided(**inputs: Any) -> dict[str, Any]:
    """A Guidance node before the sampler."""
    return {"g": guidance(**inputs), "3.model": ["g", 0]}


FORA = node("ReelwireFORA", model=["1", 0], interval=2, start=0.9, end=0.1)
CONTROL = node("ReelwireControl", mask=["mask", 0], strength=1.0)
EARLY = {
    "width": Early("ltx_t2v", sampler(width=100), "3", ("width = 100", "positive multiple of 8", "Use 96 or 112")),
    "height": Early("ltx_t2v", sampler(height=-8), "3", ("height = -8", "positive multiple of 8", "Use 64 or more")),
    "frames": Early("ltx_t2v", sampler(frames=-1), "3", ("frames = -1", "1 to 100000 frames", "Use 1 or more")),
    "fps": Early("ltx_t2v", {"4.fps": 0.5}, "4", ("fps = 0.5", "1 to 240 frames per second", "Use 0 for")),
    "prefix": Early(
        "ltx_t2v", {"4.filename_prefix": "../x"}, "4", ("filename_prefix = ../x", "outside", "video/reelwire")
    ),
    "cache": Early(
        "ltx_t2v",
        {"c": FORA, "3.model": ["c", 0]},
        "c",
        ("start, end = 0.9, 0.1", "reused from start to end", "0 <= start < end"),
    ),
    "guidance": Early(
        "ltx_t2v",
        guided(start=0.5, end=0.5),
        "g",
        ("start, end = 0.5, 0.5", "on from start to end", "0 <= start < end"),
    ),
    "layers": Early(
        "ltx_t2v", guided(layers="one"), "g", ("layers = 'one'", "list of block numbers", "11, 25; 22; 28")
    ),
    "keyframe": Early("wan_vace", {"5.strength": 0.0}, "5", ("strength = 0.0", "above 0", "Use 1 to keep")),
    "control": Early(
        "wan_vace",
        control(start=0.7, end=0.2),
        "3",
        ("start, end = 0.7, 0.2", "counts from start to end", "0 <= start"),
    ),
    "too strong": Early("wan_vace", control(strength=11.0), "3", ("strength = 11.0", "from 0 to 10", "Use 1, or less")),
    "edges": Early(
        "wan_vace",
        control(prepare="edges", low=0.9, high=0.1),
        "3",
        ("low, high = 0.9, 0.1", "above high", "0.01 <= low <= high"),
    ),
    "mask": Early(
        "wan_vace", {"3": CONTROL, "mask": MASK}, "3", ("mask = without frames", "which part", "Connect frames too")
    ),
    "prepare": Early(
        "wan_vace",
        {"3": node("ReelwireControl", strength=1.0, prepare="blur")},
        "3",
        ("prepare = blur", "no frames to prepare", "choose as it is"),
    ),
    "no way": Early(
        "wan_vace", control(prepare="oil"), "3", ("prepare = oil", "no such choice", "Use one of as it is, edges")
    ),
    "experts": Early(
        "wan_t2v",
        {"1.low_noise_checkpoint": "diffusers/tiny-wan2.1-t2v"},
        "1",
        ("low_noise_checkpoint = diffusers", "checkpoint itself", "the other expert"),
    ),
    "no JSON": Early(
        "ltx_long", long(timeline="0: a red circle"), "11", ("timeline = not JSON", "a JSON text", "Write as in {")
    ),
    "a key": Early(
        "ltx_long",
        long(timeline='{"units": "frames"}'),
        "11",
        ("timeline = 'units' in the timeline", "It has unit", "Did you mean unit?"),
    ),
    "no prompt": Early(
        "ltx_long", long(timeline='{"prompts": []}'), "11", ("timeline = no prompts", "At least one", "Write as in")
    ),
    "a late prompt": Early(
        "ltx_long",
        long(timeline=timeline((0, "a"), (97, "b"), unit="frames")),
        "11",
        ("timeline = prompt 2 at frame 97", "ends at frame 96", "begin earlier"),
    ),
    "late in seconds": Early(
        "ltx_long",
        long(timeline=timeline((0, "a"), (5, "b")), fps=24.0),
        "11",
        ("timeline = prompt 2 at frame 120", "ends at frame 96", "begin earlier"),
    ),
    "no frames": Early("ltx_long", long(frames=0), "11", ("frames = 0", "1 to 1000000 frames", "Use 1 or more")),
    "a picture": Early(
        "ltx_long",
        long(timeline=timeline((0, "a"), keyframes=[{"at": 1, "image": "no.png"}])),
        "11",
        ("timeline = image 'no.png'", "no such picture", "Put it there"),
    ),
}


@pytest.mark.parametrize("case", EARLY.values(), ids=EARLY)
def test_refused_before_it_is_queued(host: Host, case: Early) -> None:
    status, answer = host.queue(workflow(case.graph, case.changes))
    assert status == 400
    (error,) = answer["node_errors"][case.node]["errors"]
    name, _, sentence = error["details"].partition(" - ")
    assert name == error["extra_info"]["input_name"] == case.words[0].partition(" = ")[0].partition(",")[0]
    assert not [words for words in case.words if words not in sentence], sentence
    assert sentence.startswith(case.words[0])
    _, known = host.send("/reelwire/refusal", {"text": sentence})
    assert known["values"]["first"]["key"] == "input_rule", "the page can say it in another language"
    host.check()


WRONG = {  # of two nodes: what is wrong -> the input that is blamed
    "3.width": (100, "width"),
    "3.height": (-8, "height"),
    "3.fps": (0.5, "fps"),
    "3.steps": (5000, "steps"),
    "3.guidance": (float("inf"), "guidance"),
    "4.filename_prefix": ("a:b", "filename_prefix"),
    "4.tile": (7, "tile"),
    "4.decode_noise": (3.0, "decode_noise"),
}


@pytest.mark.parametrize("count", [1, 2, len(WRONG)])
def test_each_wrong_input_is_blamed_once_and_no_other(host: Host, count: int) -> None:
    """ComfyUI blames all that `validate_inputs` takes; what it logs it says so."""
    wrong = [*WRONG.items()][-count:]
    status, answer = host.queue(workflow("ltx_t2v", {place: value for place, (value, _) in wrong}))
    assert status == 400
    blamed = [
        (f"{node}.{error['extra_info']['input_name']}", error["details"].partition(" - ")[2])
        for node, found in answer["node_errors"].items()
        for error in found["errors"]
    ]
    assert sorted(place for place, _ in blamed) == sorted(place for place, _ in wrong)
    for place, said in blamed:
        assert said.startswith(f"{WRONG[place][1]} = ")
        assert host.send("/reelwire/refusal", {"text": said})[1]["key"] == "sentences"
    lines = answer["error"]["details"].split("\n")  # of nodes with outputs
    assert len(lines) == len(set(lines)) == sum(place.startswith("4") for place, _ in wrong)


def test_errors_of_other_nodes_are_as_comfyui_says_them(host: Host) -> None:
    graph = {"1": node("EmptyImage", width=-1, height=99999, batch_size=1, color=0)}
    graph["2"] = node("PreviewImage", images=["1", 0])
    _, answer = host.queue(graph)
    errors = answer["node_errors"]["1"]["errors"]
    assert {error["type"] for error in errors} == {"value_smaller_than_min", "value_bigger_than_max"}


def test_a_refusal_is_told_to_those_who_know_it(host: Host) -> None:
    host.queue(workflow("ltx_t2v", {"3.width": 100}))
    assert host.send("/reelwire/refusal", {"text": "width"}) == (200, None)
    assert host.send("/reelwire/refusal", {})[1] is None
    with pytest.raises(urllib.error.HTTPError):
        host.get("/reelwire/refusals")


def test_what_is_told_names_the_prompt_and_its_workflow(host: Host) -> None:
    graph = workflow("ltx_t2v", {"3.frames": 18, "1.precision": "float32", "3.seed": 818})
    host.free()
    events = host.watch(graph, workflow={"id": "of this graph"})
    messages = [*events.all("reelwire.note"), *events.all("reelwire.error")]
    (start,) = events.all("execution_start")
    assert len(messages) > 1
    assert {(one["prompt_id"], one["workflow"]) for one in messages} == {(start["prompt_id"], "of this graph")}


def test_previews_are_as_large_as_comfyui_asks_for(host: Host) -> None:
    """In the shape of the video, so that the page neither waits for large pictures nor shows them askew."""
    from PIL import Image

    changes = {
        "3.width": 768,
        "3.height": 384,
        "3.frames": 1,
        "3.steps": 1,
        "3.seed": 819,
        "4.filename_prefix": "early/wide",
    }
    events = host.watch(workflow("ltx_t2v", changes))
    assert events.all("execution_success")
    assert {Image.open(io.BytesIO(picture)).size for picture in events.pictures} == {(512, 256)}


LINKED: dict[str, dict[str, Any]] = {
    "width": {"n": node("PrimitiveInt", value=100), "3.width": ["n", 0]},
    "fps": {"n": node("PrimitiveFloat", value=0.5), "3.fps": ["n", 0]},
    "a source": {"picture": PICTURE, "3.source": ["picture", 0], "3.strength": 0.5},
}


@pytest.mark.parametrize("name", LINKED)
def test_what_a_link_brings_is_refused_when_it_is_there(host: Host, name: str) -> None:
    entry = host.run(workflow("ltx_t2v", LINKED[name]))
    (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert error["node_id"] == "3"
    assert error["exception_type"] == "reelwire.InputError"


@pytest.mark.parametrize(
    "changes",
    [
        {"11.timeline": timeline((0, "a"), (0.01, "b"))},  # how far apart they are, only the model's rate tells
        {"11.timeline": timeline((0, "a"), (3.9, "b"))},
    ],
)
def test_what_the_model_decides_is_left_to_it(host: Host, changes: dict[str, Any]) -> None:
    """Refused by the node, or made, but not before the model is known."""
    status, answer = host.queue(
        workflow(
            "ltx_long",
            {
                **changes,
                "11.filename_prefix": "early/left",
                "11.model": ["1", 0],
                "1.checkpoint": "bundled/tiny_ltx",
                "11.steps": 1,
            },
        )
    )
    assert status == 200, answer
    host.send("/interrupt", {})
    host.wait(answer["prompt_id"])


# ---------------------------------------------------------------- while it runs


def failed(host: Host, graph: Prompt) -> tuple[dict[str, Any], dict[str, Any], Seen]:
    """(our event, the host's own, all that was seen) of a prompt that fails."""
    events = host.watch(graph)
    (ours,), (theirs,) = events.all("reelwire.error"), events.all("execution_error")
    names = [name for name, _ in events.events]
    assert names.index("reelwire.error") < names.index("execution_error")
    assert ours["prompt_id"] == theirs["prompt_id"]
    assert ours["message"]["text"] in theirs["exception_message"]
    assert "/" not in theirs["exception_type"]
    return ours, theirs, events


def keyframe(frame: int, earlier: str = "", strength: float = 1.0) -> dict[str, Any]:
    linked = {"keyframes": [earlier, 0]} if earlier else {}
    return node("ReelwireKeyframe", image=["picture", 0], frame=frame, strength=strength, **linked)


TWO = {"picture": PICTURE, "one": keyframe(8), "other": keyframe(8, "one"), "3.keyframes": ["other", 0]}
OUTSIDE = {"picture": PICTURE, "one": keyframe(99), "other": keyframe(-1, "one"), "3.keyframes": ["other", 0]}
SHORT = {"c": node("ReelwireControl", frames=["picture", 0], strength=1.0), "picture": PICTURE, "7.control": ["c", 0]}
TRIM = node("ReelwireSpeed", model=["1", 0], compile=False, attention="auto", trim_text=True)
CACHE = node("ReelwireCache", model=["1", 0], policy="plan", speed=1000.0)
LATE = {
    "two keyframes": ("ltx_t2v", TWO, "other", "keyframes_share"),
    "the first keyframe": ("ltx_t2v", OUTSIDE, "one", "keyframe_inside"),
    "a short control": ("wan_vace", SHORT, "c", "are_asked_for"),
    "speed": ("wan_t2v", {"s": TRIM, "3.model": ["s", 0]}, "s", "padding_wan"),
    "guidance": ("ltx_t2v", guided(dynamic=True), "g", "dynamic_guidance_rule"),
    "guidance that is off": ("ltx_t2v", {**guided(method="apg"), "3.guidance": 1.0}, "g", "needs_two_branches"),
    "cache": (
        "ltx_t2v",
        {"c": node("ReelwireFORA", model=["1", 0], interval=9), "3.model": ["c", 0], "3.steps": 3},
        "c",
        "run_has_predictions",
    ),
    "conditioning": (
        "ltx_t2v",
        {"w": node("ReelwireLoadWan", checkpoint="diffusers/tiny-wan2.1-t2v"), "2.model": ["w", 0]},
        "2",
        "model_reads",
    ),
    "the sampler's own": ("ltx_t2v", {"3.frames": 18}, "3", "frames_rule"),
}


def keys(message: Any) -> set[str]:
    """Keys of a message and of those in it."""
    if not isinstance(message, dict):
        return set()
    return {message["key"]}.union(*map(keys, message["values"].values()))


@pytest.mark.parametrize("name", LATE)
def test_the_node_that_caused_it_is_told(host: Host, name: str) -> None:
    graph, changes, cause, key = LATE[name]
    ours, theirs, _ = failed(host, workflow(graph, changes))
    assert ours["node"] == cause
    assert key in keys(ours["message"])
    assert theirs["exception_type"] == "reelwire.InputError"


def test_ids_within_subgraphs_are_told(host: Host) -> None:
    graph = workflow("ltx_t2v", {"picture": PICTURE, "4:1": keyframe(99), "3.keyframes": ["4:1", 0]})
    assert failed(host, graph)[0]["node"] == "4:1"


def test_the_cause_is_the_node_of_this_graph(host: Host) -> None:
    """The host keeps results of nodes from graph to graph: a keyframe of the last one must not be blamed."""
    for name in ("before", "after"):
        graph = workflow("ltx_t2v", {"picture": PICTURE, name: keyframe(98), "3.keyframes": [name, 0]})
        assert failed(host, graph)[0]["node"] == name
    graph = workflow("ltx_t2v", {"picture": PICTURE, "a": keyframe(0), "b": keyframe(98, "a"), "3.keyframes": ["b", 0]})
    assert failed(host, graph)[0]["node"] == "b"
    for old, new in (("a", "c"), ("b", "d")):
        graph = json.loads(json.dumps(graph).replace(f'"{old}"', f'"{new}"'))
    assert failed(host, graph)[0]["node"] == "3", "of two that it could be, none is blamed"


def test_files_that_do_not_fit_are_told_with_the_loader(host: Host) -> None:
    graph = workflow("ltx_t2v", {"1.checkpoint": "diffusers/tiny-wan2.1-t2v", "3.seed": 3})
    ours, theirs, _ = failed(host, graph)
    assert (ours["node"], theirs["exception_type"]) == ("1", "reelwire.CheckpointError")
    assert keys(ours["message"]) == {"sentences", "wrong_folder", "use_its_loader"}


def test_an_error_of_another_pack_is_not_ours(host: Host) -> None:
    options = dict(case_insensitive=False, multiline=False, dotall=False, count=0)
    broken = node("RegexReplace", string="a", regex_pattern="(", replace="b", **options)
    graph = {"1": broken, "2": node("PreviewAny", source=["1", 0])}
    events = host.watch(graph)
    assert events.all("execution_error")
    assert not events.all("reelwire.error")


def test_notes_come_as_messages(host: Host) -> None:
    """A clip that is cut, told by the sampler; and what the loader has loaded."""
    clip = node("EmptyImage", width=64, height=64, batch_size=4, color=255)
    key = node("ReelwireKeyframe", image=["clip", 0], frame=0, strength=1.0)
    events = host.watch(
        workflow(
            "ltx_t2v",
            {
                "clip": clip,
                "key": key,
                "3.keyframes": ["key", 0],
                "3.steps": 1,
                "3.seed": 77,
                "4.filename_prefix": "early/notes",
                "1.precision": "float32",
            },
        )
    )
    notes = [(note["node"], message) for note in events.all("reelwire.note") for message in note["messages"]]
    texts = {place: message for place, message in notes if place == "3"}
    assert "clip_cut" in {message["key"] for place, message in notes if place == "3"}, notes
    assert texts["3"]["text"]
    assert "loaded" in set().union(*(keys(message) for place, message in notes if place == "1"))


# ---------------------------------------------------------------- every input


def posted(host: Host, kind: str, **inputs: Any) -> list[dict[str, Any]]:
    """What the host answers to a node of a kind with these inputs alone."""
    graph = {"n": node(kind, **inputs), "shown": node("PreviewAny", source=["n", 0])}
    status, answer = host.queue(graph)
    assert status == 400
    return list(answer["node_errors"]["n"]["errors"])


def ours(host: Host) -> dict[str, dict[str, Any]]:
    """Kind of node -> its inputs, as the page gets them."""
    known = {kind: schema for kind, schema in host.get("/object_info").items() if kind.startswith("Reelwire")}
    return {
        kind: {**schema["input"]["required"], **schema["input"].get("optional", {})} for kind, schema in known.items()
    }


def test_numbers_beyond_their_limits_are_refused(host: Host) -> None:
    """Also those of inputs that our own checks name, for which the host leaves out its own."""
    taken = []
    for kind, inputs in ours(host).items():
        usual = {
            name: declared[1]["default"] for name, declared in inputs.items() if "default" in (declared[1:] or [{}])[0]
        }
        for name, (sort, *options) in inputs.items():
            limits = options[0] if options else {}
            for value in (limits.get("min", 0) - 1, limits.get("max", 0) + 1) if sort in ("INT", "FLOAT") else ():
                said = [str(error) for error in posted(host, kind, **{**usual, name: value})]
                if not any(name in text and str(value) in text for text in said):
                    taken.append(f"{kind} {name} = {value}")
    assert not taken, taken


def test_what_is_missing_is_said_by_its_name(host: Host) -> None:
    """Our own checks never see an input that is not there."""
    for kind, inputs in ours(host).items():
        if inputs:
            errors = posted(host, kind)
            assert {error["type"] for error in errors} <= {"required_input_missing"}, (kind, errors)


def test_every_node_knows_its_id(host: Host) -> None:
    """What it says while it runs is sent with it."""
    silent = {"ReelwireMemory", "ReelwireLatentUpscale"}
    known = {kind: schema for kind, schema in host.get("/object_info").items() if kind.startswith("Reelwire")}
    assert {kind for kind, schema in known.items() if "unique_id" not in schema["input"].get("hidden", {})} == silent
