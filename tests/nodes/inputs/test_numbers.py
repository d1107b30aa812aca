"""Every number, choice and text of every node, with any value that a prompt or another pack's wire can bring: refused
under the input's own name before anything runs, or taken as a plain number."""

from __future__ import annotations

import inspect
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.messages import InputError, RefusedError
from reelwire.tests.support.calls import execute

ODD: dict[str, Any] = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1e308": 1e308,
    "-1e308": -1e308,
    "2**64": 2**64,
    "-2**63": -(2**63),
    "10**400": 10**400,
    "-10**5000": -(10**5000),
    "true": True,
    "false": False,
    "text": "1.5",
    "empty": "",
    "long": "9" * 100_000,
    "complex": 1j,
    "decimal": Decimal(1),
    "tensor": torch.tensor(1.0),
    "nan tensor": torch.tensor(math.nan),
    "tensors": torch.zeros(3, 3),
    "array": np.zeros(3),
    "numpy nan": np.float32("nan"),
    "numpy inf": np.float64("inf"),
    "numpy true": np.bool_(True),
    "bytes": b"1",
    "list": [1],
    "nested": {"a": [[[[[[]]]]]]},
    "function": len,
}
FINE = {"numpy": (np.float32(1), np.int64(1), Fraction(2, 2)), "INT": (1.0, np.float64(1))}


def numbers(node: Any) -> list[Any]:
    return [field for field in node.define_schema().inputs if field.get_io_type() in ("INT", "FLOAT")]


def test_a_number_of_any_node(nodes: list[Any]) -> None:
    tried = 0
    for node in nodes:
        for field in numbers(node):
            for name, value in ODD.items():
                if name == "-2**63" and field.min is not None and field.min <= value:
                    continue
                with pytest.raises(InputError) as refused:
                    execute(node, **{field.id: value})
                where = f"{node.__name__}.{field.id} = {name}"
                assert re.search(rf"\b{field.id}\b", str(refused.value)), where
                assert len(str(refused.value)) < 500, where
                tried += 1
    assert tried > 2000


def test_before_anything_runs(nodes: list[Any]) -> None:
    """ComfyUI makes a number of a literal, or refuses it, and leaves the rest to `validate_inputs`."""
    for node in nodes:
        names = inspect.getfullargspec(node.validate_inputs).args
        for field in numbers(node):
            assert field.id in names, f"{node.__name__} is not asked about {field.id}"
            for value in (math.nan, math.inf, -math.inf, 1e308, -1e308):
                number = int(value) if field.get_io_type() == "INT" and math.isfinite(value) else value
                answer = node.validate_inputs(**{field.id: number})
                assert isinstance(answer, str), f"{node.__name__}.{field.id} = {value}"
                assert re.search(rf"\b{field.id}\b", answer)
            assert node.validate_inputs(**{field.id: None}) is True


def test_numbers_of_other_kinds_are_made_plain(nodes: list[Any]) -> None:
    from reelwire.nodes.host.arrivals import check_arrivals, plain_numbers

    for node in nodes:
        for field in numbers(node):
            kind = field.get_io_type()
            for value in (*FINE["numpy"], *FINE.get(kind, ())):
                check_arrivals(node, {field.id: value}, False)
                plain = plain_numbers(node, {field.id: value})[field.id]
                assert type(plain) in (int, float)
                assert plain == 1
            if kind == "INT":
                with pytest.raises(InputError):
                    check_arrivals(node, {field.id: 1.5}, False)


def test_a_choice_that_is_not_offered(nodes: list[Any]) -> None:
    """A link may bring any text; a KeyError would be told else."""
    tried = 0
    for node in nodes:
        for field in node.define_schema().inputs:
            if field.get_io_type() != "COMBO":
                continue
            for value in ("none of these", "", "\x1b[31m", "x" * 100_000):
                with pytest.raises(RefusedError) as refused:
                    execute(node, **{field.id: value})
                assert str(refused.value).startswith(f"{field.id} = "), f"{node.__name__}: {refused.value}"
                assert len(str(refused.value)) < 500
                assert "\x1b" not in str(refused.value)
                tried += 1
    assert tried > 100


@pytest.mark.parametrize(
    "text", ["1, " * 100_000, "9" * 5000, "9" * 100_000, ";" * 100_000, "1e" + "9" * 3000, "nan", "a"]
)
@pytest.mark.parametrize("name", ["layers", "scales", "stg_scales", "rescales", "timesteps"])
def test_a_list_of_numbers(nodes: list[Any], name: str, text: str) -> None:
    node = next(node for node in nodes if node.define_schema().node_id == "ReelwireGuidance")
    answer = node.validate_inputs(**{name: text})
    assert isinstance(answer, str)
    assert answer.startswith(f"{name} = ")
    assert len(answer) < 400


def test_half_a_character_in_any_text(nodes: list[Any]) -> None:
    """As an escape in an API prompt writes it."""
    tried = 0
    for node in nodes:
        for field in node.define_schema().inputs:
            for value in ("a\ud800", "\udfff", "x" * 10**6 + "\udc00") if field.get_io_type() == "STRING" else ():
                with pytest.raises(InputError) as refused:
                    execute(node, **{field.id: value})
                assert refused.value.name == field.id, f"{node.__name__}.{field.id}"
                str(refused.value).encode()
                tried += 1
    assert tried > 10
