"""Mochi's attention gives diffusers' bits without reading anything back from the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families.mochi.attention import joint_attention, prompt_lengths
from reelwire.tests.support.engine.models import open_plain
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
HALF = ("hidden_states", "encoder_hidden_states", "timestep")
READS = ("nonzero", "_local_scalar_dense")  # what makes the CPU wait for the card


class Counting(TorchDispatchMode):
    """Counts the operators by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[operator._schema.name.removeprefix("aten::")] += 1
        return operator(*args, **(kwargs or {}))


@contextmanager
def network(tiny_models: Path) -> Iterator[Any]:
    with torch.no_grad(), open_plain(tiny_models, "tiny-mochi").use("transformer") as network:
        yield network


def inputs(network: Any, lengths: tuple[int, ...], tokens: int = 12) -> dict[str, Any]:
    generator, batch = torch.Generator().manual_seed(0), len(lengths)
    mask = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return dict(
        hidden_states=torch.randn(batch, network.config.in_channels, 2, 8, 8, generator=generator),
        encoder_hidden_states=torch.randn(batch, tokens, network.config.text_embed_dim, generator=generator),
        encoder_attention_mask=mask,
        timestep=torch.full((batch,), 500.0),
        return_dict=False,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [(5,), (1,), (12,), (3, 9), (4, 4), (0, 7)])
def test_equals_diffusers_bit_for_bit(tiny_models: Path, lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    from diffusers.models.attention_processor import MochiAttnProcessor2_0

    with network(tiny_models) as transformer:
        transformer.to(dtype)
        halved = {k: v.to(dtype) if k in HALF else v for k, v in inputs(transformer, lengths).items()}
        with Counting() as counting, joint_attention(transformer).reading(lengths):
            ours = transformer(**halved)[0]
        assert not {*READS} & {*counting.count}
        assert torch.equal(ours, transformer(**halved)[0]), "the lengths read from the mask are others"
        for block in transformer.transformer_blocks:
            block.attn1.processor = MochiAttnProcessor2_0()
        with Counting() as counting:
            theirs = transformer(**halved)[0]
        assert counting.count["nonzero"] == len(lengths) * len(transformer.transformer_blocks)
        assert torch.equal(ours, theirs)


def test_lengths_end_with_their_forwards(tiny_models: Path) -> None:
    with network(tiny_models) as transformer:
        one, other = inputs(transformer, (5,)), inputs(transformer, (9,))
        expected = transformer(**other)[0]
        with joint_attention(transformer).reading((5,)):
            transformer(**one)
        assert torch.equal(transformer(**other)[0], expected)


@pytest.mark.parametrize("mask", [[False, True], [True, False, True]])
def test_padding_before_the_end_is_refused(mask: list[bool]) -> None:
    row: Tensor = torch.tensor([mask])
    with pytest.raises(ValueError, match="padding before the prompt's end"):
        prompt_lengths(row)
