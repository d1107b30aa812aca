"""Files through every family's loader in a real ComfyUI: unfit ones are refused in words, links are followed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.tests.support.files.bad_files import NOISE, cut
from reelwire.tests.support.host import Host, Prompt, digest, workflow
from safetensors.torch import save_file

# family -> (a shipped workflow, the tiny model whose network is taken as a single file)
FAMILIES = {
    "wan": ("wan_t2v", "tiny-wan2.1-t2v", "Wan"),
    "hunyuan_video": ("hunyuan_t2v", "tiny-hunyuan-t2v", "HunyuanVideo"),
    "cogvideox": ("cogvideox_t2v", "tiny-cogvideox-2b", "CogVideoX"),
    "mochi": ("mochi_t2v", "tiny-mochi", "Mochi 1"),
    "svd": ("svd_i2v", "tiny-svd", "Stable Video Diffusion"),
}
LTX_GGUF, WAN_LORA = "diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf", "loras/tiny-wan2.1-lora.safetensors"
Damage = Callable[[Path, Path], None]


def flip(file: Path, target: Path) -> None:
    """A copy with one bit flipped in a letter of the header, so that a layer has another name."""
    data = bytearray(file.read_bytes())
    data[data.index(b"attn1") if b"attn1" in data[:200_000] else data.index(b"attn")] ^= 1 << 1
    target.write_bytes(data)


def pickled(file: Path, target: Path) -> None:
    torch.save({"patch_embedding.weight": torch.zeros(2, 2)}, target)


# how a file is broken -> (what does it, what must be told)
DAMAGES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "empty": (lambda file, target: cut(file, target, 0), ("is damaged or incomplete (0 bytes)", "Download it again")),
    "cut": (lambda file, target: cut(file, target, file.stat().st_size // 2), ("is incomplete", "Download it again")),
    "flipped": (flip, ("Nothing was loaded", "unexpected")),
    "pickled": (pickled, ("is a pickle", "Use a .safetensors file")),
    "gguf of pictures": (
        lambda file, target: unknown_gguf(target),
        ("is none of the models that this pack knows", "Choose a model of"),
    ),
}


def unknown_gguf(target: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(4, 32).numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()


@pytest.fixture(scope="module")
def models(host: Host, tiny_models: Path) -> Host:
    folder = host.base / "models" / "diffusion_models"
    for name, (_, tiny, _) in FAMILIES.items():
        part = "unet" if name == "svd" else "transformer"
        network = tiny_models / tiny / part / "diffusion_pytorch_model.safetensors"
        for damage, (change, _) in DAMAGES.items():
            change(network, folder / f"{name} {damage}.safetensors")
    shutil.copy(host.base / "models" / LTX_GGUF, folder / "renamed.safetensors")
    outside = host.base / "elsewhere"
    outside.mkdir()
    shutil.copy(host.base / "models" / LTX_GGUF, outside / "network.gguf")
    (folder / "linked.gguf").symlink_to(outside / "network.gguf")
    save_file(
        {"transformer.blocks.9.attn1.to_q.lora_A.weight": torch.zeros(2, 24)},
        host.base / "models" / "loras" / "nothing.safetensors",
    )
    return host


def refused(host: Host, prompt: Prompt, *parts: str) -> None:
    text, _ = host.refuse(prompt)
    missing = [words for words in parts if words not in text]
    assert not missing, f"{missing} is not in: {text}"
    assert not [noise for noise in NOISE if noise in text], text
    host.check()


# the heads of the tiny HunyuanVideo are of no published size, which is told before a flipped name is
BROKEN = [
    (family, damage) for family in FAMILIES for damage in DAMAGES if (family, damage) != ("hunyuan_video", "flipped")
]


@pytest.mark.parametrize(("family", "damage"), BROKEN)
def test_a_broken_file_is_told(models: Host, family: str, damage: str) -> None:
    name = f"{family} {damage}.safetensors"
    refused(
        models, workflow(FAMILIES[family][0], {"1.checkpoint": f"diffusion_models/{name}"}), name, *DAMAGES[damage][1]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_another_family_is_told(models: Host, family: str) -> None:
    words = ("renamed.safetensors is LTX-Video", f"not {FAMILIES[family][2]}", "Use the loader of its family")
    refused(models, workflow(FAMILIES[family][0], {"1.checkpoint": "diffusion_models/renamed.safetensors"}), *words)


def test_a_name_and_a_link_change_nothing(models: Host) -> None:
    """A GGUF file under another ending, and one that a link leads to, make what the file itself makes."""
    digests = set()
    for name in (LTX_GGUF, "diffusion_models/renamed.safetensors", "diffusion_models/linked.gguf"):
        entry = models.post(workflow("ltx_gguf", {"1.checkpoint": name, "4.filename_prefix": "links/made"}))
        digests.add(digest(models.videos(entry)[0]))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (
            WAN_LORA,
            ("tiny-wan2.1-lora.safetensors does not fit", "match nothing in this model", "made for this family"),
        ),
        ("loras/nothing.safetensors", ("nothing.safetensors does not fit", "1 of its 1 layer", "blocks.9.attn1.to_q")),
        ("loras/../../elsewhere/network.gguf", ("lora = loras/../../elsewhere", "not among the models")),
        ("/etc/passwd", ("lora = /etc/passwd", "not among the models")),
    ],
)
def test_a_lora_that_does_not_fit_is_told(models: Host, lora: str, words: tuple[str, ...]) -> None:
    loader = {"class_type": "ReelwireLoadMochi", "inputs": {"checkpoint": "diffusers/tiny-mochi"}}
    refused(models, workflow("wan_lora_distilled", {"1": loader, "5.lora": lora}), *words)


def test_an_encoder_of_another_width_is_told(models: Host) -> None:
    save = models.base / "models" / "text_encoders" / "slim-umt5.safetensors"
    from reelwire.training import tiny_text
    from reelwire.training.tiny_models import encoder

    slim = encoder(lambda *kind: _slim(tiny_text.t5(*kind)), "UMT5", 100)
    save_file({k: v.clone() for k, v in slim.state_dict().items() if "embed_tokens" not in k}, save)
    words = ("slim-umt5.safetensors is 16 wide", "needs a text encoder of width 32", "that it was trained with")
    refused(
        models, workflow("wan22_two_experts_fp8", {"1.text_encoder": "text_encoders/slim-umt5.safetensors"}), *words
    )


def _slim(encoder: torch.nn.Module) -> torch.nn.Module:
    """The same kind of encoder, half as wide."""
    config: Any = encoder.config
    config.d_model //= 2
    return type(encoder)(config)


# ---------------------------------------------------------------- two models, small weights, eviction


def test_two_models_in_one_graph(models: Host) -> None:
    """Both make what each of them makes alone: scaled fp8 of Wan, GGUF of LTX-Video."""
    one, other = workflow("wan22_two_experts_fp8"), workflow("ltx_gguf")
    alone = [digest(models.videos(models.post(graph))[0]) for graph in (one, other)]
    moved = {
        f"1{name}": {
            **node,
            "inputs": {k: [f"1{v[0]}", v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()},
        }
        for name, node in other.items()
    }
    models.free()
    together = models.videos(models.post({**one, **moved}))
    assert {digest(file) for file in together} == {*alone}
    assert len(together) == 2


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_small_weights_survive_eviction(models: Host, weights: str) -> None:
    graph = workflow("hunyuan_low_vram")
    (memory,) = (node for node in graph.values() if node["class_type"] == "ReelwireMemory")
    memory["inputs"]["weights"] = weights
    first = digest(models.videos(models.post(graph))[0])
    models.free()
    models.post(workflow("ltx_gguf"))
    assert digest(models.videos(models.post(graph))[0]) == first
