"""The little world that the bundled model knows: one coloured shape on a plain background that moves as told.

Everything is procedural: scenes, their captions in English and Chinese, and their exact frames. `judge.py` reads the
frames back, so that a generated video can be scored against the scene its prompt asked for.
"""

from __future__ import annotations

import random
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

COLOURS = {
    "red": (225, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 235),
    "yellow": (245, 225, 45), "purple": (155, 50, 195), "cyan": (60, 215, 225),
}  # fmt: skip
BACKGROUNDS = {"black": (16, 16, 16), "white": (238, 238, 238), "gray": (125, 125, 125)}
SHAPES = ("circle", "triangle", "ring")
MOTIONS = ("right", "left", "up", "down", "grow", "shrink")
HELD_OUT = 48  # combinations that no training stage of the text encoder or the transformer ever sees


class Scene(NamedTuple):
    colour: str
    shape: str
    motion: str
    background: str


class Path(NamedTuple):
    """Centre and radius of the object in pixels, one value per frame."""

    x: Tensor
    y: Tensor
    radius: Tensor


def split() -> tuple[list[Scene], list[Scene]]:
    """(training, held-out) scenes: held out by combination; each colour+shape pair keeps most of its 18 scenes."""
    scenes = [Scene(*c) for c in product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS)]
    held_out = set(random.Random(2025).sample(scenes, HELD_OUT))
    return [s for s in scenes if s not in held_out], [s for s in scenes if s in held_out]


# ---------------------------------------------------------------- pictures


def sample_path(motion: str, frames: int, height: int, width: int, rng: random.Random) -> Path:
    """A straight move, or a change of size, that fills the clip whatever its length."""
    time = torch.linspace(0, 1, frames)
    if motion in ("grow", "shrink"):
        small, large = rng.uniform(6.5, 8.5), rng.uniform(17, 21)
        radii = small + (large - small) * (time if motion == "grow" else 1 - time)
        center = [rng.uniform(large + 2, size - 2 - large) for size in (width, height)]
        return Path(torch.full((frames,), center[0]), torch.full((frames,), center[1]), radii)
    radius = rng.uniform(11.0, 14.0)
    horizontal = motion in ("right", "left")
    along, across = (width, height) if horizontal else (height, width)
    low, high = radius + 1.5, along - 1.5 - radius
    travel = rng.uniform(0.7, 1.0) * (high - low)
    start = rng.uniform(low, high - travel)
    main = start + travel * (time if motion in ("right", "down") else 1 - time)
    other = torch.full((frames,), rng.uniform(low, across - 1.5 - radius))
    x, y = (main, other) if horizontal else (other, main)
    return Path(x, y, torch.full((frames,), radius))


def signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance in pixels to the outline, negative inside; y points down."""
    if shape == "triangle":  # point up, about as large as the circle
        y = y - 0.22 * radius
        return torch.maximum(x.abs() * 0.866 - y * 0.5, y) - 0.68 * radius
    distance = (x * x + y * y).sqrt()
    outer = distance - radius
    return outer if shape == "circle" else torch.maximum(outer, 0.52 * radius - distance)


def object_mask(shape: str, path: Path, height: int, width: int) -> Tensor:
    """Coverage of each pixel by the object, 0..1, as [T, H, W]."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    px, py, r = (value[:, None, None] for value in path)
    return (0.5 - signed_distance(shape, x - px, y - py, r)).clamp(0, 1)


def render(scene: Scene, path: Path, height: int, width: int) -> tuple[Tensor, Tensor]:
    """-> (frames [3, T, H, W] in -1..1, mask [1, T, H, W])."""
    mask = object_mask(scene.shape, path, height, width)[None]
    front, back = (
        torch.tensor(c, dtype=torch.float32).view(3, 1, 1, 1)
        for c in (COLOURS[scene.colour], BACKGROUNDS[scene.background])
    )
    return (back * (1 - mask) + front * mask) / 127.5 - 1, mask


def sample_clip(scene: Scene, frames: int, height: int, width: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    return render(scene, sample_path(scene.motion, frames, height, width, rng), height, width)


def first_frame(scene: Scene, height: int, width: int, rng: random.Random) -> Tensor:
    """How a clip of the scene may begin, as a picture [H, W, 3] in 0..1."""
    clip, _ = sample_clip(scene, 1, height, width, rng)
    return (clip[:, 0].movedim(0, -1) + 1) / 2


# ---------------------------------------------------------------- words

EN_SHAPE = {
    "circle": ["circle", "ball", "disc", "disk", "round dot", "circle", "sphere"],
    "triangle": ["triangle", "triangle", "triangular shape"],
    "ring": ["ring", "ring", "hoop", "donut"],
}
EN_COLOUR = {c: [c] for c in COLOURS} | {
    "purple": ["purple", "purple", "violet"],
    "cyan": ["cyan", "cyan", "turquoise"],
}
EN_BACKGROUND = {b: [b] for b in BACKGROUNDS} | {"gray": ["gray", "grey"]}
_VERBS = ("move", "slide", "travel", "drift", "glide", "fly", "go", "head", "float")
_ING = ("moving", "sliding", "travelling", "drifting", "gliding", "flying", "going", "heading", "floating")
_S = ("moves", "slides", "travels", "drifts", "glides", "flies", "goes", "heads", "floats")
_WAYS = {
    "right": ["right", "to the right", "rightwards", "from left to right", "towards the right"],
    "left": ["left", "to the left", "leftwards", "from right to left", "towards the left"],
    "up": ["up", "upwards", "upward", "to the top", "from bottom to top"],
    "down": ["down", "downwards", "downward", "to the bottom", "from top to bottom"],
}
EN_WORDS = {
    "up": ["rising", "rises", "that rises", "climbing", "climbs up", "ascending"],
    "down": ["falling", "falls", "that falls down", "dropping", "drops", "sinking", "descending"],
    "grow": ["growing", "grows", "that grows", "getting bigger", "gets bigger", "growing larger", "becoming larger",
             "becomes bigger", "expanding", "expands", "swelling"],
    "shrink": ["shrinking", "shrinks", "that shrinks", "getting smaller", "gets smaller", "becoming smaller",
               "becomes smaller", "contracting", "contracts"],
}  # fmt: skip
EN_ON = ["on a {b} background", "on a {b} background", "against a {b} background", "over a {b} background",
         "with a {b} background", "on {b}", "in front of a {b} wall", "against a {b} backdrop"]  # fmt: skip
EN_WHOLE = ["a {c} {s} {m} {on}", "a {c} {s} {m} {on}", "the {c} {s} {m} {on}", "a {c} {s} {m}, {b} background",
            "{c} {s} {m} {on}", "{on}, a {c} {s} {m}", "a video of a {c} {s} {m} {on}", "a {c} {s} {on} {m}",
            "show me a {c} {s} {m} {on}", "a short clip of one {c} {s} {m}, {on}", "{on} there is a {c} {s} {m}",
            "a {s} in {c} {m} {on}"]  # fmt: skip
EN_ADVERB = ["slowly", "quickly", "smoothly", "steadily", "gently"]

ZH_COLOUR = {"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄", "purple": "紫", "cyan": "青"}
ZH_BACKGROUND = {"black": "黑", "white": "白", "gray": "灰"}
ZH_SHAPE = {"circle": ["圆形", "圆球", "球", "圆"], "triangle": ["三角形", "三角"], "ring": ["圆环", "环", "环形"]}
_ZH_VERBS = ("移动", "运动", "滑动", "飘动", "走")
ZH_WORDS = {
    "right": ["从左到右移动", "从左往右移动"], "left": ["从右到左移动", "从右往左移动"],
    "up": ["上升", "升起", "从下往上移动"], "down": ["下落", "下降", "落下", "从上往下移动"],
    "grow": ["变大", "逐渐变大", "慢慢变大", "越来越大", "放大", "长大"],
    "shrink": ["变小", "逐渐变小", "慢慢变小", "越来越小", "缩小"],
}  # fmt: skip
ZH_WAY = {"right": "右", "left": "左", "up": "上", "down": "下"}
ZH_WHOLE = ["一个{c}色{s}在{b}色背景上{m}", "一个{c}色的{s}在{b}色的背景上{m}", "{b}色背景上,{c}色{s}{m}",
            "{c}色{s}{m},{b}色背景", "{b}色背景,一个{c}色{s}{m}", "在{b}色背景上,有一个{c}色的{s}{m}",
            "视频:{c}色的{s}在{b}色背景前{m}", "一个{m}的{c}色{s},背景是{b}色"]  # fmt: skip


def _english_motion(motion: str, rng: random.Random) -> str:
    words = EN_WORDS.get(motion, [])
    if motion in _WAYS and (not words or rng.random() < 0.65):
        verb, direction = rng.choice(_ING + _S + tuple(f"that {v}" for v in _S)), rng.choice(_WAYS[motion])
        words = [f"{verb} {direction}"]
    phrase = rng.choice(words)
    adverb = rng.choice(EN_ADVERB)
    return rng.choice([phrase] * 6 + [f"{phrase} {adverb}", f"{adverb} {phrase}"])


def _chinese_motion(motion: str, rng: random.Random) -> str:
    if motion in ZH_WAY and rng.random() < 0.7:
        return rng.choice(["向", "往", "朝"]) + ZH_WAY[motion] + rng.choice(_ZH_VERBS)
    return rng.choice(ZH_WORDS[motion])


def caption(scene: Scene, rng: random.Random, chinese: bool) -> str:
    """One free wording of a scene that names all four attributes."""
    if chinese:
        return rng.choice(ZH_WHOLE).format(
            c=ZH_COLOUR[scene.colour],
            s=rng.choice(ZH_SHAPE[scene.shape]),
            m=_chinese_motion(scene.motion, rng),
            b=ZH_BACKGROUND[scene.background],
        )
    background = rng.choice(EN_BACKGROUND[scene.background])
    return rng.choice(EN_WHOLE).format(
        c=rng.choice(EN_COLOUR[scene.colour]),
        s=rng.choice(EN_SHAPE[scene.shape]),
        b=background,
        m=_english_motion(scene.motion, rng),
        on=rng.choice(EN_ON).format(b=background),
    )


def partial_caption(scene: Scene, rng: random.Random, chinese: bool) -> tuple[str, tuple[bool, ...]]:
    """A caption that leaves attributes open, and which of (colour, shape, motion, background) it names."""
    if chinese:
        c, s, m = ZH_COLOUR[scene.colour] + "色", rng.choice(ZH_SHAPE[scene.shape]), _chinese_motion(scene.motion, rng)
        forms = [(f"一个{c}{s}", "cs"), (f"{c}{s}{m}", "csm"), (f"{s}{m}", "sm"), (s, "s")]
    else:
        c, s = rng.choice(EN_COLOUR[scene.colour]), rng.choice(EN_SHAPE[scene.shape])
        m, on = _english_motion(scene.motion, rng), rng.choice(EN_ON).format(b=scene.background)
        forms = [
            (f"a {c} {s}", "cs"),
            (f"a {c} {s} {m}", "csm"),
            (f"a {s} {m}", "sm"),
            (s, "s"),
            (f"a {c} {s} {on}", "csb"),
        ]
    text, named = rng.choice(forms)
    return text, tuple(key in named for key in "csmb")


def training_prompt(scene: Scene, rng: random.Random) -> tuple[str, tuple[bool, ...]]:
    """What the model sees in training: mostly whole captions, some partial, some empty, some with unknown words."""
    chinese, draw = rng.random() < 0.4, rng.random()
    if draw < 0.1:
        return "", (False,) * 4
    text, named = partial_caption(scene, rng, chinese) if draw < 0.18 else (caption(scene, rng, chinese), (True,) * 4)
    if rng.random() < 0.12:  # words outside the vocabulary
        unknown = rng.choice(["zzz", "zzz zzz", "zzz, zzz"])
        text = rng.choice([f"{unknown} {text}", f"{text} {unknown}", f"{text}, {unknown}"])
    return text + rng.choice(["", "", ".", "。" if chinese else "!"]), named


def vocabulary_text() -> list[str]:
    """Captions that together use every word of the grammar."""
    rng = random.Random(0)
    train, held_out = split()
    return [caption(s, rng, zh) for s in train + held_out for zh in (False, True) for _ in range(12)] + [
        *EN_ADVERB,
        *_VERBS,
        ".",
        "!",
        "。",
    ]
