"""The shipped workflows in a ComfyUI on the pretend card: the CPU's pixels, or an error in words, and no leak.

CI runs those that differ in kind, `--all-workflows` runs all of them; `--card-table FILE` writes what came out, as
JSON, or as Markdown where the name ends in .md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import pytest
from reelwire.tests.support.card import USUAL_SIZE
from reelwire.tests.support.card.host import CardHost
from reelwire.tests.support.card.shortage import (
    AGAIN,
    AMPLE,
    CONDITIONS,
    EQUAL,
    FOREIGN,
    NOT_OURS,
    PARTLY,
    ROOM,
    Trial,
    prompt_of,
    resident,
    run,
)
from reelwire.tests.support.host import ROOT, Host, Prompt, node

ALL = sorted(file.stem for file in (ROOT / "workflows" / "api").glob("*.json"))
# two experts in fp8, an image encoder and a decoder in chunks, a control video; weights in int8 that partly wait in
# RAM, windows of a long video
CHOSEN = {
    "legacy": ("wan22_two_experts_fp8", "svd_i2v", "cogvideox_control"),
    "dynamic": ("hunyuan_low_vram", "ltx_long"),
}
FAMILIES = ("ltx_t2v", "wan_t2v", "hunyuan_t2v", "cogvideox_t2v", "mochi_t2v", "svd_i2v")
ROUNDS, ALL_ROUNDS = [("legacy", 3)], [("legacy", 9), ("dynamic", 9)]  # of all families: 54 runs
SETTLING_SECONDS = 30
GROWTH = 64 << 20  # bytes of RAM; a round that leaked its tiny models would leave more

CardHostOf = Callable[[str], CardHost]


@pytest.fixture
def card_host_of(request: pytest.FixtureRequest) -> CardHostOf:
    """The host of a manager; it is booted when it is first asked for."""
    names = {"legacy": "card_host", "dynamic": "dynamic_card_host"}
    return lambda manager: request.getfixturevalue(names[manager])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everything = metafunc.config.getoption("all_workflows")
    if "rounds" in metafunc.fixturenames:
        metafunc.parametrize(("manager", "rounds"), ALL_ROUNDS if everything else ROUNDS)
    if "workflow" in metafunc.fixturenames:
        chosen = dict.fromkeys(CHOSEN, ALL) if everything else CHOSEN
        metafunc.parametrize(("manager", "workflow"), [(m, name) for m, names in chosen.items() for name in names])


def test_a_workflow_that_runs_short_of_memory(
    host: Host,
    card_host_of: CardHostOf,
    manager: str,
    workflow: str,
    record_property: Callable[[str, object], None],
) -> None:
    trial = Trial(host, card_host_of(manager), workflow, manager == "dynamic")
    try:
        trial.run()
    finally:
        record_property(
            "card",
            {
                "workflow": workflow,
                "manager": manager,
                "peak": trial.peak,
                "left": trial.left,
                "errors": trial.errors,
                **trial.rows,
            },
        )
    assert [*trial.rows] == [*CONDITIONS]
    assert (trial.rows[AMPLE], trial.rows[AGAIN]) == (EQUAL, EQUAL)
    assert trial.rows[PARTLY] in (EQUAL, FOREIGN)
    assert not [outcome for outcome in trial.rows.values() if outcome.startswith("FAILED")], trial.rows
    assert {*trial.left.values()} == {0}, "something is left on the card after /free"


def stock(name: str, colour: int) -> Prompt:
    """A graph of ComfyUI's own nodes alone, with this one in it."""
    loader, model, own, images, more = {
        "FrameInterpolate": (
            "FrameInterpolationModelLoader",
            "tiny-rife.safetensors",
            "interp_model",
            "images",
            {"multiplier": 2},
        ),
        "ImageUpscaleWithModel": ("UpscaleModelLoader", "tiny-compact.safetensors", "upscale_model", "image", {}),
    }[name]
    return {
        "1": node(loader, model_name=model),
        "2": node("EmptyImage", width=64, height=64, batch_size=3, color=colour),
        "3": node(name, **{own: ["1", 0], images: ["2", 0], **more}),
        "4": node("PreviewImage", images=["3", 0]),
    }


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_graph_of_comfyui_alone_ends_so_too(card_host: CardHost, name: str) -> None:
    """Where the legacy manager leaves a part of such a model in RAM, nobody brings its layers, whatever made the
    frames: so in the table such an end is ComfyUI's own."""
    card, base = card_host.card, card_host.freed()
    card.state(set_cap=USUAL_SIZE, reset_peak=True)
    assert not run(card_host, stock(name, 1)).error
    peak = card.peak() - base
    card_host.freed(base)
    card.set_cap(base + int(peak * ROOM))
    error = run(card_host, stock(name, 2)).error
    card.set_cap(USUAL_SIZE)
    assert error.startswith(f"{name}: ")
    assert NOT_OURS[name] in error
    assert card_host.freed(base) == base


def settled(card_host: CardHost, expected: float) -> int:
    """Bytes on the card soon after a run; the host's worker may still have to let go of something."""
    end = time.monotonic() + SETTLING_SECONDS
    while (allocated := card_host.card.allocated()) > expected and time.monotonic() < end:
        time.sleep(0.1)
    return allocated


def test_runs_that_alternate_do_not_grow(
    card_host_of: CardHostOf,
    manager: str,
    rounds: int,
    record_property: Callable[[str, object], None],
) -> None:
    """From the second round on the card holds no more after a run than it did a round before."""
    card_host = card_host_of(manager)
    base = card_host.freed()
    least = dict.fromkeys(FAMILIES, math.inf)  # that was held so far
    allocated: list[list[int]] = []
    ram: list[int] = []
    for turn in range(rounds):
        allocated.append([])
        for name in FAMILIES:
            result = run(card_host, prompt_of(name, seed=10 + turn))
            assert not result.error
            allocated[-1].append(settled(card_host, base + least[name]) - base)
            least[name] = min(allocated[-1][-1], least[name])
        ram.append(resident(card_host))
    left = card_host.freed(base) - base
    facts = {"runs": rounds * len(FAMILIES), "manager": manager, "held": allocated[-1], "left": left, "ram": ram}
    record_property("card_runs", facts)
    assert all(now <= before for now, before in zip(allocated[-1], allocated[1], strict=True)), allocated
    assert left == 0
    assert ram[-1] - ram[1] < GROWTH, ram


# of each kind of node that has callbacks, or that holds a model while it runs
HELD = ("ltx_t2v", "ltx_long", "ltx_multiscale", "cache_calibrate", "svd_i2v", "wan_vace", "wan_lora_distilled")


@pytest.fixture
def uncollected(card_host: CardHost) -> Iterator[CardHost]:
    """A host with an empty card, in which nothing is freed by the garbage collector."""
    card_host.freed()
    card_host.card.state(collector=False)
    yield card_host
    card_host.card.state(collector=True)


def test_a_model_that_nothing_uses_is_freed_at_once(uncollected: CardHost, pytestconfig: pytest.Config) -> None:
    """A model in a circle of references keeps its RAM until garbage is collected, and where that happens while the host
    goes through its loaded models, its worker ends."""
    held = uncollected.card.state(weights=True)["weights"]
    for name in ALL if pytestconfig.getoption("all_workflows") else HELD:
        result = run(uncollected, prompt_of(name))
        assert not result.error
        uncollected.post_nothing()
        assert uncollected.card.state(weights=True)["weights"] == held, f"{name} keeps weights"


def test_a_failed_run_holds_little_on_the_card(uncollected: CardHost) -> None:
    """The host keeps the traceback, and with it what each function of the run had made, until garbage is collected."""
    card, prompt = uncollected.card, prompt_of("svd_i2v")
    before = card.state(reset_peak=True)
    assert not run(uncollected, prompt).error
    after = card.state()
    peak, used = after["peak"] - before["allocated"], after["allocations"] - before["allocations"]
    for share in (0.2, 0.4, 0.6):
        uncollected.freed()
        empty = card.state(fail_after=int(used * share))["allocated"]
        assert "memory" in run(uncollected, prompt).error
        left = card.state(fail_after=-1)["allocated"] - empty
        assert left < peak / 200, f"{left} of {peak} bytes are left"  # its latents; 1/30 where nothing is dropped
