"""Headers that are made to be strange: tensors of any shape and type, JSON of any form, GGUF of any bytes. Each ends in
our own words or is read; and one strange file of a folder disturbs no other."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.families import family
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.weights.encoders import KINDS, read_encoder
from reelwire.loaders.weights.find import find_encoder, read_source, read_vae
from reelwire.loaders.weights.format import CheckpointFormat
from reelwire.loaders.weights.gguf import fields, read_gguf
from reelwire.loaders.weights.lora.reading import read_lora
from reelwire.loaders.weights.safetensors import read_file
from reelwire.tests.support.engine.models import MODELS
from reelwire.tests.support.files.bad_files import SIZES, Rows, rows_of, write_header, write_rows

NETWORKS = {
    "tiny-wan2.1-t2v": "transformer",
    "tiny-wan2.1-vace": "transformer",
    "tiny-hunyuan-t2v": "transformer",
    "tiny-cogvideox-5b": "transformer",
    "tiny-mochi": "transformer",
    "tiny-ltx-0.9.5": "transformer",
    "tiny-svd": "unet",
}
ENCODERS = {
    "tiny-wan2.1-t2v/text_encoder": "umt5",
    "tiny-ltx-0.9.5/text_encoder": "t5",
    "tiny-hunyuan-t2v/text_encoder": "llama",
    "tiny-hunyuan-t2v/text_encoder_2": "clip",
    "tiny-svd/image_encoder": "vision",
}
EACH = 40


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What takes seconds to import, so that files alone are timed."""
    for name in ("diffusers.quantizers.gguf.utils", "transformers.modeling_utils"):
        import_module(name)


def only_words(read: Callable[[], object]) -> str:
    """ "" where it is read, else the key of what is said."""
    try:
        read()
    except CheckpointError as error:
        assert len(str(error)) < 1500  # noqa: PT017
        return getattr(error.rule, "key", "") or "?"
    return ""


SHAPES: tuple[Callable[[tuple[int, ...]], tuple[int, ...]], ...] = (
    lambda shape: (),
    lambda shape: (0,),
    lambda shape: (1,),
    lambda shape: (0,) * max(len(shape), 1),
    lambda shape: (*shape, *shape)[:8],
    lambda shape: tuple(2 * n for n in shape),
    lambda shape: shape[:1],
    lambda shape: (1,) * 8,
    lambda shape: shape[::-1],
    lambda shape: (*shape[:-1], 0),
    lambda shape: (2**20, 7) if len(shape) > 1 else (2**24,),
)

DOUBLED = 5


def strange(rows: Rows, rng: random.Random) -> Rows:
    """The same with a few tensors of another shape or type, or missing, or doubled under another name."""
    result, keys = dict(rows), list(rows)
    for key in rng.choices(keys[:8] + rng.choices(keys, k=8), k=rng.choice((1, 1, 2, 5))):
        dtype, shape = rows[key]
        result[key] = rng.choice([(dtype, rng.choice(SHAPES)(shape)), (rng.choice([*SIZES]), shape)])
        if rng.random() < 0.1:
            del result[key]
        if rng.random() < 0.1:
            result[
                rng.choice(("", "model.", "x.", "vae.", "transformer.")) + key + rng.choice(("", ".0", ".weight"))
            ] = (
                dtype,
                shape,
            )
    if rng.random() < 0.05:
        result = {key: (dtype, rng.choice(SHAPES)(shape)) for key, (dtype, shape) in rows.items()}
    return result


@cache
def whole(models: Path, place: str) -> Rows:
    rows: Rows = {}
    for file in sorted((models / place).glob("*.safetensors")):
        rows |= rows_of(file)
    return rows


def form_of(name: str) -> CheckpointFormat:
    return family(MODELS[name]).checkpoint


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_vaes_of_any_shapes(tiny_models: Path, tmp_path: Path, name: str) -> None:
    rng, seen = random.Random(name), Counter[str]()
    form = form_of(name)
    for part, read in ((NETWORKS[name], read_source), ("vae", read_vae)):
        rows = whole(tiny_models, f"{name}/{part}")
        for number in range(EACH):
            file = write_rows(tmp_path / f"{part}-{number}.safetensors", strange(rows, rng))
            seen[only_words(lambda file=file, read=read: read(file, form))] += 1  # type: ignore[misc]
    assert len(seen) > 1
    assert max(seen.values()) > 5


@pytest.mark.parametrize("place", ENCODERS)
def test_encoders_of_any_shapes(tiny_models: Path, tmp_path: Path, place: str) -> None:
    rng, seen = random.Random(place), Counter[str]()
    rows = whole(tiny_models, place)
    for number in range(EACH):
        file = write_rows(tmp_path / f"{number}.safetensors", strange(rows, rng))
        for kind in KINDS:
            seen[only_words(lambda file=file, kind=kind: read_encoder(file, kind))] += 1  # type: ignore[misc]
    assert len(seen) > 1


QUANTISED: tuple[dict[str, str] | None, ...] = (
    None,
    {"_quantization_metadata": "[]"},
    {"_quantization_metadata": '{"layers": {"a": {"format": []}}}'},
    {"_quantization_metadata": '{"layers": {"a": {"format": "nvfp4"}, "b": null}}'},
    {"_quantization_metadata": '{"layers": [1]}'},
    {"_quantization_metadata": "{" * 10**5},
    {"config": "[" * 10**5},
    {"config": '{"transformer": null}'},
    {"lora_adapter_metadata": "[[]]"},
)


def test_scales_and_marks_of_any_shapes(tmp_path: Path) -> None:
    """ComfyUI's quantised layers: scales and marks that belong to scalars, to nothing, or to each other."""
    rng = random.Random(5)
    ends = ("weight", "bias", "scale_weight", "weight_scale", "weight_scale_2", "comfy_quant", "input_scale")
    seen = Counter[str]()
    for number in range(300):
        rows: Rows = {
            f"{layer}.{end}": (rng.choice([*SIZES]), rng.choice(((), (0,), (1,), (16,), (16, 16), (16, 16, 1))))
            for layer in ("a", "b")
            for end in rng.sample(ends, rng.randrange(1, len(ends)))
        }
        file = write_rows(tmp_path / f"{number}.safetensors", rows, rng.choice(QUANTISED))
        seen[only_words(lambda file=file: read_file(file))] += 1  # type: ignore[misc]
    assert len(seen) > 3


ODD: tuple[Any, ...] = (
    None,
    -1,
    2**70,
    1.5,
    "",
    "x" * 10**4,
    [],
    {},
    [[1]],
    {"dtype": "F32"},
    {"dtype": [], "shape": 3, "data_offsets": {}},
    {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [2**40] * 8, "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
    {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]},
    {"dtype": "F32", "shape": [4], "data_offsets": ["0", 16]},
    {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
    {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]},
)


@pytest.mark.parametrize("place", ["whole", "row", "metadata", "note"])
def test_headers_of_any_form(tmp_path: Path, place: str) -> None:
    good = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for number, value in enumerate(ODD):
        header: Any = {"whole": value, "row": {"a": value}, "metadata": {"__metadata__": value, "a": good}}.get(
            place, {"__metadata__": {"config": value}, "a": good}
        )
        file = write_header(tmp_path / f"{number}.safetensors", json.dumps(header).encode(), 16)
        said = only_words(lambda file=file: read_file(file))  # type: ignore[misc]
        fine = isinstance(value, str) if place == "note" else place == "metadata" and value in ({}, {"dtype": "F32"})
        assert bool(said) != fine, value


ROW = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
RAW: dict[str, bytes] = {
    "deep": b'{"a":' * 10**6,
    "doubled": b'{"a":' + ROW + b',"a":' + ROW + b"}",
    "same bytes": b'{"a":' + ROW + b',"b":' + ROW + b"}",
    "digits": b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
    "half a character": b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    "a million": b"{"
    + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**5 + 1))
    + b"}",
}


@pytest.mark.parametrize("kind", RAW)
def test_headers_that_no_writer_writes(tmp_path: Path, kind: str) -> None:
    file = write_header(tmp_path / "strange.safetensors", RAW[kind], 4)
    assert only_words(lambda: read_file(file)) in ("header_damaged", "header_gaps")


def test_many_names_against_many_keys_are_soon_read(tmp_path: Path) -> None:
    """Each of 20,000 names was looked for in each of 20,000 keys."""
    rows: Rows = {f"blocks.{i}.a.weight": ("U8", (0,)) for i in range(20_000)}
    layers = json.dumps({"layers": {f"blocks.{i}.b": {"format": "nvfp4"} for i in range(20_000)}})
    file = write_rows(tmp_path / "many.safetensors", rows, {"_quantization_metadata": layers})
    start = time.process_time()
    assert read_file(file)
    assert time.process_time() - start < 5


# ---------------------------------------------------------------- GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(*pairs: tuple[str, int, bytes], tensors: int = 0, count: int | None = None, rest: bytes = b"") -> bytes:
    """The bytes of a file. pairs: (key, type, value)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs) if count is None else count)
    return head + b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs) + rest


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


HUGE = (2**31, 2**40, 2**62, 2**63, 2**64 - 1)
SMALL: dict[str, bytes] = {
    **{
        f"{count} {name}": gguf(("a", 9, array(kind, count)))
        for count in HUGE
        for kind, name in ((0, "bytes"), (8, "texts"))
    },
    **{f"{count} arrays": gguf(("a", 9, array(9, count, array(0, 0) * 2))) for count in HUGE},
    **{f"{count} fields": gguf(count=count) for count in HUGE},
    **{f"{count} tensors": gguf(tensors=count) for count in HUGE},
    **{f"a text of {count}": gguf(("a", 8, struct.pack("<Q", count) + b"x")) for count in HUGE},
    **{f"a name of {count}": gguf(count=1, rest=struct.pack("<Q", count) + b"x") for count in HUGE},
    **{f"an axis of {count}": gguf(tensors=1, rest=tensor("a", (count, 2))) for count in HUGE},
    **{f"an offset of {count}": gguf(tensors=1, rest=tensor("a", (4,), offset=count) + bytes(64)) for count in HUGE},
    "an unknown type": gguf(("a", 99, b"")),
    "an unknown number format": gguf(tensors=1, rest=tensor("a", (4,), kind=77) + bytes(64)),
    "many axes": gguf(tensors=1, rest=tensor("a", (1,) * 100) + bytes(900)),
    "no alignment": gguf(("general.alignment", 4, bytes(4))),
    "alignment of a text": gguf(("general.alignment", 8, text("x"))),
    "twice the same": gguf(("a", 0, b"1"), ("a", 0, b"1")),
    "no text": gguf(("a", 8, struct.pack("<Q", 2) + b"\xff\xfe"), ("general.architecture", 0, b"1")),
    "the magic alone": b"GGUF",
    "the same bytes": gguf(
        tensors=50, rest=b"".join(tensor(f"t{i}", (64, 64)) for i in range(50)) + bytes(64 * 64 * 4)
    ),
    "a shape of nothing": gguf(
        ("comfy.gguf.orig_shape.a", 9, array(5, 2, struct.pack("<ii", -2, -2))),
        tensors=1,
        rest=tensor("a", (4,)) + bytes(64),
    ),
    "a larger shape": gguf(
        ("comfy.gguf.orig_shape.a", 9, array(4, 2, struct.pack("<II", 2**20, 2**20))),
        tensors=1,
        rest=tensor("a", (4,)) + bytes(64),
    ),
}


@pytest.mark.parametrize("kind", SMALL)
def test_small_gguf_files_with_large_numbers(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(SMALL[kind])
    start = time.process_time()
    fine = ("no text",)
    assert bool(only_words(lambda: read_file(file))) != (kind in fine)
    only_words(lambda: fields(file, "a"))
    assert time.process_time() - start < 2


def test_gguf_files_of_any_bytes(tmp_path: Path) -> None:
    """Of a text encoder with its vocabulary, a few bytes are others: nothing but words, and no file takes long."""
    rng, seen, file = random.Random(11), Counter[str](), tmp_path / "some.gguf"
    tokens = ["<pad>", "</s>", "<unk>", "a", "b"]
    good = gguf(
        ("general.architecture", 8, text("t5encoder")),
        ("tokenizer.ggml.tokens", 9, array(8, 5, b"".join(map(text, tokens)))),
        ("tokenizer.ggml.scores", 9, array(6, 5, struct.pack("<5f", *range(5)))),
        ("tokenizer.ggml.token_type", 9, array(5, 5, struct.pack("<5i", *range(1, 6)))),
        ("tokenizer.ggml.precompiled_charsmap", 9, array(0, 4, b"abcd")),
        ("tokenizer.ggml.add_space_prefix", 7, b"\1"),
        tensors=2,
        rest=tensor("token_embd.weight", (4, 5)) + tensor("enc.blk.0.attn_q.weight", (4, 4), 1, 96),
    )
    good += bytes(-len(good) % 32 + 96 + 32)
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.choice((0, 1, 1, 3, 20))):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        file.write_bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.1 else damaged)
        start = time.process_time()
        seen[only_words(lambda: read_gguf(file))] += 1
        assert time.process_time() - start < 2
    assert seen[""] > 20
    assert seen["gguf_damaged"] > 100


# ---------------------------------------------------------------- LoRAs


def test_lora_settings_of_any_form(tmp_path: Path) -> None:
    """A pattern that never ends, numbers without bounds, lists for objects: noted, and the LoRA's own numbers count."""
    from reelwire.loaders.weights.lora.settings import read_settings

    strange: tuple[str, ...] = (
        '{"r": 4, "lora_alpha": 4, "alpha_pattern": {"(a+)+": 1}}',
        '{"r": 4, "lora_alpha": 4, "rank_pattern": {"((a*)*)*b": 1}}',
        '{"r": 4, "lora_alpha": 4, "rank_pattern": {"%s": 1}}' % ("a?" * 500),
        '{"r": 4, "lora_alpha": 4, "rank_pattern": [1]}',
        '{"r": [], "lora_alpha": 4}',
        '{"r": 4, "lora_alpha": {}}',
        '{"r": 4, "lora_alpha": 1e999}',
        "[" * 10**5,
        "null",
    )
    for value in strange:
        start = time.process_time()
        with pytest.raises((ValueError, TypeError, AttributeError)):
            read_settings(value, "").of("transformer.blocks.0.attn1." + "a" * 40)
        assert time.process_time() - start < 1
    usual = '{"r": 4, "lora_alpha": 8, "rank_pattern": {"blocks\\\\.(0|1)\\\\.attn1\\\\.to_q": 2, ".*to_k": 3}}'
    assert read_settings(usual, "").of("transformer.blocks.1.attn1.to_q") == (8.0, 2)
    assert read_settings(usual, "").of("transformer.blocks.1.attn1.to_k") == (8.0, 3)


# ---------------------------------------------------------------- one bad file beside a sound one


def damaged_files(folder: Path, sound: Path) -> int:
    """One file of each kind of damage, beside a sound one."""
    content = sound.read_bytes()
    kinds: dict[str, bytes] = {
        **{
            f"raw-{kind.replace(' ', '-')}.safetensors": struct.pack("<Q", len(raw)) + raw
            for kind, raw in [*RAW.items()][:-1]
        },
        **{f"gguf-{number}.gguf": raw for number, raw in enumerate(SMALL.values()) if number % 6 == 0},
        "empty.safetensors": b"",
        "cut.safetensors": content[: len(content) // 2],
        "zeros.safetensors": bytes(4096),
        "text.safetensors": b"<html>404</html>",
        "named.gguf": b"GGUF" + content,
        "pickle.safetensors": b"PK\3\4" + bytes(100),
    }
    for name, raw in kinds.items():
        (folder / name).write_bytes(raw)
    for number, shape in enumerate(SHAPES):
        if number == DOUBLED:
            continue  # twice as large, it is whole
        rows = {key: (dtype, shape(old)) for key, (dtype, old) in rows_of(sound).items()}
        write_rows(folder / f"shapes-{number}.safetensors", rows)
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "device.safetensors").symlink_to("/dev/zero")
    (folder / "gone.safetensors").symlink_to("nowhere")
    (folder / "part-00001-of-99999.safetensors").write_bytes(content)
    return len([*folder.iterdir()])


def test_auto_takes_the_sound_one(tiny_models: Path, tmp_path: Path) -> None:
    form = form_of("tiny-wan2.1-t2v")
    source = next((tiny_models / "tiny-wan2.1-t2v" / "text_encoder").glob("*.safetensors"))
    shutil.copy(source, tmp_path / "sound.safetensors")
    assert damaged_files(tmp_path, source) > 25
    offered = {path.name: path for path in sorted(tmp_path.iterdir())}
    assert find_encoder(form.spec, "text_encoder", 0, Path("x"), offered).name == "sound.safetensors"
    for path in offered.values():
        if path.name != "sound.safetensors":
            assert only_words(lambda path=path: read_vae(path, form))  # type: ignore[misc]


def test_a_damaged_lora_is_words(tiny_models: Path, tmp_path: Path) -> None:
    from reelwire.tests.support.files.loras import network_of, open_lora_model

    source = next((tiny_models / "tiny-wan2.1-t2v" / "text_encoder").glob("*.safetensors"))
    damaged_files(tmp_path, source)
    model = open_lora_model(tiny_models, "wan")
    for path in sorted(tmp_path.iterdir()):
        assert only_words(lambda path=path: read_lora(path, model.checkpoint, network_of(model)))  # type: ignore[misc]
