"""One graph for all families in a real ComfyUI, and latents that its own nodes read and write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reelwire.tests.support.engine.loaders import EVERY, LOADERS
from reelwire.tests.support.files.native import NATIVE_VAES, native_folder
from reelwire.tests.support.host import Host, Prompt, cached, digest, frames, node, workflow

SAMPLERS = {"ReelwireLoadWan": "unipc", "ReelwireLoadCogVideoX": "ddim"}
LOSSLESS = 0


def any_t2v(loader: str, checkpoint: str, changes: Mapping[str, Any] | None = None, pictured: bool = False) -> Prompt:
    """any_t2v with its loader swapped; image-to-video models get a picture too."""
    graph = workflow("any_t2v", {"4.filename_prefix": "swapped/clip", "4.crf": LOSSLESS, **(changes or {})})
    graph["1"] = node(loader, checkpoint=checkpoint, precision="float32")
    if pictured:
        graph["picture"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0xC04020)
        graph["key"] = node("ReelwireKeyframe", image=["picture", 0], frame=0, strength=1.0)
        graph["3"]["inputs"]["keyframes"] = ["key", 0]
    return graph


@pytest.mark.parametrize("name", EVERY)
def test_only_the_loader_differs(host: Host, name: str) -> None:
    loader, checkpoint, count, extra = EVERY[name]
    video = frames(host.videos(host.post(any_t2v(loader, checkpoint, None, **extra)))[0])
    assert video.shape == (count, 64, 64, 3)
    assert video.std() > 1


@pytest.mark.parametrize("name", EVERY)
def test_video_to_video_with_any_loader(host: Host, name: str) -> None:
    """any_v2v with its loader swapped: as many frames as the model makes, and not those of the source alone."""
    loader, checkpoint, count, extra = EVERY[name]
    graph = workflow("any_v2v", {"4.steps": 4, "5.filename_prefix": "swapped/v2v"})
    graph["1"] = node(loader, checkpoint=checkpoint, precision="float32")
    if extra:
        graph["6"] = node("GetVideoComponents", video=["2", 0])
        graph["one"] = node("ImageFromBatch", image=["6", 0], batch_index=0, length=1)
        graph["key"] = node("ReelwireKeyframe", image=["one", 0], frame=0, strength=1.0)
        graph["4"]["inputs"]["keyframes"] = ["key", 0]
    video = frames(host.videos(host.post(graph))[0])
    assert video.shape == (count, 64, 64, 3)
    assert video.std() > 1


@pytest.mark.parametrize("name", EVERY)
def test_asked_sizes_and_frames(host: Host, name: str) -> None:
    loader, checkpoint, count, extra = EVERY[name]
    asked = {"3.width": 128, "3.height": 64, "3.frames": count if "SVD" in name else 2 * count - 1, "3.steps": 2}
    video = frames(host.videos(host.post(any_t2v(loader, checkpoint, asked, **extra)))[0])
    assert video.shape == (asked["3.frames"], 64, 128, 3)


@pytest.mark.parametrize("loader", LOADERS)
def test_the_same_bytes_whatever_happened_before(host: Host, loader: str) -> None:
    """Twice, after an interrupt, after another family ran, and after the host dropped everything."""
    checkpoint, _ = LOADERS[loader]
    other = next(name for name in LOADERS if name != loader)

    def run(sampler: str = "default") -> str:
        entry = host.post(any_t2v(loader, checkpoint, {"3.seed": 5, "3.sampler": sampler}))
        assert "3" not in cached(entry), "nothing was sampled"
        return digest(host.videos(entry)[0])

    def interrupt(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "3":
            host.send("/interrupt", {})

    host.free()
    before = run()
    events = host.watch(any_t2v(loader, checkpoint, {"3.seed": 6, "3.steps": 50}), interrupt)
    assert events.all("execution_interrupted")
    host.post(any_t2v(other, LOADERS[other][0], {"3.seed": 7}))
    again = run(SAMPLERS.get(loader, "euler"))  # what "default" means, so that nothing comes from the cache
    host.free()
    assert run() == before == again


@pytest.mark.parametrize("loader", LOADERS)
def test_previews_show_something(host: Host, loader: str) -> None:
    checkpoint, _ = LOADERS[loader]
    events = host.watch(any_t2v(loader, checkpoint, {"3.seed": 8, "3.steps": 3}))
    assert len(events.pictures) >= 3
    assert events.all("execution_success")


def test_what_a_file_is_is_said_on_the_node(host: Host) -> None:
    """Its family and variant, and the files that were found beside it."""
    names = {"text_encoder": "text_encoders/tiny-umt5.safetensors", "vae": "vae/tiny-wan-2.1-vae.safetensors"}
    before, graph = (
        len(host.log),
        workflow("wan22_two_experts_fp8", {f"1.{part}": name for part, name in names.items()}),
    )
    graph["1"]["inputs"]["precision"] = "float32"
    host.post(graph)
    log = host.log[before:].decode()
    assert "Wan 2.2-t2v-a14b, float32; text_encoder: tiny-umt5.safetensors; vae: tiny-wan-2.1-vae.safetensors" in log


@pytest.mark.parametrize("name", ["diffusion_models/../../input/x.safetensors", "../x.safetensors", "/etc/passwd"])
def test_paths_out_of_the_folders_are_refused(host: Host, name: str) -> None:
    message, _ = host.refuse(any_t2v("ReelwireLoadWan", name))
    assert "It is not among the models in ComfyUI's folders" in message


def test_ignored_text_is_said_on_the_node(host: Host) -> None:
    before = len(host.log)
    host.post(any_t2v("ReelwireLoadSVD", "diffusers/tiny-svd", {"2.positive": "a cat", "3.steps": 1}, pictured=True))
    assert b"reads no text: the prompt is ignored" in host.log[before:]


# ---------------------------------------------------------------- words before weights

REFUSED = {
    "a picture for text": (
        any_t2v("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", pictured=True),
        ("makes videos from text alone", "Wan2.1-I2V"),
    ),
    "no picture": (
        any_t2v("ReelwireLoadSVD", "diffusers/tiny-svd"),
        ("starts from its first frame", "Connect Keyframe nodes"),
    ),
    "frames": (
        any_t2v("ReelwireLoadMochi", "diffusers/tiny-mochi", {"3.frames": 8}),
        ("frames = 8", "6n+1 frames", "Use 7 or 13"),
    ),
    "another family": (
        any_t2v("ReelwireLoadMochi", "diffusers/tiny-wan2.1-t2v"),
        ("tiny-wan2.1-t2v is a WanPipeline folder, not Mochi 1", "Use the loader of its family"),
    ),
    "no such model": (
        any_t2v("ReelwireLoadMochi", "diffusers/mochi"),
        ("checkpoint = diffusers/mochi", "diffusers/tiny-mochi"),
    ),
    "the same expert twice": (
        {
            **any_t2v("ReelwireLoadWan", "diffusers/tiny-wan2.2-t2v-a14b"),
            "1": node(
                "ReelwireLoadWan",
                checkpoint="diffusers/tiny-wan2.2-t2v-a14b",
                low_noise_checkpoint="diffusers/tiny-wan2.2-t2v-a14b",
                precision="auto",
            ),
        },
        ("low_noise_checkpoint", "This is the checkpoint itself"),
    ),
    "a sampler of another family": (
        any_t2v("ReelwireLoadCogVideoX", "diffusers/tiny-cogvideox-2b", {"3.sampler": "unipc"}),
        ("sampler = unipc", "CogVideoX has no such sampler", "ddim, dpm"),
    ),
    "latents of another family": (
        {
            **any_t2v("ReelwireLoadMochi", "diffusers/tiny-mochi"),
            "5": node("ReelwireLoadWan", checkpoint="diffusers/tiny-wan2.1-t2v", precision="auto"),
            "4": node("ReelwireDecodeToVideo", model=["5", 0], latent=["3", 0], fps=0.0, filename_prefix="x", crf=17),
        },
        ("latent = latents of mochi", "Connect the model that made them"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_told_in_words(host: Host, name: str) -> None:
    graph, words = REFUSED[name]
    text, done = host.refuse(graph)
    assert [w for w in words if w not in text] == [], text
    assert "Traceback" not in text
    assert name.startswith("latents") or "ReelwireEncodePrompt" not in done, "told only after weights were read"
    host.check()


# ---------------------------------------------------------------- latents for and from the host's own nodes


@pytest.mark.parametrize("name", NATIVE_VAES)
def test_stock_nodes_read_and_write_our_latents(host: Host, tiny_models: Path, name: str) -> None:
    """The same VAE as a native file for the host, and as a diffusers folder for us: both decode and encode alike."""
    native = NATIVE_VAES[name]
    native_folder(name, tiny_models, host.base / "models")
    graph = any_t2v(
        native.loader,
        f"diffusers/native-{name}",
        {"3.seed": 9, "3.frames": native.frames, "3.steps": 2},
        native.pictured,
    )
    graph |= {
        "vae": node("VAELoader", vae_name=f"native-{name}.safetensors"),
        "stock": node("VAEDecode", samples=["3", 0], vae=["vae", 0]),
        "ours": node("ReelwireDecode", model=["1", 0], latent=["3", 0]),
        "encoded": node("VAEEncode", pixels=["ours", 0], vae=["vae", 0]),
        "again": node("ReelwireDecode", model=["1", 0], latent=["encoded", 0]),
    }
    for at in ("stock", "ours", "again"):
        graph[f"save {at}"] = node("SaveImage", images=[at, 0], filename_prefix=f"native/{name}-{at}")
    resampled = {**graph["3"], "inputs": {**graph["3"]["inputs"], "source": ["encoded", 0], "strength": 0.5}}
    graph |= {
        "v2v": resampled,
        "4": node(
            "ReelwireDecodeToVideo", model=["1", 0], latent=["v2v", 0], fps=0.0, filename_prefix="native/v2v", crf=17
        ),
    }
    entry = host.post(graph)
    shown = {at: _pictures(host, entry, f"save {at}") for at in ("stock", "ours", "again")}
    assert shown["stock"].shape == shown["ours"].shape
    assert np.abs(shown["stock"] - shown["ours"]).max() <= 1  # of 255
    assert len(frames(host.videos(entry)[0])) == native.frames
    assert shown["again"].shape == shown["ours"].shape


def _pictures(host: Host, entry: Any, at: str) -> np.ndarray:
    from PIL import Image

    files = [host.base / "output" / f["subfolder"] / f["filename"] for f in entry["outputs"][at]["images"]]
    return np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in files])
