"""The parts of a comparison: where videos lie, which frame is shown when, letters, and the page of the report."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.messages import message
from reelwire.tests.support.clips import shade, write_shades


@pytest.fixture(scope="module")
def compare(comfyui: Path) -> Iterator[Any]:
    """The modules of nodes/compare/ with ComfyUI's in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    names = ("clips", "grid", "lettering", "language", "page", "render", "still", "table")
    yield SimpleNamespace(**{name: import_module(f"reelwire.nodes.compare.{name}") for name in names})
    sys.path.remove(str(comfyui))


def video(path: Path, **span: float) -> Any:
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path), **span)


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize("width", [0, 641, 1920])
@pytest.mark.parametrize("sizes", [[(128, 96)] * 2, [(832, 480), (480, 832), (64, 64)], [(1280, 720)] * 9])
def test_videos_lie_apart_in_their_proportions(compare: Any, sizes: list[tuple[int, int]], width: int) -> None:
    grid = compare.grid.lay_out(sizes, 0, width)
    assert grid.width % 2 == grid.height % 2 == 0
    assert grid.width <= max(width + 1, 1920)
    boxes = [*grid.captions, *grid.cells]
    assert all(b.left >= 0 and b.left + b.width <= grid.width and b.top + b.height <= grid.height for b in boxes)
    apart = lambda a, b: (
        a.left + a.width <= b.left
        or b.left + b.width <= a.left
        or a.top + a.height <= b.top
        or b.top + b.height <= a.top
    )
    assert all(apart(a, b) for a, b in combinations(boxes, 2))
    for (w, h), picture in zip(sizes, grid.pictures, strict=True):
        assert picture.width / picture.height == pytest.approx(w / h, rel=0.02)


def test_columns_make_the_whole_like_a_screen(compare: Any) -> None:
    best = compare.grid.best_columns
    assert [best(n, 16, 9) for n in (2, 4, 9)] == [2, 2, 3]
    assert best(3, 9, 16) == 3
    assert compare.grid.lay_out([(64, 64)] * 3, 8, 0).columns == 3


# ---------------------------------------------------------------- frames by time


def reds(compare: Any, clip: Any, moments: list[Fraction], is_looped: bool = False) -> list[int]:
    """The shade of what a player shows at each moment, as the number of the frame that has it."""
    player = compare.clips.Player(clip, (32, 24), is_looped)
    shown = [float(player.at(moment)[0][..., 0].mean()) for moment in moments]
    player.close()
    return [min(range(12), key=lambda n: abs(shade(n) - red)) for red in shown]


def test_of_each_moment_the_newest_frame(compare: Any, tmp_path: Path) -> None:
    clip = compare.clips.clip_of("video_1", video(write_shades(tmp_path / "a.mp4", 5, 10)))
    assert (clip.width, clip.height, clip.count, clip.seconds, clip.fps) == (64, 48, 5, Fraction(1, 2), 10)
    assert clip.size == (tmp_path / "a.mp4").stat().st_size
    moments = [Fraction(n, 20) for n in range(13)]
    assert reds(compare, clip, moments) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4]
    assert reds(compare, clip, moments, is_looped=True) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 0, 1]


def test_a_part_of_a_file_begins_with_it(compare: Any, tmp_path: Path) -> None:
    path = write_shades(tmp_path / "a.mp4", 10, 10)
    clip = compare.clips.clip_of("video_1", video(path, start_time=0.3, duration=0.4))
    assert (clip.count, clip.seconds) == (4, Fraction(2, 5))
    assert reds(compare, clip, [Fraction(n, 10) for n in range(6)]) == [3, 4, 5, 6, 6, 6]


def test_a_video_of_pictures(compare: Any) -> None:
    from comfy_api.latest import InputImpl, Types

    images = torch.zeros(4, 24, 32, 3)
    images[..., 0] = torch.tensor([shade(n) for n in range(4)]).view(4, 1, 1) / 255
    held = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(8)))
    clip = compare.clips.clip_of("video_1", held)
    assert (clip.width, clip.height, clip.count, clip.seconds, clip.size) == (32, 24, 4, Fraction(1, 2), 0)
    assert reds(compare, clip, [Fraction(n, 8) for n in range(5)]) == [0, 1, 2, 3, 3]


def test_how_long_the_grid_is(compare: Any, tmp_path: Path) -> None:
    fast = compare.clips.clip_of("video_1", video(write_shades(tmp_path / "a.mp4", 30, 30)))
    slow = compare.clips.clip_of("video_2", video(write_shades(tmp_path / "b.mp4", 16, 8)))
    length, render = compare.render.length_of, compare.render
    assert length([fast, slow], 0, render.HOLD) == render.Length(60, 30)
    assert length([fast, slow], 0, render.SHORTEST) == render.Length(30, 30)
    assert length([fast, slow], 12.5, render.REPEAT) == render.Length(25, Fraction(25, 2))


def test_no_more_than_a_frame_of_each_is_read_ahead(compare: Any, tmp_path: Path) -> None:
    clip = compare.clips.clip_of("video_1", video(write_shades(tmp_path / "a.mp4", 12, 12)))
    taken: list[Fraction] = []

    class Counted(compare.clips.Clip):
        def frames(self) -> Iterator[Any]:
            for moment, scaled in super().frames():
                taken.append(moment)
                yield moment, scaled

    player = compare.clips.Player(Counted(*vars(clip).values()), (8, 8), False)
    for number in range(5):
        player.at(Fraction(number, 12))
        assert len(taken) == number + 2
    player.close()


def test_what_cannot_be_read_is_refused_by_its_input(compare: Any, tmp_path: Path) -> None:
    path = write_shades(tmp_path / "a.mp4", 5, 10)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="video_4"):
        compare.clips.clip_of("video_4", video(path))


# ---------------------------------------------------------------- letters


def ink(compare: Any, text: str) -> Any:
    from PIL import Image, ImageDraw

    image, lettering = Image.new("RGB", (300, 40)), compare.lettering.Lettering()
    compare.grid.write(ImageDraw.Draw(image), (0, 0), text, 20, (255, 255, 255), lettering, 300)
    return np.asarray(image)[..., 0], lettering


def test_chinese_has_glyphs_of_its_own(compare: Any) -> None:
    """From the font of the pack alone, whatever the system has."""
    own = str(compare.lettering.OWN)
    drawn = {text: ink(compare, text)[0].tobytes() for text in ("模", "型", "视", "A", "é", "Ж", "か", "，")}
    assert len({*drawn.values()}) == len(drawn)
    for text in drawn:
        assert compare.lettering._font_of(text) == own


def test_a_sign_without_glyph_is_a_box_and_is_told(compare: Any) -> None:
    lost = "\U000e0fff"
    pixels, lettering = ink(compare, f"A{lost}")
    assert [*lettering.lacking] == [lost]
    assert pixels.tobytes() == ink(compare, f"A{compare.lettering.BOX}")[0].tobytes()
    assert not ink(compare, "AB")[1].lacking


def test_a_long_line_is_cut(compare: Any) -> None:
    lettering = compare.lettering.Lettering()
    fitted = lettering.fitted("模型" * 40, 20, 200)
    assert fitted.endswith("…")
    assert 150 < lettering.width(fitted, 20) <= 200
    assert lettering.fitted("ab", 20, 200) == "ab"


# ---------------------------------------------------------------- the report


def test_the_page_escapes_all_and_asks_nobody(compare: Any) -> None:
    evil = '"><script>alert(1)</script>'
    text = compare.page.html(evil, "en", f"{evil}.mp4", b"jpeg", [evil] * 4, [[evil] * 4], [[evil] * 4], [evil])
    assert "<script" not in text
    assert not re.search(r"https?://|//\w", text.replace("data:image/jpeg;base64,anBlZw==", ""))
    assert "default-src 'none'" in text
    assert re.findall(r'src="([^"]*)"', text) == ["%22%3E%3Cscript%3Ealert%281%29%3C/script%3E.mp4"]


def test_words_of_both_languages(compare: Any) -> None:
    text = message("compare_phases", sampling=message("time_s", number="1.5"), decoding="2 s")
    english, chinese = (compare.language.said(text, name) for name in ("English", "中文"))
    assert english == str(text)
    assert "1.5" in chinese
    assert "采样" in chinese
    assert compare.language.said("plain", "中文") == "plain"


def test_the_table_says_unknown_and_counts_cost(compare: Any, tmp_path: Path) -> None:
    from reelwire.nodes import host

    clip = compare.clips.clip_of("video_1", video(write_shades(tmp_path / "a.mp4", 5, 10)))
    known = compare.table.Entry(
        "A", clip, {"family": "ltx", "variant": "0.9"}, host.Run(1800.0, 1800.0, 3 * 2**30, "card")
    )
    foreign = compare.table.Entry("B", clip, {}, None)
    table = compare.table.Table((known, foreign), 2.5)
    facts = table.facts()["videos"]
    assert [fact["cost"] for fact in facts] == [2.5, None]
    assert [fact["peak_memory_bytes"] for fact in facts] == [3 * 2**30, None]
    assert [fact["run_seconds"] for fact in facts] == [3600.0, None]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows()]
    assert rows[0]["cost"] == "2.5"
    assert [row["cost"] == row["time"] == row["memory"] == row["model"] for row in rows] == [False, True]
    assert "cost" not in compare.table.Table((known,), 0.0).columns
    image = compare.still.still(
        compare.grid.background(
            compare.grid.lay_out([(64, 48)] * 2, 0, 0), [("A", "a"), ("B", "b")], compare.lettering.Lettering()
        ),
        table.head(),
        table.rows(),
        compare.lettering.Lettering(),
    )
    assert np.asarray(image)[-40:].max() > 200, "the last row is written"
