"""The sentencepiece model that a GGUF file's metadata describes, in sentencepiece's own format
(sentencepiece_model.proto), so that no protobuf is needed."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import fields

_FIELDS = "tokenizer.ggml."
_UNUSED = 5  # a type of tokens: rows at the end of the table that no text reaches
_UNIGRAM = 1


def sentencepiece_model(file: Path) -> bytes | None:
    """The model as sentencepiece reads it; None where the file describes none."""
    values = {name.removeprefix(_FIELDS): value for name, value in fields(file, _FIELDS).items()}
    if not {"tokens", "scores", "token_type"} <= values.keys():
        return None
    pieces = list(zip(values["tokens"], values["scores"], values["token_type"], strict=True))
    while pieces and pieces[-1][2] == _UNUSED:
        pieces.pop()
    charsmap = bytes(bytearray(values.get("precompiled_charsmap", ())))
    normalizer = [
        _text(1, b"nmt_nfkc" if charsmap else b"identity"),
        *([_text(2, charsmap)] if charsmap else ()),
        _number(3, bool(values.get("add_space_prefix", True))),
        _number(4, bool(values.get("remove_extra_whitespaces", True))),
    ]
    return b"".join((*(_text(1, _piece(*piece)) for piece in pieces), _text(2, _trainer(values, len(pieces))))) + _text(
        3, b"".join(normalizer)
    )


def _piece(token: str, score: float, kind: int) -> bytes:
    return _text(1, token.encode()) + _key(2, 5) + struct.pack("<f", score) + _number(3, kind)


def _trainer(values: dict[str, Any], size: int) -> bytes:
    """What the model says of itself: ids of the special tokens; -1 where there is none."""
    ids = {40: "unknown", 41: "bos", 42: "eos", 43: "padding"}
    special = (_number(field, int(values.get(f"{name}_token_id", -1))) for field, name in ids.items())
    bytewise = any(kind == 6 for kind in values["token_type"])
    return b"".join((_number(3, _UNIGRAM), _number(4, size), _number(35, bytewise), *special))


def _text(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(int(value) % 2**64)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    return bytes(_groups(value))


def _groups(value: int) -> Iterable[int]:
    while value > 127:
        yield value % 128 + 128
        value //= 128
    yield value
