"""Whatever stands at an input of any node, in an API prompt or on another pack's wire: words, and no traceback."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.tests.support.calls import execute, waited_for
from reelwire.tests.support.host import Host, workflow

STRANGE: tuple[Any, ...] = (3, "x", None, [], {}, {"samples": 3}, True, 1.5, [[1]], (3,), float("nan"), object())
LITERALS: tuple[Any, ...] = (3, "x", True, 1.5, {}, {"samples": 3})  # that an API prompt can hold
LINKED = {
    "VIDEO_MODEL",
    "VIDEO_CONDITIONING",
    "VIDEO_CONTROL",
    "KEYFRAMES",
    "LATENT",
    "IMAGE",
    "MASK",
    "AUDIO",
    "VIDEO",
}


def kinds(field: Any) -> set[str]:
    return {*field.get_io_type().split(",")}


def sockets(node: Any) -> list[Any]:
    return [field for field in node.define_schema().inputs if kinds(field) & LINKED]


def optional_none(field: Any, value: object) -> bool:
    """Nothing at an optional input is no input; latents of any kind of samples are another test's."""
    return value is None and field.optional


def test_every_type_that_a_node_takes_by_link_is_known(nodes: list[Any]) -> None:
    widgets = {"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO"}
    seen = {kind for node in nodes for field in node.define_schema().inputs for kind in kinds(field)}
    assert seen <= LINKED | widgets
    assert len([field for node in nodes for field in sockets(node)]) > 30


@pytest.mark.parametrize("call", ["execute", "check_lazy_status"])
def test_at_a_link_of_any_node(nodes: list[Any], call: str) -> None:
    tried = 0
    for node in nodes:
        function = getattr(node, call)
        if not function.__func__.__module__.startswith("reelwire"):
            continue  # the host's own, which does nothing
        for field in sockets(node):
            for value in STRANGE:
                if optional_none(field, value) or (value is None and call == "check_lazy_status"):
                    continue
                with pytest.raises(InputError) as refused:
                    waited_for(function(**{field.id: value}))
                assert refused.value.name == field.id, f"{node.__name__}.{field.id} = {value!r}"
                assert refused.value.remedy
                tried += 1
    assert tried > 50


def test_tensors_without_numbers_of_their_own(nodes: list[Any]) -> None:
    """Sparse, nested, quantised, or a shape alone: no operation of ours reads them, wherever they come in."""
    plain = torch.rand(1, 8, 8, 3)
    odd = (plain.to_sparse(), plain.to("meta"), torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8))
    tried = 0
    for node in nodes:
        for field in sockets(node):
            for tensor in odd if kinds(field) & {"IMAGE", "MASK", "LATENT", "AUDIO"} else ():
                whole = {"LATENT": {"samples": tensor}, "AUDIO": {"waveform": tensor, "sample_rate": 8000}}
                given = next((whole[kind] for kind in whole if kind in kinds(field)), tensor)
                with pytest.raises(InputError) as refused:
                    execute(node, **{field.id: given})
                assert refused.value.name == field.id, f"{node.__name__}.{field.id}"
                tried += 1
    assert tried > 40


def test_a_literal_is_refused_before_anything_runs(nodes: list[Any]) -> None:
    """The host asks `validate_inputs` about the inputs that its signature names, and gives it None for a link."""
    for node in nodes:
        names = inspect.getfullargspec(node.validate_inputs).args
        for field in sockets(node):
            assert field.id in names, f"{node.__name__} is not asked about {field.id}"
            assert "NoneType" not in str(node.validate_inputs(**{field.id: None}))
            for value in LITERALS:
                answer = node.validate_inputs(**{field.id: value})
                assert isinstance(answer, str), f"{node.__name__}.{field.id} = {value!r}"
                assert answer.startswith(f"{field.id} = ")


def test_what_a_widget_cannot_hold(nodes: list[Any]) -> None:
    """As a node of another pack that sends anything can bring it."""
    wrong: dict[str, tuple[object, ...]] = {
        "INT": ("x", [], {}, float("nan"), float("inf")),
        "FLOAT": ("x", [], {}, float("nan"), float("-inf")),
        "STRING": (3, [], {}, 1.5),
        "COMBO": (3, [], {}, True, 1.5),
        "BOOLEAN": ("x", [], {}),
    }
    for node in nodes:
        for field in node.define_schema().inputs:
            for value in wrong.get(field.get_io_type(), ()):
                with pytest.raises(InputError) as refused:
                    execute(node, **{field.id: value})
                assert refused.value.name == field.id, f"{node.__name__}.{field.id} = {value!r}"
                if field.id in inspect.getfullargspec(node.validate_inputs).args:
                    assert isinstance(node.validate_inputs(**{field.id: value}), str)


# ---------------------------------------------------------------- through the host

GRAPHS = {
    "ltx_t2v": ["2.model", "3.model", "3.conditioning", "4.latent", "4.model", "3.keyframes", "3.source", "3.control"],
}


def test_null_at_a_widget_of_any_node(nodes: list[Any]) -> None:
    """ComfyUI checks no choice that a node checks itself, and lets null through to it."""
    tried = 0
    for node in nodes:
        for field in (field for field in node.define_schema().inputs if not kinds(field) & LINKED):
            with pytest.raises(InputError) as refused:
                execute(node, **{field.id: None})
            assert refused.value.name == field.id, f"{node.__name__}.{field.id}"
            tried += 1
    assert tried > 100


def test_through_the_host(host: Host) -> None:
    for name, places in GRAPHS.items():
        for place in places:
            for value in LITERALS[:2]:
                text, done = host.refuse(workflow(name, {place: value}))
                assert f"{place.split('.')[1]} = {value!r} ({type(value).__name__})" in text
                assert "Traceback" not in text
                assert not done
    host.check()
