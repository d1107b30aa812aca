"""LoRAs in a real ComfyUI: a stack is a chain, experts get their files, and refusals come before any sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.tests.support.files.bad_files import NOISE
from reelwire.tests.support.host import Host, Prompt, digest, node, workflow
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file

HIGH, LOW, MANY = "loras/style-high_noise.safetensors", "loras/style-low_noise.safetensors", "loras/forms.safetensors"
BROKEN = "loras/broken.safetensors"


@pytest.fixture(scope="module")
def loras(host: Host, tiny_models: Path) -> Host:
    folder = host.base / "models"
    with seeded(3):
        for name in (HIGH, LOW, BROKEN):
            state = {f"diffusion_model.blocks.{n}.self_attn.q.lora_down.weight": torch.randn(2, 64) for n in range(3)}
            state |= {f"diffusion_model.blocks.{n}.self_attn.q.lora_up.weight": torch.randn(64, 2) for n in range(3)}
            state |= {"diffusion_model.blocks.1.diff_m": torch.randn(1, 6, 64)}
            if name == BROKEN:
                state["diffusion_model.blocks.1.self_attn.q.lora_up.weight"][3] = float("nan")
            save_file(state, folder / name)
        query, key, value = (f"lora_unet_blocks_0_self_attn_{n}" for n in "qkv")
        forms = {f"{query}.lora_down.weight": torch.randn(2, 64), f"{query}.lora_up.weight": torch.randn(64, 2)}
        forms |= {f"{query}.dora_scale": torch.rand(64, 1), f"{query}.alpha": torch.tensor(1.0)}
        forms |= {f"{key}.lokr_w1": torch.randn(8, 8), f"{key}.lokr_w2": torch.randn(8, 8) * 0.1}
        forms |= {
            f"{value}.hada_w{i}_{side}": torch.randn(*size)
            for i in "12"
            for side, size in (("a", (64, 2)), ("b", (2, 64)))
        }
        save_file(forms | {"lora_te_x.lora_down.weight": torch.zeros(1)}, folder / MANY)
    return host


def made(host: Host, model: dict[str, Any], **more: Any) -> tuple[str, list[str]]:
    """(the digest of a short video, what the nodes before the sampler say)."""
    prompt: Prompt = workflow(
        "wan22_two_experts_fp8", {"4.steps": 2, "5.filename_prefix": "loras/made", "6": model, **more}
    )
    prompt["2"]["inputs"]["model"] = ["6", 0]
    entry = host.post(prompt)
    said = [line for name in ("6", "7") for line in entry["outputs"].get(name, {}).get("text", [])]
    return digest(host.videos(entry)[0]), said


ROWS = {
    "lora_1": HIGH,
    "low_noise_strength_1": 0.0,
    "lora_3": LOW,
    "strength_3": 0.0,
    "lora_8": MANY,
    "strength_8": 0.5,
}


def test_a_stack_is_a_chain(loras: Host) -> None:
    stack, said = made(loras, node("ReelwireLoRAStack", model=["1", 0], **ROWS))
    chain = {
        "8": node("ReelwireLoRA", model=["1", 0], lora=HIGH, strength=1.0, low_noise_strength=0.0),
        "7": node("ReelwireLoRA", model=["8", 0], lora=LOW, strength=0.0),
    }
    last = node("ReelwireLoRA", model=["7", 0], lora=MANY, strength=0.5)
    assert made(loras, last, **chain)[0] == stack
    assert [" changes " in line for line in said] == [True, True, True, False]  # and the text encoder's part
    empty, nothing = made(loras, node("ReelwireLoRAStack", model=["1", 0]))
    assert empty != stack
    assert not nothing
    off = node("ReelwireLoRA", model=["1", 0], lora=HIGH, strength=0.0, low_noise_strength=0.0)
    assert made(loras, off)[0] == empty


def test_a_file_on_both_experts_that_names_one_is_noticed(loras: Host) -> None:
    both, said = made(loras, node("ReelwireLoRA", model=["1", 0], lora=HIGH, strength=1.0))
    named = [line for line in said if line.startswith("style-high_noise.safetensors is for the high-noise expert")]
    assert (len(named), len(said)) == (1, 2)  # and what it changes
    none = "0-2: 0, rest: 0"
    steps, _ = made(loras, node("ReelwireLoRA", model=["1", 0], lora=HIGH, strength=1.0, blocks=none))
    assert steps != both


# case -> (inputs of the node, what is said, whether the prompt is refused before it starts)
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], bool]] = {
    "NaN": ({"lora": BROKEN}, ("broken.safetensors, a LoRA", "self_attn.q.lora_up", "Download it again"), False),
    "blocks in words": ({"lora": HIGH, "blocks": "all"}, ("blocks = 'all'", "rest: 0"), True),
    "blocks twice": ({"lora": HIGH, "blocks": "0-2: 1, 1: 0"}, ("1 is named twice",), True),
    "blocks that are not": ({"lora": HIGH, "blocks": "0-39: 1"}, ("blocks = 0-39", "0 to "), False),
    "steps": ({"lora": HIGH, "start": 0.5, "end": 0.5}, ("start, end = 0.5, 0.5", "0 <= start < end <= 1"), True),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said_before_sampling(loras: Host, case: str) -> None:
    inputs, words, before = REFUSED[case]
    prompt = workflow("wan22_two_experts_fp8", {"6": node("ReelwireLoRA", model=["1", 0], strength=1.0, **inputs)})
    prompt["2"]["inputs"]["model"] = ["6", 0]
    text, done = loras.refuse(prompt)
    assert not [part for part in words if part not in text], text
    assert not [noise for noise in NOISE if noise in text], text
    assert "ReelwireSampler" not in done
    assert not (before and done)


def test_a_row_of_a_stack_that_is_not_there_is_named(loras: Host) -> None:
    stack = node("ReelwireLoRAStack", model=["1", 0], lora_4="loras/gone.safetensors")
    prompt = workflow("wan22_two_experts_fp8", {"6": stack})
    prompt["2"]["inputs"]["model"] = ["6", 0]
    text, done = loras.refuse(prompt)
    assert "lora_4 = loras/gone.safetensors" in text
    assert not done
