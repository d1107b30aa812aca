"""What a run will need, told from headers alone: operations, forwards, steps, memory, time and cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.peaks import weight_bytes
from reelwire.loaders.devices import with_kernels
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import Part, PlainMemory
from reelwire.loaders.request import Conditioning, Guidance, Keyframe, Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import blank
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.estimate import cards
from reelwire.samplers.estimate.count import (
    FAILS,
    FITS,
    MOVES,
    Estimate,
    Machine,
    Need,
    card_of,
    count_steps,
    estimate,
    shortage,
)
from reelwire.samplers.estimate.flops import decode_flops, forward_flops, network_part
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.estimates import ANY, GIB
from reelwire.tests.support.engine.models import FIRST, PROMPT, every, needed, open_plain
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.files.published import VARIANTS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")
LARGEST = "hunyuan_video/t2v-13b"


class Watched(PlainMemory):
    """Keeps what each forward of the network is called with; counts operations when asked to."""

    def __init__(self, count: bool = False) -> None:
        super().__init__()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.flops: list[int] = []
        self._count = count

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        with super().use(part, activations) as module:
            if not part.name.startswith(("transformer", "unet")):
                yield module
                return
            note = lambda _module, _args, kwargs: self.calls.append((part.name, kwargs))
            handle = module.register_forward_pre_hook(note, with_kwargs=True)
            try:
                with sdpa_kernel(SDPBackend.MATH) if self._count else FlopCounterMode(display=False) as counter:
                    if not self._count:
                        yield module
                        return
                    with FlopCounterMode(display=False) as counter:
                        yield module
                    self.flops.append(counter.get_total_flops())
            finally:
                handle.remove()


def sampled(model: VideoModel, count: bool = False, **changes: Any) -> Watched:
    """A real run of a tiny model, watched."""
    memory = Watched(count)
    watched, inputs = replace(model, memory=memory), {**needed(model), "steps": 2, "seed": 3, **changes}
    conditioning = watched.encode(PROMPT, "", inputs["keyframes"])
    sample(watched, filled(conditioning), Request(**inputs))
    return memory


def filled(conditioning: Conditioning) -> Conditioning:
    """As if the prompts filled their tokens."""
    full = {
        branch: {k: torch.ones_like(v) if k == "mask" else v for k, v in read.items()}
        for branch, read in conditioning.branches.items()
    }
    return replace(conditioning, branches=full)


# ---------------------------------------------------------------- operations


@every
def test_a_forward_is_imagined_as_it_is_called(tiny_models: Path, name: str) -> None:
    """The same inputs of the same shapes as a real run's, and exactly the operations that it counts."""
    model = open_plain(tiny_models, name)
    unguided = Guidance(true_scale=1.0) if getattr(model.facts, "embedded", False) else Guidance()
    memory = sampled(replace(model, guidance=unguided), count=True, guidance=1.0, steps=2)
    request = model.complete(Request(guidance=1.0, steps=2, **needed(model)))
    _, called = memory.calls[0]
    config: Any = blank(model.parts[network_part(model)], torch.float32).config
    imagined = model.forward_inputs(request, config)
    shapes = lambda inputs: {
        k: _shape(v) for k, v in inputs.items() if v is not None and k not in ("return_dict", "attention_kwargs")
    }
    assert shapes(imagined) == shapes(called)
    counted = forward_flops(model, request)
    assert counted == forward_flops(model, request, once=False)
    assert sum(memory.flops) == counted.total * len(memory.calls)
    assert 0 < counted.attention < counted.total


def _shape(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return tuple(map(_shape, value)) if isinstance(value, (tuple, list)) else value


# latent frames that differ in kind: few that run as they are, and many of each rest in the family's cycle
COUNTS = {"hunyuan_video": (1, 7, 8, 9), "cogvideox": (1, 7, 8), "svd": (1,)}
DECODES = [(name, count) for family, name in FIRST.items() for count in COUNTS.get(family, (1, 5))]


@pytest.mark.parametrize(("name", "count"), DECODES)
def test_a_decode_is_counted_exactly(tiny_models: Path, name: str, count: int) -> None:
    """Whatever its length in latent frames, of which few run.

    (In small parts: LTX-Video takes larger ones on a CPU.)
    """
    model = open_plain(tiny_models, name)
    facts = model.facts
    frames = facts.frame_counts[-1] if facts.frame_counts else (count - 1) * facts.temporal_ratio + 1
    request = replace(model.complete(Request()), frames=frames)
    shape = facts.latent_shape(request.width, request.height, frames)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in stream_frames(model, torch.zeros(shape), tiling=Tiling(offload_state=True)):
            pass
    assert decode_flops(model, request, Tiling(offload_state=True)).total == counter.get_total_flops()


@pytest.mark.parametrize("variant", ["hunyuan_video/t2v-13b", "wan/2.1-vace-14b", "svd/svd-xt"])
def test_counting_few_blocks_changes_nothing(headers: Callable[[str], VideoModel], variant: str) -> None:
    model = headers(variant)
    request = model.complete(Request())
    assert forward_flops(model, request) == forward_flops(model, request, once=False)


def test_operations_grow_as_attention_does(headers: Callable[[str], VideoModel]) -> None:
    """Twice the tokens: twice the products, four times the attention among the video's own tokens."""
    model = headers("wan/2.1-t2v-14b")
    small, large = (forward_flops(model, model.complete(Request(width=832, height=h, frames=81))) for h in (240, 480))
    linear = [flops.total - flops.attention for flops in (small, large)]
    assert 1.9 < linear[1] / linear[0] < 2.0  # the text's products stay
    assert 3.7 < large.attention / small.attention < 4.0  # so does the text as keys and values


# ---------------------------------------------------------------- steps and forwards


GUIDED = {
    "plain": Guidance(),
    "half": Guidance(start=0.25, end=0.75),
    "apg": Guidance("apg"),
    "zero": Guidance("cfg-zero*"),
    "layers": Guidance("skip-layer", layers=(1,), layer_start=0.0, layer_end=0.5),
    "late": Guidance("apg", start=0.5),
}


@pytest.mark.parametrize("way", GUIDED)
@pytest.mark.parametrize("name", ["tiny-wan2.1-t2v", "tiny-cogvideox-2b", "tiny-ltx-0.9.5"])
def test_forwards_are_those_of_a_run(tiny_models: Path, name: str, way: str) -> None:
    model = replace(open_plain(tiny_models, name), guidance=GUIDED[way])
    steps = count_steps(model, plan(model, Request(guidance=3.0, steps=8)))
    calls = sampled(model, guidance=3.0, steps=8).calls
    batches = [len(kwargs["hidden_states"]) for _, kwargs in calls]
    assert (steps.branches, steps.computed) == ((sum(batches),) * 2, (8, 8))
    assert steps.passes[0] == pytest.approx(len(calls)) or way != "plain"


def test_embedded_guidance_takes_one_forward(tiny_models: Path) -> None:
    model = open_plain(tiny_models, "tiny-hunyuan-t2v")
    assert count_steps(model, plan(model, Request(steps=6))).branches == (6, 6)
    twice = replace(model, guidance=Guidance(true_scale=4.0))
    assert count_steps(twice, plan(twice, Request(steps=6))).branches == (12, 12)


def test_experts_share_the_steps(tiny_models: Path) -> None:
    model = open_plain(tiny_models, "tiny-wan2.2-t2v-a14b")
    steps = count_steps(model, plan(model, Request(steps=12)))
    parts = [part for part, _ in sampled(model, steps=12).calls]
    assert steps.parts == {part: parts.count(part) // 2 for part in dict.fromkeys(parts)}
    assert len(steps.parts) == 2


CACHES: dict[str, Policy] = {
    "every second": FORA(interval=2, order=1, warmup=2),
    "every third from a quarter on": FORA(interval=3, start=0.25, end=0.8),
    "plan": Plan(speed=2.0),
    "plan 3": Plan(speed=3.0, order=0),
    "plan of few": Plan(speed=12.0),
    "plan within": Plan(speed=2.0, start=0.5),
    "magcache": MagCache(ratios=tuple(("transformer", branch, (1.0,) * 12) for branch in ("cond", "uncond"))),
    "easycache": EasyCache(threshold=0.5),
}


@pytest.mark.parametrize("policy", CACHES)
def test_computed_steps_are_those_of_a_run(tiny_models: Path, policy: str) -> None:
    """Exactly, where the policy knows them beforehand; else between the fewest and the most."""
    model, counts = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), cache=CACHES[policy]), []
    conditioning = model.encode(PROMPT, "")
    sample(model, conditioning, Request(steps=12, guidance=4.0, seed=3), lambda done, total, run: counts.append(run))
    entries = counts[-1].cache.entries
    computed = sum(entry.computed for entry in entries if entry.branch == entries[0].branch)
    low, high = count_steps(model, plan(model, Request(steps=12, guidance=4.0))).computed
    assert low <= computed <= high
    assert (low == high) == (policy not in ("easycache", "plan within"))


def test_few_steps_are_all_computed(tiny_models: Path) -> None:
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), cache=Plan(speed=3.0))
    assert count_steps(model, plan(model, Request(steps=6))).computed == (6, 6)


# ---------------------------------------------------------------- memory


# variants of the same parts as another, with other numbers
TWINS = re.compile(r"distilled|0\.9\.[68]|i2v-14b-720p|1\.3b|svd$|cogvideox/5b$")


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if not TWINS.search(variant)])
def test_every_variant_is_estimated_from_headers(headers: Callable[[str], VideoModel], variant: str) -> None:
    """No part is loaded, and all numbers are there."""
    model = headers(variant)
    result = estimate(model, Request(), card_of(24), price=2.0)
    assert {need.phase for need in result.needs} == {"encode", "sample", "decode"}
    assert {need.part for need in result.needs} >= {network_part(model), "vae"}
    assert all(need.weights > 0 and 0 < need.layer <= need.weights for need in result.needs)
    assert result.ram == sum(weight_bytes(model, part) for part in model.parts)
    low, high = result.operations
    assert 0 < low <= high
    for row in result.times:
        assert row.verdict == (result.fits[0][1][row.memory] if row.memory else result.verdict)
        assert (row.seconds is None) == (row.cost is None) == (row.verdict == FAILS)
        assert row.seconds is None or 0 < row.seconds[0] < row.seconds[1]
    order = (FAILS, MOVES, FITS)
    for _, verdicts in result.fits:
        ranks = [order.index(verdicts[memory]) for memory in sorted(verdicts)]
        assert ranks == sorted(ranks), "a larger card fits less"


def test_the_largest_takes_less_than_three_seconds(headers: Callable[[str], VideoModel]) -> None:
    model = headers(LARGEST)
    estimate(headers("hunyuan_video/i2v-13b-replace"), Request(), ANY)  # the host has imported the classes by then
    begin = time.process_time()
    result = estimate(model, Request(width=1280, height=720, frames=129), ANY)
    assert time.process_time() - begin < 3
    assert result.forward.total == pytest.approx(12.07e15, rel=1e-3)


ROOMY = Need("sample", "transformer", 10 * GIB, 4 * GIB, GIB // 2)


@pytest.mark.parametrize(
    ("beside", "limit", "kept", "verdict"),
    [
        (10.0, 0, 10.0, FITS),
        (9.9, 0, 9.9, MOVES),
        (10.0, 6, 6.0, MOVES),
        (0.5, 0, 0.5, MOVES),
        (0.2, 0, 0.2, MOVES),  # the largest layer takes what is kept free
        (0.1, 0, 0.1, FAILS),
        (-2.0, 0, 0.0, FAILS),
    ],
)
def test_what_stays_and_what_waits(beside: float, limit: float, kept: float, verdict: str) -> None:
    """beside: GiB of room that the working memory, as it is asked for, and what ComfyUI keeps free leave."""
    room = with_kernels(ROOMY.working, "cuda") + cards.RESERVED + beside * GIB
    machine = Machine("a card", room, 64 * GIB, limit=limit * GIB)
    assert ROOMY.resident(machine) == pytest.approx(kept * GIB, abs=1)
    assert ROOMY.verdict(machine) == verdict


def test_little_work_keeps_as_much_free_as_comfyui_does() -> None:
    need, free = replace(ROOMY, working=0), (0.8 * GIB + 400 * 2**20)  # minimum_inference_memory
    machine = Machine("a card", 10 * GIB + free, 64 * GIB)
    assert need.resident(machine) == pytest.approx(10 * GIB, abs=2)
    assert need.resident(replace(machine, room=machine.room - GIB)) == pytest.approx(9 * GIB, abs=2)


def test_on_a_processor_nothing_waits_elsewhere() -> None:
    assert ROOMY.resident(replace(ANY, room=13 * GIB)) == ROOMY.weights
    assert ROOMY.verdict(replace(ANY, room=13 * GIB)) == FAILS, "weights and working memory are in the same RAM"
    assert ROOMY.verdict(ANY) == FITS
    assert replace(ROOMY, earlier=51 * GIB).verdict(ANY) == FAILS, "what was used before is there too"


def test_small_weights_and_options_count(headers: Callable[[str], VideoModel], tmp_path: Path) -> None:
    model = headers("wan/2.1-t2v-14b")
    plain = estimate(model, Request(), card_of(24))
    small = estimate(replace(model, recipe=replace(model.recipe, storage="fp8")), Request(), card_of(24))
    cached = estimate(replace(model, cache=FORA(interval=2)), Request(), card_of(24))
    part = lambda result: next(need for need in result.needs if need.phase == "sample")
    assert 0.5 < part(small).weights / part(plain).weights < 0.6
    assert part(cached).working == part(plain).working + cached.cache > part(plain).working
    assert cached.operations[1] < 0.6 * plain.operations[0]
    assert part(small).resident(card_of(24)) > part(plain).resident(card_of(24)) / 2


def test_keyframes_count(headers: Callable[[str], VideoModel]) -> None:
    """Keyframes cost LTX-Video more, and other models nothing.

    LTX-Video gives each token a time of its own from the first keyframe on, and more tokens for one that lies within.
    Those that a model does not take are refused, those that it moves are told.
    """
    picture = torch.zeros(1, 64, 64, 3)

    def asked(variant: str, *frames: int) -> Estimate:
        keyframes = tuple(Keyframe(picture, frame) for frame in frames)
        return estimate(headers(variant), Request(width=704, height=512, frames=97, keyframes=keyframes), ANY)

    def working(result: Estimate) -> int:
        return next(need.working for need in result.needs if need.phase == "sample")

    plain, first, within = (asked("ltx/0.9.5-2b", *frames) for frames in ((), (0,), (0, 48)))
    assert 1.7 < working(first) / working(plain) < 1.9
    assert working(within) > working(first)
    assert within.forward.total > first.forward.total
    still = headers("wan/2.1-i2v-14b-480p")
    completed = replace(still.complete(Request()), keyframes=(Keyframe(picture, 2),))
    one, other = (estimate(still, request, ANY) for request in (Request(), completed))
    assert working(one) == working(other)
    assert any("it is at frame 0" in note for note in other.notes)
    with pytest.raises(InputError, match="frame"):
        asked("ltx/0.9.5-2b", 97)


def test_a_shortage_is_told_and_what_helps(headers: Callable[[str], VideoModel]) -> None:
    model = headers(LARGEST)
    prepared = plan(model, Request())
    assert shortage(model, prepared, card_of(80)) == ()
    (note,) = shortage(model, prepared, card_of(8))
    assert "Sampling 129 frames of 1280x720 needs about" in note
    assert "the card has 7.5 GB" in note
    assert "fewer frames" in note
    assert shortage(model, plan(model, Request(width=320, height=192, frames=17)), card_of(8)) == ()


def test_what_cannot_run_is_refused_before_it_is_estimated(headers: Callable[[str], VideoModel]) -> None:
    with pytest.raises(InputError, match="width = 1281"):
        estimate(headers(LARGEST), Request(width=1281), ANY)


@pytest.mark.parametrize(
    ("variant", "size", "named"),
    [
        (LARGEST, (16384, 16384, 129), "width, height, frames"),
        ("cogvideox/1.5-5b", (16384, 768, 81), "width"),
        ("mochi/1-preview", (16384, 16384, 99985), "width, height, frames"),
        ("wan/2.1-t2v-14b", (64, 64, 4097), "frames"),  # its table has 1024 positions
        ("wan/2.2-ti2v-5b", (64, 64, 99985), "frames"),
        ("ltx/0.9.0-2b", (16384, 16384, 1), "width, height, frames"),  # all noise levels come to 1
        ("ltx/0.9.5-2b", (16384, 16384, 99985), "width, height, frames"),
        ("svd/svd-xt", (16384, 16384, 25), "width, height, frames"),
    ],
)
def test_absurd_sizes_are_refused_at_once(
    headers: Callable[[str], VideoModel], variant: str, size: tuple[int, int, int], named: str
) -> None:
    width, height, frames = size
    model, begin = headers(variant), time.process_time()
    with pytest.raises(InputError) as refused:
        estimate(model, Request(width=width, height=height, frames=frames), ANY)
    assert refused.value.name == named
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("variant", "size"), [("wan/2.1-vace-14b", (64, 64, 4093)), ("mochi/1-preview", (16384, 8192, 7))]
)
def test_the_largest_sizes_take_no_longer(
    headers: Callable[[str], VideoModel], variant: str, size: tuple[int, int, int]
) -> None:
    width, height, frames = size
    model, begin = headers(variant), time.process_time()
    result = estimate(model, Request(width=width, height=height, frames=frames), ANY)
    assert time.process_time() - begin < 3
    assert result.operations[1] > 5e16
