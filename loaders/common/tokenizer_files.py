"""Tokenizers that others wrote: what a file may say, checked before a library in Rust or C++ reads it, whose panics end
the host and whose regular expressions may never end."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..messages import CheckpointError, RefusedError, message, reason_of
from ..parts import JsonObject
from ..weights.json_files import MOST_INDEX, excerpt, parse_object, read_bytes, read_object

MOST_PIECES = 2**20  # UMT5 has 256,384, Llama 3 128,256
MOST_SIGNS = 512  # of one piece: Llama 3 has one of 128 spaces
MOST_STEPS = 16  # of a sequence of normalizers, pre-tokenizers, decoders or post-processors, inner ones counted
MOST_GROWTH = 64  # how many times longer the replacements make a text together
MOST_MAPPED = 64  # bytes that one sign is normalized to: NFKC has 33 at most
SIDECARS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES = (*SIDECARS, "tokenizer.json", "spiece.model", "vocab.json", "merges.txt")
PATTERNS = frozenset(  # all that published tokenizers of these encoders, and transformers' converters, write
    (
        # Llama 3
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        # Qwen 2
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        # CLIP, as transformers writes it and as openai/clip-vit-large-patch14 has it
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        # GPT-2
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # spaces, of sentencepiece models that were converted
        r"\s+",
        r"\s",
        r" {2,}",
        r" +",
        r"\A +| +\z",
        "\\A\u2581",
        "\u2581{2,}",
    )
)
_Check = Callable[[JsonObject], object]


class UnusableError(ValueError):
    """What no published tokenizer says."""


def _need(holds: object, value: object) -> None:
    if not holds:
        raise UnusableError(excerpt(value, 100))


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """What a library says of a tokenizer that it cannot read, and its panic in Rust, as a CheckpointError."""
    name = excerpt(f"{source.parent.name}/{source.name}")[1:-1]
    remedy = message("download_tokenizer")
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(message("tokenizer_unusable", file=name, error=reason_of(error)), remedy) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which is no Exception and has no module
            raise
        raise CheckpointError(message("tokenizer_unusable", file=name, error=str(error)), remedy) from error


# ---------------------------------------------------------------- tokenizer.json


def check_tokenizer(values: JsonObject) -> None:
    """Raise ValueError, or what a wrong type raises, unless a tokenizer.json says only what published ones say."""
    for name in ("truncation", "padding"):
        _check_numbers(values.get(name))
    _check_added(values.get("added_tokens") or [])
    growth = 1.0
    for kind, step in _steps(values.get("normalizer"), "normalizers"):
        growth *= _normalizer(kind, step)
    _need(growth <= MOST_GROWTH, growth)
    for kind, step in _steps(values.get("pre_tokenizer"), "pretokenizers"):
        _PRE_TOKENIZERS[kind](step)
    for kind, step in _steps(values.get("decoder"), "decoders"):
        _DECODERS[kind](step)
    for kind, step in _steps(values.get("post_processor"), "processors"):
        _POST_PROCESSORS[kind](step)
    model = values["model"]
    _MODELS[model.get("type") or ("BPE" if "merges" in model else "Unigram")](model)


def _steps(step: JsonObject | None, inner: str) -> list[tuple[str, JsonObject]]:
    """(type, step) of a step and of all that lie in its sequences."""
    steps, waiting = list[tuple[str, JsonObject]](), [] if step is None else [step]
    while waiting:
        step = waiting.pop(0)
        kind = step["type"]
        waiting += step[inner] if kind == "Sequence" else []
        steps += [] if kind == "Sequence" else [(kind, step)]
        _need(len(steps) + len(waiting) <= MOST_STEPS, step)
    return steps


def _check_numbers(value: object) -> None:
    """Of truncation and padding: nobody pads to a million tokens."""
    if isinstance(value, dict):
        for inner in value.values():
            _check_numbers(inner)
    _need(not isinstance(value, int) or 0 <= value < 2**20, value)


def _check_added(tokens: list[JsonObject]) -> None:
    _need(len(tokens) < 2**16, len(tokens))
    for token in tokens:
        _check_piece(token["content"])
        _need(type(token["id"]) is int and 0 <= token["id"] < 2 * MOST_PIECES, token)


def _check_piece(piece: str) -> None:
    _need(isinstance(piece, str) and 0 < len(piece) <= MOST_SIGNS, piece)


def _anything(step: JsonObject) -> None:
    """Steps without a pattern: their switches are read by the library, which refuses other types."""


def _pattern(step: JsonObject) -> None:
    """A published regular expression, or plain signs."""
    (kind, pattern), *more = step["pattern"].items()
    _need(not more and isinstance(pattern, str), step["pattern"])
    _need(pattern in PATTERNS if kind == "Regex" else kind == "String" and 0 < len(pattern) <= MOST_SIGNS, pattern)


def _metaspace(step: JsonObject) -> None:
    _need(len(step["replacement"]) == 1, step)


def _template(step: JsonObject) -> None:
    """Each part once: a text that stands a million times in its own template takes all memory."""
    for name in ("single", "pair"):
        _need(len(step.get(name) or ()) <= MOST_STEPS, len(step.get(name) or ()))
    tokens = step.get("special_tokens") or {}
    _need(len(tokens) <= MOST_STEPS and all(len(token["ids"]) <= MOST_STEPS for token in tokens.values()), tokens)


def _normalizer(kind: str, step: JsonObject) -> float:
    """How many times longer a step makes a text at most, where it is allowed."""
    if kind == "Precompiled":
        charsmap = step["precompiled_charsmap"]
        check_charsmap(base64.b64decode(charsmap, validate=True) if charsmap else b"")
    elif kind == "Replace":
        _pattern(step)
        content, pattern = step["content"], step["pattern"]
        _need(isinstance(content, str) and len(content) <= MOST_STEPS, content)
        return max(1.0, len(content) / len(pattern.get("String", " ")))
    elif kind == "Prepend":
        _need(len(step["prepend"]) <= MOST_STEPS, step)
    else:
        _need(kind in _NORMALIZERS, kind)
    return 1.0


_NORMALIZERS = (
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Nmt",
    "BertNormalizer",
    "ByteLevel",
)
_PLAIN: Mapping[str, _Check] = {"ByteLevel": _anything, "Metaspace": _metaspace}
_PRE_TOKENIZERS: Mapping[str, _Check] = {
    **_PLAIN,
    **dict.fromkeys(("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Punctuation", "Digits"), _anything),
    "Split": _pattern,
}
_DECODERS: Mapping[str, _Check] = {
    **_PLAIN,
    **dict.fromkeys(("ByteFallback", "Fuse", "Strip", "WordPiece", "BPEDecoder"), _anything),
    "Replace": _pattern,
}
_POST_PROCESSORS: Mapping[str, _Check] = {
    **dict.fromkeys(("ByteLevel", "RobertaProcessing", "BertProcessing"), _anything),
    "TemplateProcessing": _template,
}


def _ids(model: JsonObject) -> None:
    """A vocabulary of pieces with their ids."""
    vocabulary = model["vocab"]
    _need(isinstance(vocabulary, dict) and len(vocabulary) <= MOST_PIECES, len(vocabulary))
    for piece, number in vocabulary.items():
        _check_piece(piece)
        _need(type(number) is int and 0 <= number < 2 * MOST_PIECES, number)


def _bpe(model: JsonObject) -> None:
    _ids(model)
    _need(not model.get("dropout"), model.get("dropout"))  # would give other tokens each time
    _need(len(model["merges"]) <= 2 * MOST_PIECES, len(model["merges"]))
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        _need(len(model.get(name) or "") <= MOST_SIGNS, model.get(name))


def _unigram(model: JsonObject) -> None:
    _scored((piece, score) for piece, score in model["vocab"])
    unknown = model.get("unk_id")
    _need(unknown is None or (type(unknown) is int and 0 <= unknown < len(model["vocab"])), unknown)


def _scored(pieces: Iterator[tuple[str, float]]) -> None:
    """Pieces of a unigram model: NaN would send its search astray."""
    count = 0
    for piece, score in pieces:
        _check_piece(piece)
        _need(not isinstance(score, bool) and abs(score) < 1e30, score)
        count += 1
    _need(0 < count <= MOST_PIECES, count)


_MODELS: Mapping[str, _Check] = {"Unigram": _unigram, "BPE": _bpe, "WordLevel": _ids, "WordPiece": _ids}


# ---------------------------------------------------------------- sentencepiece


def check_charsmap(charsmap: bytes) -> None:
    """Raise ValueError unless the trie of a precompiled charsmap stays within itself, and maps no sign to a long text.

    Four bytes with the size of the trie, the trie, texts that end with 0 (sentencepiece, normalizer.cc). The trie is a
    double array (darts-clone): from place p, a byte c leads to place p ^ offset ^ c, and sentencepiece does not look
    whether there is one.
    """
    if not charsmap:
        return
    size = int.from_bytes(charsmap[:4], "little")
    _need(len(charsmap) > 4 and 0 < size <= len(charsmap) - 4 and size % 4 == 0, size)
    units, texts = np.frombuffer(charsmap, "<u4", size // 4, 4), charsmap[4 + size :]
    places = np.arange(len(units), dtype=np.uint32) ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    inner = units >> 31 == 0  # the others are values
    _need(bool(((places[inner] | 255) < len(units)).all()), len(units))
    ends = units[places[inner & (units >> 8 & 1 == 1)]] & 0x7FFFFFFF
    _need(not len(ends) or int(ends.max()) < len(texts), len(texts))
    _need(max(map(len, texts.split(b"\0"))) <= MOST_MAPPED and texts.endswith(b"\0"), len(texts))


def check_sentencepiece(model: bytes) -> None:
    """Raise ValueError unless bytes are a sentencepiece model that its library can be trusted with."""
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    try:
        proto = ModelProto.FromString(model)
    except DecodeError as error:
        raise UnusableError(str(error)) from error
    _need(proto.trainer_spec.model_type in (1, 2), proto.trainer_spec.model_type)  # unigram, BPE
    _scored((piece.piece, piece.score) for piece in proto.pieces)
    specials = [proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id]
    _need(all(number < len(proto.pieces) for number in specials), specials)
    check_charsmap(proto.normalizer_spec.precompiled_charsmap)
    _need(not proto.denormalizer_spec.precompiled_charsmap, "denormalizer_spec")


# ---------------------------------------------------------------- folders


def check_folder(folder: Path) -> str:
    """The name of the file that a folder's tokenizer is read from, which was checked; "" where there is none."""
    for name in SIDECARS:
        if (folder / name).exists():
            _check_sidecar(read_object(folder / name))
    for name, check in _FILES.items():
        if (folder / name).exists():
            check(read_bytes(folder / name, MOST_INDEX))
            if name == "vocab.json":
                _check_merges(read_bytes(folder / "merges.txt", MOST_INDEX))
            return name
    return ""


_FILES: Mapping[str, Callable[[bytes], None]] = {
    "tokenizer.json": lambda content: check_tokenizer(parse_object(content, MOST_INDEX)),
    "spiece.model": check_sentencepiece,
    "vocab.json": lambda content: _ids({"vocab": parse_object(content, MOST_INDEX)}),
}


def _check_merges(content: bytes) -> None:
    lines = content.decode("utf-8").split("\n")
    _need(len(lines) <= 2 * MOST_PIECES and max(map(len, lines)) <= 2 * MOST_SIGNS, len(lines))


def _check_sidecar(values: JsonObject) -> None:
    """Of the files beside a tokenizer: their tokens are few and short, their numbers small."""
    extra = values.get("extra_ids") or 0
    _need(type(extra) is int and 0 <= extra <= 1000, extra)
    for value in (value for name, value in values.items() if name != "chat_template"):  # which nothing here reads
        _need(not isinstance(value, (list, dict)) or len(value) < 2**16, type(value).__name__)
        for token in value if isinstance(value, list) else ():
            _check_piece(token["content"] if isinstance(token, dict) else token)
