"""What a network raises is told as a damaged file only where its own code fails on what does not fit together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention import FeedForward
from reelwire.loaders.common.misfits import is_misfit
from reelwire.loaders.devices import out_of_memory
from reelwire.loaders.messages import CheckpointError, InputError
from torch import Tensor, nn


def raised(network: nn.Module, inputs: Tensor) -> Exception:
    with pytest.raises(Exception) as error:  # noqa: PT011
        network(inputs)
    return error.value


class Failing(nn.Module):
    """Raises what a card, a driver or a kernel does while it computes."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, _: Tensor) -> Tensor:
        raise self.error


def within(error: Exception) -> tuple[nn.Module, Tensor]:
    """A network of diffusers, of which a layer raises this."""
    network = FeedForward(4)
    network.net[0] = Failing(error)
    return network, torch.zeros(1, 4)


CARD: tuple[Exception, ...] = (
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("HIP error: invalid device function"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("MPS backend: command buffer exited with error status"),
    torch.AcceleratorError("CUDA error: unspecified launch failure", 719),
    NotImplementedError("Could not run 'aten::_scaled_mm' with arguments from the 'CPU' backend."),
    OSError("the file went away"),
)
OURS: tuple[Exception, ...] = (CheckpointError("damaged"), InputError("steps", 0, "too few"))


@pytest.mark.parametrize("error", CARD, ids=lambda error: str(error)[:50])
def test_a_fault_of_a_card_is_none_of_the_file(error: Exception) -> None:
    network, inputs = within(error)
    assert not is_misfit(raised(network, inputs), network)


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_what_we_refuse_is_refused_as_it_is(error: Exception) -> None:
    network, inputs = within(error)
    assert not is_misfit(raised(network, inputs), network)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), RuntimeError("not enough memory")],
    ids=lambda error: type(error).__name__,
)
def test_memory_is_told_first(error: Exception) -> None:
    """By who asks: its text may speak of sizes."""
    network, inputs = within(error)
    assert out_of_memory(raised(network, inputs)) or not is_misfit(error, network)


MISFITS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "a matrix of another width": lambda: (FeedForward(4), torch.zeros(1, 5)),
    "an index beyond a table": lambda: within(IndexError("index out of range in self")),
    "an attribute that is not there": lambda: within(AttributeError("'NoneType' object has no attribute 'shape'")),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_the_files(case: str) -> None:
    network, inputs = MISFITS[case]()
    assert is_misfit(raised(network, inputs), network)
