"""What the page draws of a timeline: its frames, windows and joins, from headers alone, by the code that renders it."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache

from comfy_api.latest import io

from ...loaders.messages import InputError, data, message, message_of
from ...loaders.notices import heard_by
from ...loaders.parts import JsonObject
from ...loaders.video_model import VideoModel
from ...loaders.weights.json_files import parse_object
from ..loaders import NODES
from ..long_video import LongVideo
from ..sampling.inputs import FRAMES
from ..sampling.long import counts_seconds, outlined_plan, sampled_rate
from ..types import InputValue
from .inputs import check_timeline

PATH = "/reelwire/timeline"
LOADERS = {node.row.node: node for node in NODES}
AWAITED = ("keyframes", "source", "mask", "extend", "audio")
OPTIONS = ("window", "overlap", "adain", "memory", "hold")  # how windows hang together
# inputs of Long Video on which its plan rests, by their types
TYPES: dict[type, tuple[str, ...]] = {
    int: ("frames", "width", "height", "window", "overlap", "steps"),
    float: ("guidance", "adain", "memory", "hold", "fps", "shift"),
    str: ("sampler", "preset", "frames_from"),
    bool: ("loop",),
}


def outlook(asked: JsonObject) -> JsonObject:
    """What a timeline will be.

    asked: {"timeline": its text, "loader": null or {"type", "inputs"} of a loader node, "inputs": widgets of Long
    Video, "awaited": its inputs that a link will bring}.
    Returns {"readable": whether the text is a timeline, "error": a message or null}, and with a loader as much as is
    known of {"fps", "frames", "step": of the grid, "strengths": whether pictures may have one, "windows": [[start, end,
    shared, prompt]], "notes"}.
    """
    from ...samplers.long.timeline import read_timeline

    text = asked.get("timeline")
    text = text if isinstance(text, str) else ""
    result: JsonObject = {"readable": False, "error": None}
    try:
        read_timeline(text, None, None)
        result["readable"] = True
        inputs, model = _inputs(asked.get("inputs")), _model(asked.get("loader"))
        if model is None:
            check_timeline(text, inputs.get("fps", 0.0), inputs.get("frames", 0))
        else:
            with heard_by(lambda _: None):
                _plan(model, text, inputs, _names(asked.get("awaited")), result)
    except (ValueError, OSError) as error:
        result["error"] = data(message_of(error))
    return result


def _plan(
    model: VideoModel, text: str, inputs: dict[str, InputValue], awaited: Collection[str], result: JsonObject
) -> None:
    """Write what a model makes of a timeline into a result, as far as it is known; raises InputError."""
    from ...samplers.long.plan import LongVideoOptions, check_prompts, spans_of
    from ...samplers.long.timeline import read_timeline

    is_open = "frames" not in inputs or inputs.get("frames_from", FRAMES) != FRAMES
    options = LongVideoOptions(**{name: inputs.pop(name) for name in OPTIONS if name in inputs})
    result.update(strengths=model.capabilities().strengths, step=spans_of(model, options).step)
    fps = inputs.pop("fps", 0.0)
    if not fps and {"source", "extend"} & {*awaited} and counts_seconds(text):
        result["error"] = data(message("timeline_rate_awaited"))
        return
    result["fps"] = fps = fps or sampled_rate(model, inputs)
    if is_open:
        result["error"] = data(message("timeline_length_awaited"))
        return
    plan = outlined_plan(model, _without_words(text), fps, options, awaited, inputs)
    result["frames"] = plan.request.frames
    result["windows"] = [[window.start, window.end, window.shared, window.prompt] for window in plan.windows]
    notes = check_prompts(model, read_timeline(text, fps, None))  # last: windows lie as they do, whatever is written
    result["notes"] = [data(note) for note in (*plan.notes, *notes)]


def _without_words(text: str) -> str:
    """A timeline's text with empty prompts at their times."""
    content = parse_object(text)
    prompts = [{**prompt, "text": ""} for prompt in content["prompts"]]
    return json.dumps({**content, "prompts": prompts, "negative": ""})


def _model(loader: object) -> VideoModel | None:
    """The model that a loader node would load, of which only headers are read; None where no loader is known."""
    if not isinstance(loader, dict) or loader.get("type") not in LOADERS:
        return None
    inputs = loader.get("inputs")
    known = {name: value for name, value in (inputs if isinstance(inputs, dict) else {}).items() if _is_text(value)}
    node = LOADERS[loader["type"]]
    names = {field.id for field in node.define_schema().inputs}
    return node.model_of(**{name: value for name, value in known.items() if name in names})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _inputs(inputs: object) -> dict[str, InputValue]:
    """The inputs of Long Video that are of their types."""
    values = inputs if isinstance(inputs, dict) else {}
    known = dict[str, InputValue]()
    for kind, names in TYPES.items():
        for name in names:
            value = values.get(name)
            if isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == (type(value) is bool):
                _check_range(name, value)
                known[name] = kind(value)
    return known


def _check_range(name: str, value: InputValue) -> None:
    """Raise InputError for a number that the widget of Long Video does not take."""
    least, most = _ranges().get(name, (value, value))
    if not least <= value <= most:
        raise InputError(name, value, message("takes_a_range", least=least, most=most))


@cache
def _ranges() -> dict[str, tuple[float, float]]:
    """(the least, the most) of each number of Long Video."""
    fields = LongVideo.define_schema().inputs
    return {f.id: (f.min, f.max) for f in fields if isinstance(f, (io.Int.Input, io.Float.Input))}


def _names(awaited: object) -> tuple[str, ...]:
    return tuple(name for name in AWAITED if name in (awaited if isinstance(awaited, list) else ()))
