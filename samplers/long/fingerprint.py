"""What decides about the latents of a long render, in words that are the same when it goes on with a later version."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from ...loaders.common.emphasis import Segment, segments
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ..caches.store import fingerprint as checkpoint_fingerprint
from ..kernels import kernel_of
from .job import fingerprint
from .plan import LongPlan, LongVideoOptions
from .timeline import Timeline

_NUMBERS = ("width", "height", "frames", "steps", "guidance", "sampler", "seed", "shift")  # of a request


def render_fingerprint(
    model: VideoModel, timeline: Timeline, plan: LongPlan, options: LongVideoOptions
) -> dict[str, object]:
    """All that decides about the latents of a render, by the names that people know."""
    request = plan.request
    prompts = {f"prompt {i}": [prompt.frame, prompt.text] for i, prompt in enumerate(timeline.prompts, 1)}
    pictures = {id(k.images): k.images for k in request.keyframes}  # many may show the same
    shown = {key: fingerprint(images) for key, images in pictures.items()}
    keyframes = {
        f"keyframe {i}": [k.frame, k.strength, shown[id(k.images)]] for i, k in enumerate(request.keyframes, 1)
    }
    return {
        **_of_model(model),
        **{name: getattr(request, name) for name in _NUMBERS},
        "guidance of the second expert": request.guidance_2,
        **_changed(model, request),
        **asdict(options),
        **prompts,
        "negative prompt": timeline.negative,
        **_weights(timeline),
        **keyframes,
        **_of_source(plan),
        "calibration": _digest(canonical(plan.longest.policy)),
        "places of windows": _digest(repr([(w.start, w.end, w.shared, w.prompt) for w in plan.windows])),
    }


def _of_source(plan: LongPlan) -> dict[str, object]:
    """What the video is made of or goes on from; nothing where there is none, so that older renders go on."""
    request = plan.request
    images = {"source": request.source, "mask": request.mask, "clip": plan.clip}
    known = {name: fingerprint(value) for name, value in images.items() if value is not None}
    return known | ({"strength": request.strength} if request.source is not None else {})


def _changed(model: VideoModel, request: Request) -> dict[str, object]:
    """What older renders did not know, where it is not as they were: so they go on."""
    heard = "frame_rate" in model.checkpoint.spec.features and request.fps != model.facts.fps
    return {
        **({"frames per second": request.fps} if heard else {}),
        **({"loop": "True"} if request.loop else {}),
        **({"preset": f"{request.preset} {canonical(request.program)}"} if request.program is not None else {}),
    }


def _weights(timeline: Timeline) -> dict[str, str]:
    """That brackets are weights, where there are any: to older renders they were letters."""
    texts = (timeline.negative, *(prompt.text for prompt in timeline.prompts))
    return {"weights in prompts": "True"} if any(segments(text) != (Segment(text),) for text in texts) else {}


def _of_model(model: VideoModel) -> dict[str, object]:
    recipe = model.recipe
    files = {
        part.replace("_", " "): checkpoint_fingerprint(path) for part, path in recipe.files.items() if path.exists()
    }
    loras = [f"{lora.file.name} {checkpoint_fingerprint(lora.file)} {lora.identity}" for lora in model.loras]
    kernel = kernel_of(model).identity  # named where it differs from what older renders had, so that they go on
    return {
        "model": f"{model.name} {model.variant}",
        **files,
        "precision": f"{recipe.dtype} {recipe.storage}",
        "LoRA": loras,
        **{name: canonical(value) for name, value in _options(model).items()},
        "model options": str(dict(model.options)),
        **({"kernel for attention": kernel} if model.host_attention and kernel else {}),
        **({"trimmed text": "True"} if model.trims_text else {}),
    }


def _options(model: VideoModel) -> dict[str, object]:
    """The options of a model that are dataclasses or None."""
    return {"guidance node": model.guidance, "speed": model.speed, "cache": model.cache}


def canonical(value: object) -> str:
    """A dataclass as a call with those of its fields that differ from their defaults; other values as their repr."""
    if isinstance(value, tuple):
        return f"({''.join(f'{canonical(item)}, ' for item in value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    changed = (f for f in fields(value) if f.repr and getattr(value, f.name) != _default(f))
    return f"{type(value).__name__}({', '.join(f'{f.name}={canonical(getattr(value, f.name))}' for f in changed)})"


def _default(field: Field[object]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def upgraded(begun: Mapping[str, object], model: VideoModel, plan: LongPlan) -> dict[str, object]:
    """The inputs of an unfinished render as this version would have written them.

    Earlier versions wrote all fields of a dataclass, as far as they had them then, and knew fewer options.
    """
    inputs = {**asdict(LongVideoOptions()), **begun}
    for name, value in _options(model).items():
        if isinstance(inputs.get(name), str):
            inputs[name] = _without_defaults(inputs[name], value)
    policy = plan.longest.policy
    is_renamed = str(begun.get("cache")).startswith("External(") and inputs["cache"] == canonical(model.cache)
    if inputs.get("calibration") == _digest(repr(policy)) or (is_renamed and not getattr(policy, "ratios", ())):
        inputs["calibration"] = _digest(canonical(plan.longest.policy))
    return inputs


def _without_defaults(text: str, like: object) -> str:
    """The repr of a dataclass in canonical form; like: a value of the classes that it may name."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return text
    defaults = {
        type(value).__name__: {f.name: _unparsed(repr(_default(f))) for f in fields(value)}
        for value in _dataclasses(like)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            _rename_library_cache(call, call.func, like)
            usual = defaults.get(call.func.id, {})
            call.keywords = [k for k in call.keywords if ast.unparse(k.value) != usual.get(k.arg or "")]
    wanted = canonical(like)
    return wanted if ast.unparse(tree) == _unparsed(wanted) else ast.unparse(tree)


def _rename_library_cache(call: ast.Call, name: ast.Name, like: object) -> None:
    """Give the one class that all libraries' caches had in 0.1 the name of today's, which its `kind` says."""
    kind = next((ast.literal_eval(k.value) for k in call.keywords if k.arg == "kind"), None)
    if name.id == "External" and kind == getattr(like, "title", "") and is_dataclass(like):
        name.id = type(like).__name__
        call.keywords = [k for k in call.keywords if k.arg in {field.name for field in fields(like)}]


def _unparsed(text: str) -> str:
    """Python's own spelling of an expression; the text where it is none."""
    try:
        return ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return text


def _dataclasses(value: object) -> Iterator[Any]:
    """A value, if it is a dataclass, and those among its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in fields(value):
            yield from _dataclasses(getattr(value, field.name))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
