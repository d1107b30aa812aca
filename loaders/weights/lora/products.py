"""The mathematics of low-rank forms: what the tensors of a file add to a weight, before alpha / rank.

LoRA: up @ down (Hu et al. 2021, arXiv 2106.09685), with a core between for convolutions. LoHa: (a1 @ b1) * (a2 @ b2)
(Hyeon-Woo et al. 2021, arXiv 2108.06098). LoKr: kron(w1, w2), each whole or of two factors (Edalati et al. 2022, arXiv
2212.10650). A core `t` is a Tucker form: t x_1 a x_2 b. The tests compare all of them with `lycoris-lora` and `peft`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
_TUCKER = "i j ..., i p, j r -> p r ..."  # core, of the output, of the input


def _low_rank(tensors: Tensors) -> Tensor:
    down, up = tensors["down"], tensors["up"].flatten(1)
    if "mid" in tensors:
        return torch.einsum(_TUCKER, tensors["mid"], up.T, down.flatten(1))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _factors(tensors: Tensors, name: str, core: str) -> Tensor:
    """The matrix `name`, or what its factors `name`_a and `name`_b make."""
    if name in tensors:
        return tensors[name]
    a, b = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if core in tensors:
        return torch.einsum(_TUCKER, tensors[core], a, b)
    return (a.flatten(1) @ b.flatten(1)).reshape(len(a), *b.shape[1:])


def _hadamard(tensors: Tensors) -> Tensor:
    return _factors(tensors, "hada_w1", "hada_t1") * _factors(tensors, "hada_w2", "hada_t2")


def kronecker_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """w1 [a, b] and w2 [c, d, ...] of a LoKr."""
    return _factors(tensors, "lokr_w1", "lokr_t1"), _factors(tensors, "lokr_w2", "lokr_t2")


def _kronecker(tensors: Tensors) -> Tensor:
    first, second = kronecker_factors(tensors)
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second.contiguous())


# the beginning of the roles of a form -> (what its tensors make, the one to multiply with its scale, in this order)
FORMS: Mapping[str, tuple[Callable[[Tensors], Tensor], tuple[str, ...]]] = {
    "hada_": (_hadamard, ("hada_w1_a",)),
    "lokr_": (_kronecker, ("lokr_w1", "lokr_w1_a")),
    "": (_low_rank, ("up",)),
}
_RANKS = {"down": 0, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0}  # role -> the axis that is the rank


def form_of(roles: Mapping[str, object]) -> str:
    """The form that these roles are of."""
    return next(name for name in FORMS if not name or any(role.startswith(name) for role in roles))


def product(tensors: Tensors) -> Tensor:
    """What the tensors of a form make, of the shape [out, in, ...]; raises KeyError or RuntimeError where they lack one
    or do not go together."""
    return FORMS[form_of(tensors)][0](tensors)


def product_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of what tensors of these shapes make; None where they lack one or do not go together."""
    try:
        made = product({role: torch.empty(shape, device="meta") for role, shape in shapes.items()})
    except (KeyError, RuntimeError, IndexError, ValueError):
        return None
    return tuple(made.shape) if all(map(math.prod, shapes.values())) else None


def rank_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The rank; None for a LoKr of two whole matrices, which have none and no alpha either."""
    return next((shapes[role][axis] for role, axis in _RANKS.items() if role in shapes), None)
