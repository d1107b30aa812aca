"""Videos longer than a model can sample at once: window after window, each kept on disk, decoded as they come.

LTX-Video hands the latents of one window to the next and never decodes and encodes at a join. The recipe (overlapping
windows, statistics held near the first window's by AdaIN, latents remembered from long ago at negative times) is of
LTXVLoopingSampler (Lightricks, https://github.com/Lightricks/ComfyUI-LTXVideo) and of diffusers'
LTXI2VLongMultiPromptPipeline. What other families do is told by their `extension`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ...loaders.common.images import cover
from ...loaders.messages import message
from ...loaders.notices import stop_if_asked
from ...loaders.request import Conditioning, ContinuationLatents, Keyframe, Request
from ...loaders.vae.tiles import Tiling
from ...loaders.video_model import VideoModel
from ..decode import Form, floats, frames_of
from ..denoise import RunSoFar
from ..parallel.clip.spread import sample, stream_frames
from ..plan import plan
from ..sources.inpaint import Inpainting
from ..sources.untouched import with_untouched
from .context import sample_in_context
from .job import Job
from .plan import LongPlan, LongVideoOptions
from .source import WindowSources
from .spread import Spread, waits_for_none
from .timeline import Timeline
from .windows import Window

PIECE = 8  # frames of a clip that are scaled at once
ENDING = 1  # latent frames of the beginning that a loop's last window ends with


@dataclass
class Callbacks:
    """Who looks on. step: hears (steps done in the whole video, steps in all, the run); tell: notes in words."""

    step: Callable[[int, int, RunSoFar], None] = lambda *_: None
    tell: Callable[[str], None] = lambda _: None


def render(
    model: VideoModel,
    timeline: Timeline,
    whole: LongPlan,
    options: LongVideoOptions,
    job: Job,
    tiling: Tiling | None,
    callbacks: Callbacks,
    form: Form = floats,
    spread: Spread | None = None,
) -> Iterator[Tensor]:
    """Frames of the whole video in order, as pieces [n, H, W, 3] in 0..1 on the CPU, in the form wanted; those that it
    shares with the clip that it goes on from are left out.

    Windows that `job` holds are not sampled again; each new one is kept there before it is decoded. spread: who samples
    them elsewhere.
    """
    if whole.request.mask is not None:
        callbacks.tell(message("mask_decoded"))
    renderer, count = _Renderer(model, timeline, whole, options, job, tiling, callbacks, form, spread), 0
    modes = {
        "latents": renderer.by_latents,
        "last_frames": renderer.by_last_frames,
        "context_windows": renderer.in_context,
    }
    for piece in modes[whole.mode]():
        known = max(whole.shared - count, 0)  # the clip's
        count += len(piece)
        if known < len(piece):
            yield piece[known:]
    if count != whole.request.frames:
        raise RuntimeError(message("count_wrong", count=count, wanted=whole.request.frames))


def clip_pieces(clip: Tensor | None, size: tuple[int, int], form: Form = floats) -> Iterator[Tensor]:
    """A clip [N, H, W, 3] as frames of (width, height) in the form wanted, a few at a time; nothing of None."""
    for piece in () if clip is None else clip.split(PIECE):
        yield form(cover(piece, *size))


@dataclass
class _Renderer:
    model: VideoModel
    timeline: Timeline
    whole: LongPlan
    options: LongVideoOptions
    job: Job
    tiling: Tiling | None
    callbacks: Callbacks
    form: Form
    spread: Spread | None = None
    prompts: dict[int, Conditioning] = field(default_factory=dict, init=False)
    sources: WindowSources = field(init=False)

    def __post_init__(self) -> None:
        self.sources = WindowSources(self.model, self.whole)

    def by_latents(self) -> Iterator[Tensor]:
        """One stream of latents through one decoder."""
        facts, request = self.model.facts, self.whole.request
        size = facts.latent_shape(request.width, request.height, request.frames)[3:]
        made = lambda form: frames_of(
            self.model, self._latents, size, request.seed, self.tiling, self.callbacks.tell, self._smaller, form
        )
        yield from self._with_untouched(self.sources.all_untouched, made)

    def _latents(self) -> Iterator[Tensor]:
        """Latent frames [1, C, 1, h, w] of the whole video, each as soon as no later window changes it."""
        ratio, tail, first = self.model.facts.temporal_ratio, torch.empty(0), torch.empty(0)
        for number, window in enumerate(self.whole.windows):
            overlap = (window.shared - 1) // ratio + 1 if window.shared else 0
            past = None if number else self.sources.past
            if overlap:
                memory = first[:, :, :1] if self.options.memory else None
                ending = first[:, :, :ENDING] if self._leads_back(number) else None
                held = tail[:, :, -overlap:], self.options.hold
                past = ContinuationLatents(*held, memory, self.options.memory, ending)
            latents = self._window(number, window, window.keyframes, past, first if number else None)
            if not number:
                first = latents
            joined = _joined(tail, latents, overlap)
            after = self.whole.windows[number + 1] if number + 1 < len(self.whole.windows) else None
            shared = (after.shared - 1) // ratio + 1 if after else 0
            done = joined.shape[2] - shared
            if done:  # a window may be shared as a whole
                yield from joined[:, :, :done].split(1, 2)
            tail = joined[:, :, done:]

    def by_last_frames(self) -> Iterator[Tensor]:
        """Windows that are decoded one by one; each begins with the last frames of the one before."""
        tail, first = torch.empty(0), torch.empty(0)

        def remembered(form: Form, piece: Tensor) -> Tensor:
            nonlocal tail, first
            first = first if len(first) else piece[:1].cpu()
            last = piece[-self._most_shared() :].cpu()
            tail = torch.cat([tail, last])[-self._most_shared() :] if len(tail) else last
            return form(piece)

        self._send_ahead()
        for number, window in enumerate(self.whole.windows):
            keyframes = window.keyframes
            if window.shared and not any(k.frame == 0 for k in keyframes):
                keyframes = (Keyframe(tail[-window.shared :], 0), *keyframes)
            if self._leads_back(number):
                keyframes = (*keyframes, Keyframe(first, window.frames - 1))
            latents, known = self._window(number, window, keyframes), window.shared
            made = partial(self._streamed, latents, remembered)
            for piece in self._with_untouched(self.sources.untouched(window), made):
                new, known = piece[min(known, len(piece)) :], max(0, known - len(piece))
                if len(new):
                    yield new

    def in_context(self) -> Iterator[Tensor]:
        window = self.whole.windows[0]
        latents = self._window(0, window, ())
        made = partial(self._streamed, latents, lambda form, piece: form(piece))
        yield from self._with_untouched(self.sources.all_untouched, made)

    def _streamed(self, latents: Tensor, through: Callable[[Form, Tensor], Tensor], form: Form) -> Iterator[Tensor]:
        """The frames of latents; each piece goes through a function that knows the form wanted."""
        seed, tell = self.whole.request.seed, self.callbacks.tell
        return stream_frames(self.model, latents, seed, self.tiling, tell, self._smaller, partial(through, form))

    def _with_untouched(
        self, untouched: Inpainting | None, made: Callable[[Form], Iterator[Tensor]]
    ) -> Iterator[Tensor]:
        """Frames that are the source's outside of the mask."""
        return with_untouched(self.model, untouched, made, self.whole.request.seed, self.tiling, self.form)

    def _smaller(self, tiling: Tiling) -> None:
        """Memory was too short for larger tiles: it will be for the next window, and when the render goes on later."""
        self.tiling = tiling
        self.job.settle(tiling)

    def _leads_back(self, number: int) -> bool:
        """Whether a window closes a loop."""
        return self.whole.leads_back and number == len(self.whole.windows) - 1

    def _most_shared(self) -> int:
        return max(1, *(window.shared for window in self.whole.windows))

    def _window(
        self,
        number: int,
        window: Window,
        keyframes: tuple[Keyframe, ...],
        past: ContinuationLatents | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Latents of a window: from the job, or sampled and kept there."""
        if self.job.has(number):
            latents = self.job.read(number)
            if latents is not None:
                return latents
            self.callbacks.tell(message("window_damaged", number=number + 1))
        made = self.job.sampled(number)
        if made is None:
            made = self._sampled(number, window, self._request(window, keyframes, past))
        with self.job.holding(number, made):
            latents = made.cpu().contiguous()  # laid out as a file's, so that sums agree
            if first is not None and self.whole.mode == "latents":
                latents = self.sources.restored(adain(latents, first, self.options.adain), window)
            self.job.write(number, latents)
        room = self.model.vae_bytes(self.tiling or Tiling(), *latents.shape[3:])
        with self.model.use("vae", room):  # sampling may have sent it away while the decoder was at work
            return latents

    def _request(
        self, window: Window, keyframes: tuple[Keyframe, ...], past: ContinuationLatents | None = None
    ) -> Request:
        """What a sampler is asked for in a window."""
        seed, request = (self.whole.request.seed + window.start) % 2**64, self.sources.of(window)
        return replace(request, frames=window.frames, keyframes=keyframes, past=past, seed=seed)

    def _send_ahead(self) -> None:
        """Have workers begin with all windows that wait for no other."""
        for number, window in enumerate(self.whole.windows):
            if self.spread is not None and waits_for_none(self.whole, number, window) and not self.job.has(number):
                self._send(self.spread, number, window, self._request(window, window.keyframes))

    def _send(self, spread: Spread, number: int, window: Window, request: Request) -> None:
        spread.send(number, self.model, self._conditioning(window, request.keyframes), plan(self.model, request))

    def _keep_finished(self, awaited: int) -> None:
        """Keep what workers have done before its turn: of windows that wait for no other, but the one that is taken."""
        assert self.spread is not None
        for number in self.spread.finished():
            is_free = waits_for_none(self.whole, number, self.whole.windows[number])
            if number != awaited and is_free and not self.job.has(number):
                latents = self.spread.take(number, len(self.whole.windows), lambda: None)
                self.job.write(number, latents.contiguous())

    def _sampled(self, number: int, window: Window, request: Request) -> Tensor:
        count = len(self.whole.windows)
        if self.spread is not None and self.whole.mode != "context_windows":
            if not self.spread.sent(number):
                self._send(self.spread, number, window, request)
            return self.spread.take(number, count, partial(self._keep_finished, number))
        on_step = lambda done, total, run: self.callbacks.step(number * total + done, count * total, run)
        conditioning = self._conditioning(window, request.keyframes)
        if self.whole.mode == "context_windows":
            spans = self.whole.spans
            return sample_in_context(self.model, conditioning, request, spans.length, spans.overlap, on_step)
        return sample(self.model, conditioning, plan(self.model, request), on_step)

    def _conditioning(self, window: Window, keyframes: tuple[Keyframe, ...]) -> Conditioning:
        """The window's prompt, read once; anew for each window where the text encoder looks at its first frame too."""
        text, model = self.timeline.prompts[window.prompt].text, self.model
        if model.facts.reads_pictures:
            return model.encode(text, self.timeline.negative, keyframes)
        if not self.prompts:
            for number, prompt in enumerate(self.timeline.prompts):
                stop_if_asked()
                self.prompts[number] = model.encode(prompt.text, self.timeline.negative)
        return self.prompts[window.prompt]


def adain(latents: Tensor, first: Tensor, share: float) -> Tensor:
    """Latents [1, C, t, h, w] with the mean and spread of each channel pulled to the first window's.

    AdaIN, Huang and Belongie 2017.
    """
    over = (2, 3, 4)
    (mean, spread), (wanted, width) = ((x.mean(over, True), x.std(over, keepdim=True)) for x in (latents, first))
    return torch.lerp(latents, (latents - mean) / spread.clamp(min=1e-6) * width + wanted, share)


def _joined(tail: Tensor, latents: Tensor, overlap: int) -> Tensor:
    """Latents that go on from a tail: the `overlap` frames that both hold fade from the one to the other."""
    if not overlap:
        return latents
    ramp = torch.linspace(0, 1, overlap + 2)[1:-1].view(1, 1, -1, 1, 1)
    return torch.cat([torch.lerp(tail[:, :, -overlap:], latents[:, :, :overlap], ramp), latents[:, :, overlap:]], 2)
