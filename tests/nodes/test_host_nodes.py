"""The nodes in a real ComfyUI: what they are called, what they cost, and what they make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from reelwire.tests.support.host import PACK, ROOT, Host, cached, digest, frames, guidance, node, workflow

SNAPSHOT = Path(__file__).parent / "node_snapshot.json"
LOSSLESS = 0  # else the file's frames differ from run to run: x264's AVX-512 code reads stray memory at some widths
REGISTER = """
import asyncio, importlib.util, json, sys, time
comfyui, pack = sys.argv[1:]
sys.path.insert(0, comfyui)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.latent_formats, comfy.model_patcher, comfy.ops, comfy_api.latest, folder_paths  # the host has them already
before = set(sys.modules)
start = time.process_time()
sum(n * n for n in range(2_000_000))
usual = time.process_time() - start
start = time.process_time()
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py")
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
async def nodes():
    return await (await module.comfy_entrypoint()).get_node_list()
ids = [node.GET_SCHEMA().node_id for node in asyncio.run(nodes())]
took = (time.process_time() - start) / usual
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"ids": ids, "took": took, "loaded": sorted(loaded)}))
"""


@pytest.fixture(scope="module")
def info(host: Host) -> dict[str, Any]:
    """What the host tells about each of our nodes."""
    return {k: v for k, v in host.get("/object_info").items() if v["python_module"] == f"custom_nodes.{PACK}"}


def surface(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a node that shared JSON files rely on; optional inputs are marked with ?."""
    kinds = (("required", ""), ("optional", "?"))
    inputs = {
        name: f"{value[0]}{mark}" for kind, mark in kinds for name, value in schema["input"].get(kind, {}).items()
    }
    return {"inputs": inputs, "outputs": dict(zip(schema["output_name"], schema["output"], strict=True))}


def test_nodes_are_what_the_snapshot_says(info: dict[str, Any], tmp_path: Path) -> None:
    surfaces, pinned = {k: surface(info[k]) for k in sorted(info)}, json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    file = tmp_path / SNAPSHOT.name
    file.write_text(json.dumps(surfaces, indent=2) + "\n", encoding="utf-8")
    changed = sorted(k for k in surfaces.keys() | pinned.keys() if surfaces.get(k) != pinned.get(k))
    assert not changed, (
        f"{', '.join(changed)}: people's workflows hold these names. Change them back; if old files still load, "
        f"pin the new ones with: cp {file} {SNAPSHOT}"
    )


def registered(comfyui: Path) -> dict[str, Any]:
    """What registering the pack took in a fresh process, and what it imported. took: CPU time, in that of two million
    multiplications just before it, as a busy machine makes both longer: a tenth of a second."""
    command = [sys.executable, "-c", REGISTER, str(comfyui), str(ROOT)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_registering_is_cheap(comfyui: Path, info: dict[str, Any]) -> None:
    """Once Python has compiled it, which it does at the first start; beside a busy process it may take longer."""
    first = registered(comfyui)
    assert sorted(first["ids"]) == sorted(info)
    assert not {"diffusers", "transformers", "accelerate"} & {*first["loaded"]}
    again = (registered(comfyui)["took"] for _ in range(3))
    assert any(took < 2 for took in chain([first["took"]], again)), "twice what two million multiplications take"


def test_ids_and_categories_say_whose_they_are(info: dict[str, Any]) -> None:
    assert info
    for name, schema in info.items():
        assert name.startswith("Reelwire")
        assert schema["category"].startswith("Reelwire/")
        assert schema["description"].endswith(".")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_has_its_page(host: Host, info: dict[str, Any], language: str) -> None:
    for name in info:
        page = host.read(f"/extensions/{PACK}/docs/{name}/{language}.md").decode()
        assert page.startswith("# "), f"web/docs/{name}/{language}.md has no title"
        assert len(page) > 200, f"web/docs/{name}/{language}.md is empty"


def test_combos_follow_the_folders(host: Host) -> None:
    def options(name: str) -> list[str]:
        inputs = host.get("/object_info/ReelwireLoadLTX")["ReelwireLoadLTX"]["input"]
        return {**inputs["required"], **inputs["optional"]}[name][1]["options"]

    assert "bundled/tiny_ltx" in options("checkpoint")
    places = {"checkpoint": ("checkpoints", "diffusion_models"), "text_encoder": ("text_encoders",), "vae": ("vae",)}
    for name, folders in places.items():
        for folder in folders:
            file = host.base / "models" / folder / "deep" / "new.safetensors"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"")
            assert f"{folder}/deep/new.safetensors" in [o.replace("\\", "/") for o in options(name)]
            shutil.rmtree(file.parent)
    model = host.base / "models" / "diffusers" / "deep" / "model"
    shutil.copytree(ROOT / "loaders" / "bundled" / "tiny_ltx", model)
    assert "diffusers/deep/model" in options("checkpoint")
    shutil.rmtree(model.parent)


def test_text_to_video_makes_an_mp4(host: Host) -> None:
    graph = workflow("ltx_t2v", {"3.steps": 3, "4.filename_prefix": "made/t2v"})
    (file,) = host.videos(host.post(graph, workflow={"nodes": ["sent along"]}))
    assert file.parent == host.base / "output" / "made"
    with av.open(str(file), "r") as container:
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (64, 64, 17)
        assert stream.average_rate == 25
        written = json.loads(container.metadata["prompt"])
        assert {k: v["inputs"] for k, v in written.items()} == {k: v["inputs"] for k, v in graph.items()}
        assert json.loads(container.metadata["workflow"]) == {"nodes": ["sent along"]}
    assert [f.name for f in file.parent.iterdir()] == [file.name], "a temporary file is left"


def test_metadata_only_holds_what_was_sent(host: Host) -> None:
    (file,) = host.videos(host.post(workflow("ltx_t2v", {"3.steps": 2, "4.filename_prefix": "made/plain"})))
    with av.open(str(file)) as container:
        assert "prompt" in container.metadata
        assert "workflow" not in container.metadata


def test_same_seed_makes_the_same_frames(host: Host) -> None:
    def run(prefix: str, **changes: Any) -> str:
        graph = workflow("ltx_t2v", {"3.steps": 3, "4.crf": LOSSLESS, "4.filename_prefix": f"same/{prefix}"} | changes)
        entry = host.post(graph)
        assert "3" not in cached(entry), "nothing was sampled"
        return digest(host.videos(entry)[0])

    host.free()
    first = run("first")
    other = run("other seed", **{"3.seed": 8})
    run("other size", **{"3.width": 96, "3.frames": 5})
    by_name = run("by name", **{"3.sampler": "euler"})  # what "default" means, sampled on the same loaded model
    host.free()
    assert run("again") == first == by_name != other


def images(host: Host, entry: dict[str, Any], name: str) -> np.ndarray:
    """The pictures that a Preview Image node showed."""
    shown = entry["outputs"][name]["images"]
    return np.stack([np.asarray(Image.open(host.base / f["type"] / f["subfolder"] / f["filename"])) for f in shown])


def test_latents_go_through_the_hosts_files(host: Host) -> None:
    decode = {"9": node("ReelwireDecode", model=["1", 0], latent=["3", 0]), "10": node("PreviewImage", images=["9", 0])}
    save = node("SaveLatent", samples=["3", 0], filename_prefix="latents/clip")
    entry = host.post(workflow("ltx_t2v", {"3.steps": 2, "3.seed": 5, "8": save} | decode))
    shutil.copy(host.base / "output" / "latents" / "clip_00001_.latent", host.base / "input" / "clip.latent")
    load = {"3": node("LoadLatent", latent="clip.latent")}
    again = host.post(workflow("ltx_t2v", load | decode))
    shown = images(host, entry, "10")
    assert shown.shape == (17, 64, 64, 3)
    assert np.array_equal(shown, images(host, again, "10"))
    errors = shown.astype(float) - frames(host.videos(entry)[0])
    assert np.abs(errors).mean() < 4, "the video shows something else"


def test_a_frame_rate_is_told_to_the_network_and_the_file(host: Host) -> None:
    """Another rate makes other latents, and a file that is played at it; the model's own changes nothing."""

    def run(**changes: Any) -> Path:
        return host.videos(host.post(workflow("ltx_t2v", {"3.steps": 2, "3.seed": 6, "4.fps": 0.0, **changes})))[0]

    usual, other = run(), run(**{"3.fps": 12.0})
    assert digest(usual) != digest(other)
    with av.open(str(other)) as container:
        assert container.streams.video[0].average_rate == 12
    with av.open(str(usual)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
    assert digest(run(**{"3.fps": rate})) == digest(usual)


def test_spatio_temporal_guidance_and_decoding_run_in_the_host(host: Host) -> None:
    lists = {"layers": "1; 0, 1", "stg_scales": "1, 2", "timesteps": "1, .5", "rescales": ".7"}
    stg = guidance(method="stg", **lists)
    usual = {"3.steps": 3, "3.seed": 6}
    plain = host.post(workflow("ltx_t2v", usual))
    guided = host.post(workflow("ltx_t2v", {**usual, "stg": stg, "3.model": ["stg", 0]}))
    mapped = host.post(workflow("ltx_t2v", {**usual, "4.tone_map": 1.0}))
    videos = [digest(host.videos(entry)[0]) for entry in (plain, guided, mapped)]
    assert len({*videos}) == 3


def test_host_nodes_take_our_outputs(host: Host) -> None:
    more = {"8": node("SaveVideo", video=["4", 0], filename_prefix="stock/clip", format="auto", codec="auto")}
    entry = host.post(workflow("ltx_t2v", {"3.steps": 2, "3.seed": 6} | more))
    ours = host.videos(entry)[0]
    assert digest(host.base / "output" / "stock" / "clip_00001_.mp4") == digest(ours)


def test_pictures_of_any_size_become_keyframes(host: Host) -> None:
    """Blue stays blue: the first frame is the given picture, cut to the video's size."""
    Image.new("RGBA", (90, 50), (0, 0, 255, 255)).save(host.base / "input" / "blue.png")
    key = node("ReelwireKeyframe", image=["8", 0], frame=0, strength=1.0)
    changes = {"8": node("LoadImage", image="blue.png"), "9": key, "3.keyframes": ["9", 0], "3.steps": 2}
    video = frames(host.videos(host.post(workflow("ltx_t2v", changes)))[0])
    red, _, blue = video[0].reshape(-1, 3).mean(0)
    assert blue - red > 50


@pytest.mark.parametrize("kind", ["IMAGE", "LATENT"])
def test_source_video_of_low_strength_stays(host: Host, kind: str) -> None:
    decoded = {"8": node("ReelwireDecode", model=["1", 0], latent=["3", 0])}
    again = workflow("ltx_t2v")["3"]["inputs"] | {"seed": 9, "steps": 4, "strength": 0.25, "sampler": "euler"}
    graph = workflow("ltx_t2v", {"3.steps": 4, **decoded, "9": node("ReelwireSampler", **again)})
    graph["9"]["inputs"]["source"] = {"IMAGE": ["8", 0], "LATENT": ["3", 0]}[kind]
    graph["10"] = node("ReelwireDecodeToVideo", model=["1", 0], latent=["9", 0], fps=8.0, filename_prefix="v2v", crf=17)
    entry = host.post(graph)
    before, after = (
        frames(host.base / "output" / f["subfolder"] / f["filename"])
        for i in ("4", "10")
        for f in entry["outputs"][i]["images"]
    )
    assert not np.array_equal(before, after)
    assert np.abs(before.astype(float) - after).mean() < 20
