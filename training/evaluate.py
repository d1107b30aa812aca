"""Scores a tiny model on held-out scenes:  python -m training.evaluate MODEL [--frames 17 --size 64x64 --out FILE]

Each held-out combination is asked for once in English and once in Chinese, in a free wording; a model that sets a
picture in motion is given the first frame of each, and any motion of the object is right. The judge reads the videos
back. Prints a table, writes it as JSON, and draws a contact sheet.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .judge import judge
from .world import MOTIONS, Scene, caption, first_frame, split

ATTRIBUTES = Scene._fields
PICTURE = "picture"  # in place of a language


class Sample(NamedTuple):
    scene: Scene
    language: str
    prompt: str
    seed: int


class Score(NamedTuple):
    sample: Sample
    verdict: dict[str, str | None]
    right: dict[str, bool]


def held_out_prompts(seed: int = 11) -> list[Sample]:
    """Every held-out combination in both languages."""
    rng, scenes = random.Random(seed), split()[1]
    return [
        Sample(s, name, caption(s, rng, name == "Chinese"), 100 + 2 * i + (name == "Chinese"))
        for i, s in enumerate(scenes)
        for name in ("English", "Chinese")
    ]


def held_out_pictures() -> list[Sample]:
    """Every held-out combination once."""
    return [Sample(s, PICTURE, "", 100 + 2 * i) for i, s in enumerate(split()[1])]


def score(sample: Sample, video: np.ndarray) -> Score:
    """video: [T, H, W, 3] in 0..1."""
    verdict = judge(video)
    right = {a: verdict[a] == wanted for a, wanted in zip(ATTRIBUTES, sample.scene, strict=True)}
    if sample.language == PICTURE:  # which tells no motion
        right["motion"] = verdict["motion"] in MOTIONS
    return Score(sample, verdict, right)


def table(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Share of right answers: row (all, each language, shape and motion) -> attribute -> 0..1, and the count n."""
    rows: dict[str, list[Score]] = {}
    for s in scores:
        for row in ("all", s.sample.language, s.sample.scene.shape, s.sample.scene.motion):
            rows.setdefault(row, []).append(s)
    return {
        row: {a: float(np.mean([s.right[a] for s in group])) for a in ATTRIBUTES} | {"n": len(group)}
        for row, group in rows.items()
    }


def as_text(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':10}" + "".join(f"{a:>12}" for a in (*ATTRIBUTES, "n"))]
    lines += [
        f"{row:10}" + "".join(f"{values[a]:12.2f}" for a in ATTRIBUTES) + f"{values['n']:12.0f}"
        for row, values in rows.items()
    ]
    return "\n".join(lines)


def contact_sheet(videos: list[np.ndarray], columns: int = 3, frames: int = 5) -> Any:
    """A PIL image: each video as a strip of frames."""
    from PIL import Image

    strips = [np.concatenate([v[i] for i in np.linspace(0, len(v) - 1, frames).round().astype(int)], 1) for v in videos]
    rows = [np.concatenate(strips[i : i + columns], 1) for i in range(0, len(strips) - columns + 1, columns)]
    return Image.fromarray((np.concatenate(rows) * 255).round().clip(0, 255).astype(np.uint8))


def description(folder: Path) -> dict[str, Any]:
    """A folder's reelwire.json."""
    return dict(json.loads((folder / "reelwire.json").read_text(encoding="utf-8")))


def takes_pictures(described: dict[str, Any]) -> bool:
    """Whether a model reads no prompt."""
    return not described["prompt_tokens"]


def picture_generator(pipe: Any, described: dict[str, Any], **size: int) -> Callable[[Sample], np.ndarray]:
    """Videos of Stable Video Diffusion, of the first frame of each scene."""
    import torch
    from PIL import Image

    preset = described["presets"]["default"]

    def generate(sample: Sample) -> np.ndarray:
        picture = first_frame(sample.scene, size["height"], size["width"], random.Random(sample.seed))
        return pipe(
            image=Image.fromarray((picture * 255).round().byte().numpy()),
            fps=described["fps"],
            num_inference_steps=preset["steps"],
            max_guidance_scale=preset["guidance"],
            generator=torch.Generator().manual_seed(sample.seed),
            output_type="np",
            **size,
        ).frames[0]

    return generate


def diffusers_generator(folder: Path, frames: int, width: int, height: int) -> Callable[[Sample], np.ndarray]:
    """Videos of a folder's own pipeline, with the settings that its reelwire.json has as defaults."""
    import torch
    from diffusers import DiffusionPipeline

    described = description(folder)
    preset = described["presets"]["default"]
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if takes_pictures(described):
        return picture_generator(pipe, described, num_frames=frames, width=width, height=height)
    more: dict[str, Any] = {}
    if type(pipe).__name__.startswith("Hunyuan"):  # whose template is as long as Llama 3 counts it
        from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

        template = DEFAULT_PROMPT_TEMPLATE["template"]
        begin = len(pipe.tokenizer(template.split("{}")[0]).input_ids)
        more["prompt_template"] = {"template": template, "crop_start": begin}

    def generate(sample: Sample) -> np.ndarray:
        return pipe(
            prompt=sample.prompt,
            negative_prompt="",
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=preset["steps"],
            guidance_scale=preset["guidance"],
            generator=torch.Generator().manual_seed(sample.seed),
            max_sequence_length=described["prompt_tokens"],
            output_type="np",
            **more,
        ).frames[0]

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--frames", type=int, default=0, help="0: as many as by default")
    parser.add_argument("--size", default="64x64", help="width x height")
    parser.add_argument("--limit", type=int, default=1000, help="score about N prompts, evenly apart")
    parser.add_argument(
        "--out", type=Path, help="write the table as JSON here, and the contact sheet beside it as .png"
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: its own number")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    described = description(arguments.model)
    frames = arguments.frames or described["presets"]["default"]["frames"]
    generate = diffusers_generator(arguments.model, frames, *map(int, arguments.size.split("x")))
    samples = held_out_pictures() if takes_pictures(described) else held_out_prompts()
    samples = samples[:: max(1, len(samples) // arguments.limit) | 1]  # odd: the languages take turns
    videos = [generate(s) for s in samples]
    scores = [score(s, v) for s, v in zip(samples, videos, strict=True)]
    print(as_text(table(scores)))
    for s in scores:
        if not all(s.right.values()):
            print(f"missed: {s.sample.prompt} -> {s.verdict}")
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"size": arguments.size, "frames": frames, "rows": table(scores)}, indent=1) + "\n"
        )
        contact_sheet(videos[:: max(1, len(videos) // 30)]).save(arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
