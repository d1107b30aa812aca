"""Reads a generated video back: which colour, which shape, which motion, on which background."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .world import BACKGROUNDS, COLOURS, SHAPES, Path, object_mask, signed_distance

CONTRAST = 55  # a pixel this far (RGB distance, 0..255) from the background belongs to the object
SMALLEST = 12  # pixels; below this a frame counts as empty
GROWTH = 1.8  # area ratio between the last and the first frames
TRAVEL = 7.0  # pixels between the first and the last frames


def judge(video: np.ndarray) -> dict[str, str | None]:
    """video [T, H, W, 3] in 0..1 -> {"colour", "shape", "motion", "background"}; None where there is no object."""
    pixels = np.asarray(video, dtype=np.float64) * 255
    edge = np.concatenate(
        [
            pixels[:, :3].reshape(-1, 3),
            pixels[:, -3:].reshape(-1, 3),
            pixels[:, :, :3].reshape(-1, 3),
            pixels[:, :, -3:].reshape(-1, 3),
        ]
    )
    back = np.median(edge, axis=0)
    distance = np.linalg.norm(pixels - back, axis=-1)
    mask = distance > CONTRAST
    visible = mask.sum((1, 2)) >= SMALLEST
    result: dict[str, str | None] = {
        "colour": None,
        "shape": None,
        "motion": None,
        "background": _nearest(BACKGROUNDS, back),
    }
    if visible.sum() * 2 < len(mask):
        return result
    core = mask & (distance >= np.quantile(distance[mask], 0.4))
    masks = mask[visible]
    return result | {
        "colour": _nearest(COLOURS, pixels[core].mean(0)),
        "shape": _shape(masks),
        "motion": _motion(masks),
    }


def _nearest(palette: dict[str, tuple[int, int, int]], colour: np.ndarray) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))


def _centroids(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> (area, x, y) per frame of masks [T, H, W]."""
    area = masks.sum((1, 2)).astype(np.float64)
    y, x = np.mgrid[0 : masks.shape[1], 0 : masks.shape[2]] + 0.5
    return area, (masks * x).sum((1, 2)) / area, (masks * y).sum((1, 2)) / area


def _motion(masks: np.ndarray) -> str:
    area, x, y = _centroids(masks)
    n = max(2, len(masks) // 6)
    ratio = np.median(area[-n:]) / np.median(area[:n])
    dx, dy = x[-n:].mean() - x[:n].mean(), y[-n:].mean() - y[:n].mean()
    if ratio > GROWTH or ratio < 1 / GROWTH:
        return "grow" if ratio > 1 else "shrink"
    if max(abs(dx), abs(dy)) < TRAVEL:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


@cache
def _unit(shape: str) -> tuple[float, float]:
    """Area and centroid height of a shape of radius 1."""
    grid = (torch.arange(-200, 200) + 0.5) / 100
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    inside = signed_distance(shape, x, y, torch.tensor(1.0)) < 0
    return float(inside.sum()) / 1e4, float(y[inside].mean())


def _shape(masks: np.ndarray) -> str:
    """The template with the best overlap, summed over about eight frames, larger objects counting more."""
    area, x, y = _centroids(masks)
    score = dict.fromkeys(SHAPES, 0.0)
    for i in range(0, len(masks), max(1, len(masks) // 8)):
        for shape in SHAPES:
            score[shape] += area[i] ** 0.5 * _overlap(shape, masks[i], area[i], x[i], y[i])
    return max(score, key=lambda shape: score[shape])


def _overlap(shape: str, mask: np.ndarray, area: float, x: float, y: float) -> float:
    """Best intersection over union of the mask and the shape's template near the mask's own size and place."""
    unit_area, unit_y = _unit(shape)
    best = 0.0
    for scale in (0.92, 1.0, 1.08):
        radius = scale * (area / unit_area) ** 0.5
        for lift in (-0.12, 0.0, 0.12):
            path = Path(*(torch.tensor([v], dtype=torch.float32) for v in (x, y - (unit_y + lift) * radius, radius)))
            template = object_mask(shape, path, *mask.shape)[0].numpy() > 0.5
            best = max(best, (template & mask).sum() / max((template | mask).sum(), 1))
    return best
