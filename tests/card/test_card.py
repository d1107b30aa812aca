"""The pretend card itself: the CPU's numbers to the bit, devices kept apart, and every byte counted."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reelwire.tests.support.card import Card
from torch import Tensor, nn

pytestmark = pytest.mark.on_card
MB, ROOM = 1 << 20, 1 << 30
Make = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def card() -> Iterator[Card]:
    """The card at its full size; every test gives back all that it took."""
    torch.ops.reelwire_card.set_count(2)
    for each in (Card(0), Card(1)):
        each.set_cap(ROOM)
        each.fail_after(-1)
    yield Card()
    gc.collect()  # modules refer to themselves
    assert (Card(0).allocated(), Card(1).allocated()) == (0, 0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def same(make: Make, *tensors: Tensor) -> None:
    """The card makes what the CPU makes, to the bit, and on the card."""
    expected, result = make(*tensors), make(*(t.to("npu") for t in tensors))
    assert result.device == torch.device("npu:0")
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=0, equal_nan=True)


# ---------------------------------------------------------------- the CPU's numbers

OPERATORS: dict[str, Make] = {
    "arithmetic": lambda a: (a + 1) * 2 - a / 3,
    "product": lambda a: a @ a.mT,
    "batched product": lambda a: torch.bmm(a.expand(2, 6, 8), a.mT.expand(2, 8, 6)),
    "sums": lambda a: a.sum(0).exp() + a.mean() + a.std(0),
    "cat and stride": lambda a: torch.cat([a, a], 1)[:, ::2].t().contiguous(),
    "index": lambda a: a[torch.tensor([1, 0], device=a.device)],
    "mask": lambda a: a[a > 0],
    "index from the CPU": lambda a: a[torch.tensor([1, 0])],
    "unfold": lambda a: a.view(-1, 4).unfold(1, 2, 1),
    "complex": lambda a: torch.view_as_complex(a.view(-1, 2)) * 1j,
    "conjugate": lambda a: torch.view_as_complex(a.view(-1, 2)).conj() + 0,
    "rotary": lambda a: torch.view_as_real(torch.polar(a, a)),
    "softmax": lambda a: a.softmax(-1),
    "norms": lambda a: F.layer_norm(a, a.shape[-1:]) + F.rms_norm(a, a.shape[-1:]) + F.group_norm(a, 2),
    "sorting": lambda a: a.topk(2).values + a.sort().values[:, :2],
    "bfloat16": lambda a: a.bfloat16() * 3,
    "float8": lambda a: a.to(torch.float8_e4m3fn).float(),
    "bytes": lambda a: (a * 50).to(torch.int8).view(torch.uint8).float(),
    "gelu and silu": lambda a: F.gelu(a, approximate="tanh") + F.silu(a),
    "interpolate": lambda a: F.interpolate(a[None, None], scale_factor=2, mode="nearest"),
    "bilinear": lambda a: F.interpolate(a[None, None], scale_factor=1.5, mode="bilinear"),
    "pad": lambda a: F.pad(a, (1, 1), value=2.0) + F.pad(a[None], (1, 1), mode="replicate")[0],
    "fourier": lambda a: torch.fft.fftn(a).real,
    "where": lambda a: torch.where(a > 0, a, 0.0),
    "in place": lambda a: a.clone().add_(1).mul_(2).squeeze_(),
    "norm": lambda a: torch.linalg.norm(a),
    "roll and flip": lambda a: a.roll(1, 0).flip(1),
    "pieces": lambda a: torch.stack(a.unbind(0)).chunk(2, 1)[1],
    "masked_fill": lambda a: a.masked_fill(a > 0, 1),
    "einsum": lambda a: torch.einsum("ij,kj->ik", a, a),
    "cumulative": lambda a: a.cumsum(0) + a.cummax(0).values,
    "quantile": lambda a: torch.quantile(a, 0.5),
    "factories": lambda a: a.new_zeros(3) + torch.arange(3, device=a.device) + torch.linspace(0, 1, 3, device=a.device),
    "eigenvalues": lambda a: torch.linalg.eigh(a @ a.mT).eigenvalues,
    "lerp": lambda a: torch.lerp(a, a * 2, 0.3),
    "scatter": lambda a: torch.zeros_like(a).scatter_(1, a.argsort(1), a),
    "many at once": lambda a: torch._foreach_add([a, a], 1.0)[1],
    "search": lambda a: torch.searchsorted(a[0].sort().values, a[1]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_the_cpus(name: str) -> None:
    same(OPERATORS[name], drawn(6, 8))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3, padding=1)),
    "conv2d": lambda: nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(2, 6, 3, stride=2)),
    "conv3d": lambda: nn.Conv3d(4, 6, 3, padding=1),
    "transposed conv3d": lambda: nn.ConvTranspose3d(4, 6, 2, stride=2),
    "norm and linear": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(8, 5), nn.LayerNorm(5)),
    "pool": lambda: nn.Sequential(nn.Flatten(0, 1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_the_cpus(name: str, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        here = NETWORKS[name]().to(dtype)
        there = copy.deepcopy(here).to("npu")
        same(lambda x: (there if x.device.type == "npu" else here)(x), drawn(1, 4, 2, 8, 8, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, torch.ones(16, 16).tril() > 0, torch.zeros(16, 16)])
def test_attention_is_the_cpus(mask: Tensor | None, dtype: torch.dtype) -> None:
    masks = [] if mask is None else [mask if mask.dtype == torch.bool else mask.to(dtype)]
    attend = lambda q, *m: F.scaled_dot_product_attention(q, q, q, *m)
    same(attend, drawn(1, 2, 16, 32, dtype=dtype), *masks)


# ---------------------------------------------------------------- memory is shared as on any device


def test_views_share_memory(card: Card) -> None:
    a = torch.zeros(4, 4, device="npu")
    held = card.allocated()
    a[1].add_(1)
    a.t()[0] = 5
    b = torch.empty(0, device="npu").set_(a.untyped_storage(), 4, (4,), (1,))
    assert b.tolist() == [5, 1, 1, 1]
    assert b.data_ptr() == a.data_ptr() + 16
    assert card.allocated() == held, "a view takes no memory"


def test_sizes_may_change(card: Card) -> None:
    a = torch.ones(4, device="npu")
    assert torch.add(a, 1, out=torch.empty(0, device="npu")).tolist() == [2.0] * 4
    a.resize_(MB)
    assert (a[:4].tolist(), card.allocated()) == ([1.0] * 4, 4 * MB)
    a.untyped_storage().resize_(0)
    assert card.allocated() == 0
    assert a.set_().shape == (0,)  # type: ignore[call-overload]


def test_copies(card: Card) -> None:
    a = drawn(4, 4).to("npu")
    assert copy.deepcopy(a).device == a.device
    assert torch.equal(pickle.loads(pickle.dumps(a.cpu())), a.cpu())
    assert torch.equal(torch.empty(4, 4).copy_(a), a.cpu())
    assert a.to("cpu", torch.bfloat16, non_blocking=True).dtype == torch.bfloat16
    assert drawn(4, 4).pin_memory().to("npu", non_blocking=True).tolist() == a.tolist()


def test_data_may_change_its_device() -> None:
    weight = nn.Parameter(torch.ones(4))
    for device in ("npu:0", "npu:1", "cpu"):
        weight.data = weight.data.to(device)
        assert weight.device == torch.device(device)
        assert (weight + 1).sum().item() == 8


# ---------------------------------------------------------------- devices are kept apart

MIXED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "c + h": lambda c, h: c + h,
    "h + c": lambda c, h: h + c,
    "in place": lambda c, h: c.add_(h),
    "matmul": lambda c, h: c @ h,
    "linear": lambda c, h: F.linear(c, h),
    "bias": lambda c, h: F.linear(c, c, h[0]),
    "cat": lambda c, h: torch.cat([c, h]),
    "stack": lambda c, h: torch.stack([c, h]),
    "where": lambda c, h: torch.where(h > 0, c, c),
    "lerp": lambda c, h: torch.lerp(c, c, h),
    "embedding": lambda c, h: F.embedding(h.long(), c),
    "card index": lambda c, h: h[c.long()],
    "two card indices": lambda c, h: h[c[0].long(), c[1].long()],
    "gather": lambda c, h: c.gather(1, h.long()),
    "index_put": lambda c, h: c.index_put((c > 0,), h),
    "masked_fill": lambda c, h: h.masked_fill(c > 0, 0),
    "layer norm": lambda c, h: F.layer_norm(c, (4,), h[0]),
    "attention": lambda c, h: F.scaled_dot_product_attention(c[None, None], h[None, None], c[None, None]),
    "conv2d": lambda c, h: F.conv2d(c[None, None], h[None, None]),
    "conv3d": lambda c, h: F.conv3d(c[None, None, None], h[None, None, None]),
    "out": lambda c, h: torch.add(c, c, out=h),
    "numpy": lambda c, h: c.numpy(),
    "generator": lambda c, h: torch.randn(2, device=c.device, generator=torch.Generator()),
    "normal_": lambda c, h: c.normal_(generator=torch.Generator()),
    "set_": lambda c, h: c.set_(h.untyped_storage()),
    "foreach": lambda c, h: torch._foreach_add([c], [h]),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|type|cpu"):
        MIXED[name](torch.zeros(4, 4, device="npu"), torch.zeros(4, 4))


ALLOWED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "scalar tensor": lambda c, h: c + h[0, 0],
    "copy to the card": lambda c, h: c.copy_(h),
    "copy from the card": lambda c, h: h.copy_(c),
    "index": lambda c, h: c[h.long()],
    "mask": lambda c, h: c[h > 0],
    "index_put": lambda c, h: c.index_put_((h.long(),), h[0, 0]),
    "assign": lambda c, h: c.__setitem__(slice(1), h[:1]),
    "new_tensor": lambda c, h: c.new_tensor([1]),
    "a CPU result": lambda c, h: torch.zeros_like(c, device="cpu"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_is_allowed(name: str) -> None:
    ALLOWED[name](torch.zeros(4, 4, device="npu"), torch.zeros(4, 4))


# ---------------------------------------------------------------- memory runs out

TOO_LARGE: dict[str, Make] = {
    "a sum": lambda a: a + a,
    "a wider type": lambda a: a.to(torch.float32),
    "a new tensor": lambda a: torch.zeros(3 * MB, device="npu"),
    "two results": lambda a: a.sort()[0],
    "a copy": lambda a: a.clone(),
    "more room": lambda a: a.new_ones(1).resize_(3 * MB),
    "from the CPU": lambda a: torch.zeros(3 * MB).to("npu"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_memory_runs_out_and_comes_back(card: Card, name: str) -> None:
    """To the byte, with the words of CUDA's error and of its kind."""
    card.set_cap(10 * MB)
    a = torch.empty(8 * MB, dtype=torch.int8, device="npu")
    with pytest.raises(torch.OutOfMemoryError, match=r"out of memory\. Tried to allocate"):
        TOO_LARGE[name](a)
    assert card.allocated() == 8 * MB
    assert torch.npu.mem_get_info() == (2 * MB, 10 * MB)
    card.set_cap(ROOM)
    TOO_LARGE[name](a)
    assert card.allocated() == 8 * MB


def test_the_peak_is_exact(card: Card) -> None:
    card.reset_peak()
    a = torch.empty(MB, dtype=torch.int8, device="npu")
    b = (a + a) + a  # the inner sum goes when the outer one is there
    assert (card.peak(), card.allocated()) == (3 * MB, 2 * MB)
    card.reset_peak()
    assert card.peak() == 2 * MB
    assert torch.npu.memory_stats()["active_bytes.all.current"] == 2 * MB
    del a, b
    assert torch.empty(1, device="npu").untyped_storage().nbytes() == 4
    assert card.peak() == 2 * MB


def test_blocks_are_rounded_as_cuda_rounds(card: Card) -> None:
    a, b = torch.zeros(1, device="npu"), torch.zeros(129, device="npu")
    assert card.allocated() == 512 + 1024
    del a, b


def test_an_allocation_fails_when_a_test_says_so(card: Card) -> None:
    card.fail_after(1)
    torch.zeros(1, device="npu")
    before = card.allocations()
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1, device="npu")
    torch.zeros(1, device="npu")
    assert card.allocations() == before + 1


# ---------------------------------------------------------------- two cards


def test_two_cards(card: Card) -> None:
    a = torch.ones(MB, device="npu:1")
    assert (card.allocated(), Card(1).allocated()) == (0, 4 * MB)
    assert (a + a).device == a.device
    assert torch.equal(a.to("npu:0").cpu(), a.cpu())
    with pytest.raises(RuntimeError, match="npu:0 and npu:1"):
        torch.ones(MB, device="npu:0") + a
    with torch.npu.device(1):
        assert torch.zeros(1, device="npu").device == a.device
    assert torch.zeros(1, device="npu").device == torch.device("npu:0")
    Card(1).set_cap(4 * MB)
    with pytest.raises(torch.OutOfMemoryError, match="GPU 1 has a total capacity of 4 MiB"):
        a.clone()
    assert a.to("npu:0").device == torch.device("npu:0")


def test_a_card_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="There is no npu:5; there are 2 cards"):
        torch.zeros(1, device="npu:5")


# ---------------------------------------------------------------- the rest of a device


def test_random_numbers_are_the_cards_own() -> None:
    torch.manual_seed(1)
    a, cpu = torch.randn(8, device="npu"), torch.randn(8)
    torch.manual_seed(1)
    assert torch.equal(torch.randn(8, device="npu"), a)
    assert torch.equal(torch.randn(8), cpu)
    assert not torch.equal(a.cpu(), cpu)
    one, two = (torch.Generator("npu").manual_seed(3) for _ in range(2))
    assert torch.equal(torch.randn(8, device="npu", generator=one), torch.empty(8, device="npu").normal_(generator=two))
    assert one.initial_seed() == 3
    state = torch.npu.get_rng_state()
    first = torch.empty_like(a).bernoulli_(0.5)
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.empty_like(a).bernoulli_(0.5), first)


def test_autocast_and_gradients() -> None:
    layer = nn.Linear(4, 4, device="npu")
    with torch.autocast("npu", torch.bfloat16), torch.no_grad():
        result = layer(torch.ones(2, 4, device="npu"))
    assert result.dtype == torch.bfloat16
    x = torch.ones(2, 4, device="npu", requires_grad=True)
    (x.exp() * 2).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, x.exp() * 2)


def test_nobody_else_takes_it_for_an_npu() -> None:
    """diffusers and transformers have kernels for a real one."""
    from diffusers.utils import is_torch_npu_available as diffusers_sees
    from transformers.utils import is_torch_npu_available as transformers_sees

    assert not diffusers_sees()
    assert not transformers_sees()
