"""Pictures that are read by name: every depth and kind of pixel as it is, and files without the host's metadata."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from reelwire.loaders.common.picture_files import read_picture, unused_of_picture
from reelwire.loaders.messages import InputError
from reelwire.loaders.notices import heard_by


@pytest.fixture(scope="module")
def host_parts(comfyui: Path) -> Iterator[Any]:
    """nodes/host with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    names = {"files": "files", "outputs": "outputs", "pictures": "pictures.named"}
    modules = {name: importlib.import_module(f"reelwire.nodes.host.{path}") for name, path in names.items()}
    yield SimpleNamespace(**modules, args=comfy.cli_args.args)
    sys.path.remove(str(comfyui))


def png16(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write with more than one. pixels: [H, W, C] uint16."""
    import struct
    import zlib

    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits(host_parts: Any, tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (32, 64, channels), np.uint16)
    pixels[0, 0], pixels[0, 1] = 0, 65535
    if channels in (2, 4):
        pixels[..., -1] = 65535
    png16(tmp_path / "a.png", pixels)
    read = read_picture(str(tmp_path / "a.png"))
    expected = np.repeat(pixels[..., :1], 3, -1) if channels < 3 else pixels[..., :3]
    assert read.shape == (1, 32, 64, 3)
    assert np.abs(read[0].numpy() - expected / 65535).max() < 1e-4


def colours() -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    pixels[:2] = 255, 0, 0
    return Image.fromarray(pixels)


EIGHT = ["RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK"]


@pytest.mark.parametrize("mode", EIGHT)
def test_eight_bits(host_parts: Any, tmp_path: Path, mode: str) -> None:
    picture = colours().convert("P").convert("PA") if mode == "PA" else colours().convert(mode)
    name = tmp_path / ("a.tif" if mode in ("CMYK", "PA") else "a.png")
    picture.save(name)
    read = read_picture(str(name))
    assert np.array_equal(np.round(read[0].numpy() * 255).astype(np.uint8), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_stands_upright(host_parts: Any, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours().save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    _, height, width, _ = read_picture(str(tmp_path / "a.jpg")).shape
    assert (width, height) == ((24, 40) if orientation > 4 else (40, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_one_too(host_parts: Any, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.linspace(0, 65535, 40 * 24).reshape(24, 40).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image)) / 65535
    read = read_picture(str(tmp_path / "a.png"))[0].numpy()
    assert read.shape == (*upright.shape, 3)
    assert np.abs(read - upright[..., None]).max() < 1e-4


def test_deep_grey_of_other_formats(host_parts: Any, tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        read = read_picture(str(tmp_path / name))[0, ..., 0].numpy()
        assert np.abs(read - pixels / 65535).max() < 1e-4, name


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_is_told(
    host_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr(host_parts.pictures.folder_paths, "get_input_directory", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"a\.png"):
        host_parts.pictures.input_images(["a.png"])


def clear(mode: str, alpha: int) -> Image.Image:
    picture = colours().convert("RGBA")
    picture.putalpha(alpha)
    return picture.convert(mode)


def clear_palette(path: Path) -> None:
    picture = colours().convert("P")
    picture.save(path, transparency=picture.getpixel((0, 0)))


def adobe() -> bytes:
    """A profile that is not sRGB's."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def animated(path: Path, **options: Any) -> None:
    colours().save(path, save_all=True, append_images=[colours().rotate(180), colours().rotate(90)], **options)


PICTURES: dict[str, tuple[str, Any, list[str]]] = {
    "plain": ("a.png", lambda path: colours().save(path), []),
    "a JPEG": ("a.jpg", lambda path: colours().save(path), []),
    "an opaque alpha": ("a.png", lambda path: clear("RGBA", 255).save(path), []),
    "alpha": ("a.png", lambda path: clear("RGBA", 128).save(path), ["picture_alpha"]),
    "gray and alpha": ("a.png", lambda path: clear("LA", 0).save(path), ["picture_alpha"]),
    "a transparent colour": ("a.png", lambda path: colours().save(path, transparency=(255, 0, 0)), ["picture_alpha"]),
    "a palette": ("a.png", clear_palette, ["picture_alpha"]),
    "a GIF that moves": ("a.gif", animated, ["picture_first_frame"]),
    "a WebP that moves": ("a.webp", lambda path: animated(path, lossless=True), ["picture_first_frame"]),
    "a PNG that moves": ("a.png", animated, ["picture_first_frame"]),
    "a TIFF of pages": ("a.tif", animated, ["picture_first_frame"]),
    "CMYK": ("a.jpg", lambda path: colours().convert("CMYK").save(path), ["picture_profile"]),
    "sRGB, said": ("a.png", lambda path: colours().save(path, icc_profile=srgb()), []),
    "another profile": ("a.png", lambda path: colours().save(path, icc_profile=adobe()), ["picture_profile"]),
    "no profile": ("a.png", lambda path: colours().save(path, icc_profile=b"nothing"), ["picture_profile"]),
    "16 bits": ("a.png", lambda path: png16(path, np.zeros((8, 8, 3), np.uint16)), []),
    "16 bits and alpha": ("a.png", lambda path: png16(path, np.zeros((8, 8, 4), np.uint16)), ["picture_alpha"]),
}


@pytest.mark.parametrize("case", PICTURES)
def test_what_is_not_used_of_a_picture_is_told(
    host_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, write, expected = PICTURES[case]
    write(tmp_path / name)
    monkeypatch.setattr(host_parts.pictures.folder_paths, "get_input_directory", lambda: str(tmp_path))
    for _ in range(2):  # of what was decoded before, too
        notes = list[Any]()
        with heard_by(notes.append):
            host_parts.pictures.input_images([name])
        assert [note.key for note in notes] == expected
    host_parts.pictures.forget_pictures()
    assert [note.key for note in unused_of_picture(str(tmp_path / name))] == expected


# ---------------------------------------------------------------- metadata

HIDDEN = SimpleNamespace(prompt={"1": {"secret": "words"}}, extra_pnginfo={"workflow": {"secret": 1}}, unique_id="1")


@pytest.mark.parametrize("disabled", [False, True])
def test_metadata_as_the_host_is_told(
    host_parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    """Neither in videos nor in latents; how latents are decoded is still known."""
    monkeypatch.setattr(host_parts.args, "disable_metadata", disabled)
    monkeypatch.setattr(host_parts.files, "output_folder", lambda: tmp_path)
    node: Any = SimpleNamespace(hidden=HIDDEN)
    note = {"family": "ltx", "seed": 3}
    assert {*host_parts.outputs.metadata(node, note)} == (set() if disabled else {"prompt", "workflow", "reelwire"})
    path = host_parts.files.save_latents({"samples": torch.zeros(1, 2, 3, 4, 5), "reelwire": note}, node)
    assert (b"secret" in path.read_bytes()) != disabled
    assert host_parts.files.read_latents(path)[0]["reelwire"] == json.loads(json.dumps(note))


def test_metadata_that_cannot_be_written_is_left_out(host_parts: Any) -> None:
    """A video is not lost for a workflow that lies too deep, nor for half a character in its name."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    node: Any = SimpleNamespace(hidden=SimpleNamespace(prompt=None, extra_pnginfo={"workflow": deep, "\ud800": 1}))
    values = host_parts.outputs.metadata(node, {"seed": 3})
    assert {*values} == {"?", "reelwire"}
    "".join([*values, *values.values()]).encode()


def test_an_unfinished_render_has_the_same_name_each_day(host_parts: Any) -> None:
    path = host_parts.outputs.beside_output("a/../b/%date:yyyy-MM-dd%\\c", ".unfinished")
    assert path.relative_to(host_parts.outputs.output_folder()).as_posix() == "b/%date_yyyy-MM-dd%/c.unfinished"
