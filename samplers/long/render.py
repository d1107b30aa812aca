"""Videos longer than a model can sample at once: window after window, each kept on disk, decoded as they come.

LTX-Video hands the latents of one window to the next and never decodes and encodes at a join. The recipe (overlapping
windows, statistics held near the first window's by AdaIN, latents remembered from long ago at negative times) is that of
LTXVLoopingSampler (Lightricks, https://github.com/Lightricks/ComfyUI-LTXVideo) and of diffusers'
LTXI2VLongMultiPromptPipeline. What other families do is told by their `extension`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...loaders.denoiser import Run
from ...loaders.limits import check_frames
from ...loaders.messages import InputError, about, either, message, message_of
from ...loaders.request import Capabilities, Conditioning, Keyframe, Past, Request
from ...loaders.vae.tiles import Tiling
from ...loaders.video_model import VideoModel
from ..caches.runner import planned
from ..caches.store import fingerprint as checkpoint_fingerprint
from ..decode import Form, floats, frames_of, stream_frames
from ..denoise import ready, sample
from ..kernels import attention_notes, kernel_of
from ..keyframes import cut_notes, plan
from .context import sample_in_context
from .job import Job, fingerprint
from .timeline import Timeline
from .windows import Spans, Window, check_spans, lay_windows, with_keyframes


@dataclass(frozen=True)
class Style:
    """How windows hang together. window, overlap: frames, 0 for the model's own.

    adain: how far the mean and spread of each latent channel are pulled to the first window's; memory: how strongly the
    first latent frame of the video is remembered by all windows, 0 for not at all; hold: how strongly what two windows
    share is kept in the second.
    """

    window: int = 0
    overlap: int = 0
    adain: float = 0.25
    memory: float = 0.0
    hold: float = 1.0


@dataclass(frozen=True)
class LongPlan:
    """A whole render before it begins. request: of the whole video, complete; notes: what the person should know."""

    windows: tuple[Window, ...]
    spans: Spans
    request: Request
    way: str
    notes: tuple[str, ...]

    @property
    def request_of_a_window(self) -> Request:
        """What the longest window asks for, beside its pictures."""
        return replace(self.request, frames=min(self.spans.length, self.request.frames))


@dataclass
class Watch:
    """Who looks on. step: hears (steps done in the whole video, steps in all, the run); tell: notes in words."""

    step: Callable[[int, int, Run | None], None] = lambda *_: None
    tell: Callable[[str], None] = lambda _: None


def plan_long(model: VideoModel, timeline: Timeline, request: Request, style: Style) -> LongPlan:
    """Which windows make this video, and what each is given; raises InputError before any weights are read."""
    request = model.complete(request)
    title = f"{model.title} ({model.variant})"
    _check_style(style)
    spans = _spans(model, style, title)
    check_frames(request.frames, spans.step, title)
    extension, capabilities = model.extension(), model.capabilities()
    placed, notes = plan(request.keyframes, replace(capabilities, sets=None, near=0), request.frames)
    notes += cut_notes(request)
    if extension.way == "context":
        _check_context(model, title, placed, timeline, request.frames > spans.length)
        windows: tuple[Window, ...] = (Window(0, request.frames - 1, 0, 0),)
        told = message("long_context", title=title, length=spans.length, overlap=spans.overlap, way=extension.told)
    else:
        placed, more = _on_joints(placed, capabilities, spans, request.frames)
        at = tuple(k.frame for k in placed)
        joints, keys = (at, ()) if capabilities.sets is not None else ((), at)
        windows = with_keyframes(lay_windows(request.frames, spans, timeline, joints, keys), placed, capabilities)
        notes += more
        _check_ends(windows, capabilities, spans)
        told = message("long_windows", title=title, count=len(windows), length=spans.length, way=extension.told)
        notes += _moved_prompts(windows, timeline)
    if len(windows) == 1 and extension.way != "context":
        told = message("long_one", title=title, frames=request.frames)
    notes += planned(model, replace(request, frames=min(spans.length, request.frames)))[1] + attention_notes(model)
    made = LongPlan(windows, spans, replace(request, keyframes=placed), extension.way, (told, *notes))
    for window in windows:
        _check_window(model, made, window)
    return made


def _check_style(style: Style) -> None:
    for name in ("adain", "memory", "hold"):
        if not 0 <= getattr(style, name) <= 1:
            raise InputError(name, getattr(style, name), message("share_rule"), message("use_shares"))


def _spans(model: VideoModel, style: Style, title: str) -> Spans:
    """Windows as long as the model's default, sharing a quarter where its way of going on does not say."""
    facts = model.facts
    length, counts = style.window or facts.presets["default"]["frames"], facts.frame_counts
    if counts and length not in counts:
        told = either(*counts)
        raise InputError(
            "window", length, message("window_counts", title=title, counts=told), message("use_value_or_0", value=told)
        )
    step = length - 1 if counts else facts.frame_step or facts.temporal_ratio
    units = (length - 1) // step
    quarter = max(units // 4, min(1, units - 1)) * step + 1
    spans = Spans(step, length, style.overlap or model.extension().overlap or quarter, bool(counts))
    check_spans(spans, title)
    return spans


def _moved_prompts(windows: tuple[Window, ...], timeline: Timeline) -> tuple[str, ...]:
    """Prompts that do not begin with the frame that they ask for."""
    begins = {w.prompt: w.start + w.shared for w in reversed(windows)}
    pairs = ((number, prompt.frame, begins[number]) for number, prompt in enumerate(timeline.prompts))
    return tuple(message("prompt_moved", number=n + 1, frame=at, asked=asked) for n, asked, at in pairs if asked != at)


def _check_context(model: VideoModel, title: str, keyframes: tuple[Keyframe, ...], timeline: Timeline, several: bool) -> None:  # fmt: skip
    """A single sampling follows one prompt, and nothing else. several: whether it sees more than one window."""
    remedy = message("load_or_ltx", models=model.image_models)
    if model.controlled():
        raise InputError("model", title, message("no_control_in_long"), message("use_sample_video"))
    if model.cache is not None and several:
        what = message("with_cache", cache=model.cache.title)
        with about(model.cache):
            raise InputError("model", what, message("cache_one_window"), message("disconnect_cache"))
    if keyframes or len(timeline.prompts) > 1:
        what = message("keyframes_word") if keyframes else message("count_prompts", count=len(timeline.prompts))
        raise InputError("timeline", what, message("one_sampling", title=title), remedy)


def _check_ends(windows: tuple[Window, ...], capabilities: Capabilities, spans: Spans) -> None:
    """Where each window needs a picture at its end too, whether each has one."""
    if capabilities.sets is None or not all("last" in places for places in capabilities.sets):
        return
    lacking = [w.end for w in windows if not any(k.frame == w.end - w.start for k in w.keyframes)]
    if lacking:
        rule = message("needs_both_ends", title=capabilities.title)
        remedy = message("put_keyframes_apart", most=spans.length - 1)
        raise InputError("keyframes", message("none_at", frames=", ".join(map(str, lacking[:5]))), rule, remedy)


def _on_joints(keyframes: tuple[Keyframe, ...], capabilities: Capabilities, spans: Spans, frames: int) -> tuple[tuple[Keyframe, ...], tuple[str, ...]]:  # fmt: skip
    """Where a model takes pictures at its ends alone, each lies where windows can meet."""
    if capabilities.sets is None:
        return keyframes, ()
    step, title = spans.step, capabilities.title
    if spans.overlap > 1:
        rule = message("share_one_picture", title=title)
        raise InputError("overlap", spans.overlap, rule, message("use_0"))
    if keyframes and keyframes[-1].frame and not any("last" in places for places in capabilities.sets):
        rule = message("first_frame_alone", title=title)
        with about(keyframes[-1]):
            raise InputError(
                "keyframes", message("at_frame", frame=keyframes[-1].frame), rule, message("load_for_joints")
            )
    moved = tuple(replace(k, frame=min(round(k.frame / step) * step, frames - 1)) for k in keyframes)
    pairs = zip(keyframes, moved, strict=True)
    notes = tuple(message("keyframe_on_joint", frame=a.frame, to=b.frame) for a, b in pairs if a.frame != b.frame)
    for one, other in pairwise(moved):
        if one.frame == other.frame:
            with about(other):
                apart = message("put_apart", step=step)
                raise InputError("keyframes", message("two_within", step=step), message("own_joint"), apart)
    return moved, notes


def _check_window(model: VideoModel, made: LongPlan, window: Window) -> None:
    """All that a sampler would refuse, before the first window is made."""
    request, size = made.request, (made.request.height, made.request.width)
    keyframes = window.keyframes
    if made.way == "pictures" and window.shared and not any(k.frame == 0 for k in keyframes):
        keyframes = (Keyframe(torch.zeros(window.shared, *size, 3), 0), *keyframes)  # the last frames before it
    frames = min(made.spans.length, window.frames)
    try:
        ready(model, replace(request, frames=frames, keyframes=keyframes))
    except InputError as error:
        if error.name != "keyframes":
            raise
        raise InputError(
            "window", message("window_frames", start=window.start, end=window.end), message_of(error)
        ) from error


def inputs_of(model: VideoModel, timeline: Timeline, made: LongPlan, style: Style) -> dict[str, Any]:
    """All that decides about the latents of a render, by the names that people know."""
    recipe, request = model.recipe, made.request
    files = {part.replace("_", " "): checkpoint_fingerprint(path) for part, path in recipe.files.items() if path.exists()}  # fmt: skip
    told = {name: getattr(request, name) for name in ("width", "height", "frames", "steps", "guidance", "sampler", "seed", "shift")}  # fmt: skip
    options = {"guidance node": model.guidance, "speed": model.speed, "cache": model.cache, "model options": dict(model.options)}  # fmt: skip
    told["guidance of the second expert"] = request.guidance_2
    kernel = kernel_of(model).backend  # named where it differs from what older renders had, so that they go on
    options |= {"kernel for attention": kernel} if model.host_attention and kernel else {}
    options |= {"trimmed text": True} if model.speed is not None and model.speed.trim_text else {}
    prompts = {f"prompt {i}": [prompt.frame, prompt.text] for i, prompt in enumerate(timeline.prompts, 1)}
    keyframes = {f"keyframe {i}": [k.frame, k.strength, fingerprint(k.images)] for i, k in enumerate(request.keyframes, 1)}  # fmt: skip
    return {
        "model": f"{model.name} {model.variant}", **files, "precision": f"{recipe.dtype} {recipe.storage}",
        "LoRA": [f"{lora.file.name} {checkpoint_fingerprint(lora.file)} {lora.strength:g} {lora.low_noise:g}" for lora in model.loras],
        **{name: str(value) for name, value in options.items()}, **told, **asdict(style), **prompts,
        "negative prompt": timeline.negative, **keyframes, "calibration": _digest(planned(model, made.request_of_a_window)[0]),
        "places of windows": _digest([(w.start, w.end, w.shared, w.prompt) for w in made.windows]),
    }  # fmt: skip


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def render(model: VideoModel, timeline: Timeline, made: LongPlan, style: Style, job: Job, tiling: Tiling | None, watch: Watch,
           form: Form = floats) -> Iterator[Tensor]:  # fmt: skip
    """Frames of the whole video in order, as pieces [n, H, W, 3] in 0..1 on the CPU, in the form wanted. Windows that `job` holds are not
    sampled again; each new one is kept there before it is decoded."""
    renderer, count = _Renderer(model, timeline, made, style, job, tiling, watch, form), 0
    ways = {"latents": renderer.by_latents, "pictures": renderer.by_pictures, "context": renderer.in_context}
    for piece in ways[made.way]():
        count += len(piece)
        yield piece
    if count != made.request.frames:
        raise RuntimeError(message("count_wrong", count=count, wanted=made.request.frames))


@dataclass
class _Renderer:
    model: VideoModel
    timeline: Timeline
    made: LongPlan
    style: Style
    job: Job
    tiling: Tiling | None
    watch: Watch
    form: Form
    prompts: dict[int, Conditioning] = field(default_factory=dict, init=False)

    def by_latents(self) -> Iterator[Tensor]:
        """One stream of latents through one decoder."""
        facts, request = self.model.facts, self.made.request
        size = facts.latent_shape(request.width, request.height, request.frames)[3:]
        yield from frames_of(
            self.model, self._latents, size, request.seed, self.tiling, self.watch.tell, self._smaller, self.form
        )

    def _latents(self) -> Iterator[Tensor]:
        """Latent frames [1, C, 1, h, w] of the whole video, each as soon as no later window changes it."""
        ratio, tail, first = self.model.facts.temporal_ratio, torch.empty(0), torch.empty(0)
        for number, window in enumerate(self.made.windows):
            given = (window.shared - 1) // ratio + 1 if window.shared else 0
            past = None
            if given:
                memory = first[:, :, :1] if self.style.memory else None
                past = Past(tail[:, :, -given:], self.style.hold, memory, self.style.memory)
            latents = self._window(number, window, window.keyframes, past, first if number else None)
            if not number:
                first = latents
            joined = _joined(tail, latents, given)
            after = self.made.windows[number + 1] if number + 1 < len(self.made.windows) else None
            shared = (after.shared - 1) // ratio + 1 if after else 0
            done = joined.shape[2] - shared
            if done:  # a window may be shared as a whole
                yield from joined[:, :, :done].split(1, 2)
            tail = joined[:, :, done:]

    def by_pictures(self) -> Iterator[Tensor]:
        """Windows that are decoded one by one; each begins with the last frames of the one before."""
        tail, seed = torch.empty(0), self.made.request.seed

        def seen(piece: Tensor) -> Tensor:
            nonlocal tail
            last = piece[-self._most_shared() :].cpu()
            tail = torch.cat([tail, last])[-self._most_shared() :] if len(tail) else last
            return self.form(piece)

        for number, window in enumerate(self.made.windows):
            keyframes = window.keyframes
            if window.shared and not any(k.frame == 0 for k in keyframes):
                keyframes = (Keyframe(tail[-window.shared :], 0), *keyframes)
            latents, known = self._window(number, window, keyframes), window.shared
            for piece in stream_frames(self.model, latents, seed, self.tiling, self.watch.tell, self._smaller, seen):
                new, known = piece[min(known, len(piece)) :], max(0, known - len(piece))
                if len(new):
                    yield new

    def in_context(self) -> Iterator[Tensor]:
        window = self.made.windows[0]
        latents = self._window(0, window, ())
        seed = self.made.request.seed
        yield from stream_frames(self.model, latents, seed, self.tiling, self.watch.tell, self._smaller, self.form)

    def _smaller(self, tiling: Tiling) -> None:
        """Memory was too short for larger tiles: it will be for the next window, and when the render goes on later."""
        self.tiling = tiling
        self.job.settle(tiling)

    def _most_shared(self) -> int:
        return max(1, *(window.shared for window in self.made.windows))

    def _window(self, number: int, window: Window, keyframes: tuple[Keyframe, ...], past: Past | None = None, first: Tensor | None = None) -> Tensor:  # fmt: skip
        """Latents of a window: from the job, or sampled and kept there."""
        if self.job.has(number):
            kept = self.job.read(number)
            if kept is not None:
                return kept
            self.watch.tell(message("window_damaged", number=number + 1))
        request = replace(
            self.made.request, frames=window.frames, keyframes=keyframes, past=past, seed=(self.made.request.seed + window.start) % 2**64
        )  # fmt: skip
        latents = self._sampled(number, window, request).cpu().contiguous()  # laid out as a file's, so that sums agree
        if first is not None and self.made.way == "latents":
            latents = towards(latents, first, self.style.adain)
        self.job.write(number, latents)
        room = self.model.vae_bytes(self.tiling or Tiling(), *latents.shape[3:])
        with self.model.use("vae", room):  # sampling may have sent it away while the decoder was at work
            return latents

    def _sampled(self, number: int, window: Window, request: Request) -> Tensor:
        each, all_windows = request.steps, len(self.made.windows)
        on_step = lambda done, total, run: self.watch.step(number * each + done, all_windows * each, run)
        conditioning = self._conditioning(window, request.keyframes)
        if self.made.way == "context":
            spans = self.made.spans
            return sample_in_context(self.model, conditioning, request, spans.length, spans.overlap, on_step)
        return sample(self.model, conditioning, request, on_step)

    def _conditioning(self, window: Window, keyframes: tuple[Keyframe, ...]) -> Conditioning:
        """The window's prompt, read once; anew for each window where the text encoder looks at its first frame too."""
        text, model = self.timeline.prompts[window.prompt].text, self.model
        if model.facts.reads_pictures:
            return model.encode(text, self.timeline.negative, keyframes)
        if not self.prompts:
            for number, prompt in enumerate(self.timeline.prompts):
                try:
                    self.prompts[number] = model.encode(prompt.text, self.timeline.negative)
                except InputError as error:
                    raise InputError(
                        "timeline", message("prompt_name", number=number + 1), message_of(error)
                    ) from error
                for note in self.prompts[number].notes:
                    self.watch.tell(message("note_of_prompt", number=number + 1, note=note))
        return self.prompts[window.prompt]


def towards(latents: Tensor, first: Tensor, share: float) -> Tensor:
    """Latents [1, C, t, h, w] with the mean and spread of each channel pulled towards the first window's (AdaIN, Huang and
    Belongie 2017)."""
    over = (2, 3, 4)
    (mean, spread), (wanted, width) = ((x.mean(over, True), x.std(over, keepdim=True)) for x in (latents, first))
    return torch.lerp(latents, (latents - mean) / spread.clamp(min=1e-6) * width + wanted, share)


def _joined(tail: Tensor, latents: Tensor, given: int) -> Tensor:
    """Latents that go on from a tail: what both hold fades from the one to the other."""
    if not given:
        return latents
    ramp = torch.linspace(0, 1, given + 2)[1:-1].view(1, 1, -1, 1, 1)
    return torch.cat([torch.lerp(tail[:, :, -given:], latents[:, :, :given], ramp), latents[:, :, given:]], 2)
