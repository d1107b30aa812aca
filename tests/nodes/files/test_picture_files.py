"""Strangers' pictures that a timeline names: refused in words by their headers, and never larger in memory than the
video needs."""

from __future__ import annotations

import importlib
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from reelwire.loaders.common.images import cover, cut_to, fit_inside
from reelwire.loaders.common.picture_files import FORMATS, MOST_PIXELS, picture_size, read_picture, unused_of_picture
from reelwire.loaders.messages import InputError

MEMORY = 2**28  # bytes that a refused file, or a scaled one of 30 million pixels, may take beside what is there


@pytest.fixture(scope="module")
def files(comfyui: Path) -> Iterator[Any]:
    """nodes/host/pictures/named.py with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    yield importlib.import_module("reelwire.nodes.host.pictures.named")
    sys.path.remove(str(comfyui))


@pytest.fixture
def folder(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's input folder."""
    inside = tmp_path / "input"
    inside.mkdir()
    monkeypatch.setattr(files.folder_paths, "get_input_directory", lambda: str(inside))
    return inside


def png(width: int, height: int, depth: int = 8, kind: int = 0, rows: bytes = b"") -> bytes:
    """A PNG of these sides, whose pixels are black where it has any at all."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def black(width: int, height: int) -> bytes:
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return png(width, height, rows=rows)


def small(**options: Any) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (64, 48), (255, 0, 0)).save(path, **options)


def metadata(path: Path) -> None:
    """Two MB of text in a chunk of 2 kB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 2_000_000, zip=True)
    Image.new("RGB", (64, 48)).save(path, pnginfo=info)


def written(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def outside(path: Path) -> None:
    target = path.parent.parent / "elsewhere.png"
    small()(target)
    path.symlink_to(target)


def outer_folder(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    target.mkdir()
    small()(target / "b.png")
    path.symlink_to(target, target_is_directory=True)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(/tmp/x) run\nshowpage\n"
BAD: dict[str, Callable[[Path], Any]] = {
    "narrow": written(png(100_000, 1)),
    "tall": written(png(1, 100_000)),
    "narrow within limits": written(black(5100, 100)),
    "30000 a side": written(png(30_000, 30_000)),
    "12000 a side": written(png(12_000, 12_000)),
    "2**31 - 1 a side": written(png(2**31 - 1, 2**31 - 1)),
    "no width": written(png(0, 48)),
    "16 bits, 30000 a side": written(png(30_000, 30_000, 16)),
    "no rows": written(png(64, 48)),
    "wrong rows": written(png(64, 48, rows=b"no zlib")),
    "16 bits, no rows": written(png(64, 48, 16)),
    "odd depth": written(png(64, 48, 3, 7)),
    "metadata": metadata,
    "empty": written(b""),
    "no picture": written(b"no picture" * 50),
    "a page that is run": written(EPS),
    "scalable": written(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a playlist": written(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    "a video": written(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(400)),
    "huge tga": written(struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0)),
    "huge bmp": written(
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "huge gif": written(
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x2c" + bytes(9) + b"\x02\x00\x3b"
    ),
    "huge ppm": written(b"P6 99999999 99999999 255\n"),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link out": outside,
    "link to itself": lambda path: path.symlink_to(path),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory that is taken while something runs, beside what was taken before."""

    def __enter__(self) -> Peak:
        self._before, self.bytes, self._over = resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, resident() - self._before)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among files")
def test_a_bad_picture_is_told(files: Any, folder: Path, kind: str) -> None:
    BAD[kind](folder / "a.png")
    began = time.process_time()
    with Peak() as peak, pytest.raises(InputError) as refused:
        files.input_images(["a.png"])
    assert refused.value.name == "timeline"
    assert "'a.png'" in str(refused.value)
    assert str(folder) not in str(refused.value), "where the host's folders are is nobody's business"
    assert "Pillow" not in str(refused.value)
    assert "PIL" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert peak.bytes < MEMORY
    assert time.process_time() - began < 2


NAMES = [
    *("..", ".", "", " ", "/", "\\", "../elsewhere.png", "..\\elsewhere.png", "a/../../elsewhere.png", "/etc/passwd"),
    *(
        "C:\\evil",
        "C:/evil",
        "\\\\server\\share\\a.png",
        "a\nb.png",
        "a\x00.png",
        "\x1b[31ma.png",
        "\u202egnp.a",
        "a\u200b.png",
    ),
    *(
        "\ud800.png",
        "a/" * 3000 + "a.png",
        "a" * 999,
        "CON",
        "a:b",
        "~/a.png",
        "file:///etc/passwd",
        "b.png",
        "x" * 10**7,
    ),
    *("linked/b.png", "%2e%2e/elsewhere.png", "a.png/b"),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_a_name_that_leads_elsewhere(files: Any, folder: Path, name: str) -> None:
    small()(folder / "a.png")
    small()(folder.parent / "elsewhere.png")
    outer_folder(folder / "linked")
    for read in (lambda name: files.input_images([name]), files.input_size, files.input_file):
        with pytest.raises(InputError) as refused:
            read(name)
        assert refused.value.name == "timeline"
        assert len(str(refused.value)) < 500
        assert not {*str(refused.value)} & {*"\n\x00\x1b\u202e\u200b\ud800"}


@pytest.mark.parametrize("stored", ["caf\u00e9.png", "cafe\u0301.png"])
@pytest.mark.parametrize("asked", ["caf\u00e9.png", "cafe\u0301.png"])
def test_composed_letters_of_another_system(files: Any, folder: Path, stored: str, asked: str) -> None:
    (folder / "sub").mkdir()
    small()(folder / "sub" / stored)
    assert files.input_size(f"sub/{asked}") == (64, 48)
    assert files.input_size(f"sub\\{asked}") == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "SGI"])
def test_usual_kinds_are_read(folder: Path, kind: str) -> None:
    assert kind in FORMATS
    small(format=kind)(folder / "a.bin")
    assert read_picture(str(folder / "a.bin")).shape == (1, 48, 64, 3)
    assert picture_size(str(folder / "a.bin")) == (64, 48)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_picture(folder: Path, kind: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "a.bin", format=kind, save_all=True, append_images=frames[1:])
    assert [note.key for note in unused_of_picture(str(folder / "a.bin"))] == ["picture_first_frame"]
    pixels = read_picture(str(folder / "a.bin"))
    assert pixels[0, 0, 0, 0] > 0.9


def test_a_large_one_is_scaled_as_it_is_read(folder: Path) -> None:
    """As numbers it would take 576 MB."""
    (folder / "a.png").write_bytes(black(8000, 6000))
    assert MOST_PIXELS > 8000 * 6000
    with Peak() as peak:
        pixels = read_picture(str(folder / "a.png"), (832, 480))
    assert pixels.shape == (1, 480, 832, 3)
    assert peak.bytes < MEMORY, f"{peak.bytes / 2**20:.0f} MB"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_scaled_at_once_is_nearly_as_scaled_later(folder: Path, deep: bool, orientation: int) -> None:
    import numpy as np

    rows, columns = np.mgrid[0:300, 0:400]
    wave = (np.sin(rows / 30) * np.cos(columns / 40) + 1) / 2
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = (
        Image.fromarray((wave * 65535).astype(np.uint16)) if deep else Image.fromarray((wave * 255).astype(np.uint8))
    )
    picture.save(folder / "a.png", exif=exif)
    whole, size = read_picture(str(folder / "a.png")), (32, 24)
    difference = (read_picture(str(folder / "a.png"), size) - cover(whole, *size)).abs()
    assert difference.mean() < 0.01
    assert difference.max() < 0.05
    assert torch.equal(read_picture(str(folder / "a.png"), (200, 150)), cover(whole, 200, 150)), "not so large"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6),
    st.integers(0, 255),
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "ICO", "SGI"]),
)
def test_damage_anywhere(folder: Path, place: int, value: int, kind: str) -> None:
    """Read, or refused in words."""
    small(format=kind)(folder / "a.bin")
    data = bytearray((folder / "a.bin").read_bytes())
    data[place % len(data)] = value
    (folder / "a.bin").write_bytes(data[: place // 7 % len(data) + 1] if place % 3 == 0 else data)
    try:
        pixels = read_picture(str(folder / "a.bin"), (64, 48))
    except ValueError as error:
        if not hasattr(error.args[0], "key"):
            raise
    else:
        assert pixels.shape == (1, 48, 64, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 400), (400, 1), (3, 150), (150, 3)])
def test_any_proportions_fit_any_video(height: int, width: int) -> None:
    """At the size that a door lets through, or beyond it."""
    picture = torch.rand(2, height, width, 3)
    with Peak() as peak:
        assert cover(picture, 832, 480).shape == (2, 480, 832, 3)
    assert peak.bytes < MEMORY
    assert fit_inside(picture, 832, 480).shape == (2, 480, 832, 3)
    assert 0 not in cut_to(picture, 832, 480).shape
