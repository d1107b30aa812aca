"""LoRA files as the library `lycoris-lora` writes them, and the weights that it merges them to."""

from __future__ import annotations

from typing import Any

import torch
from reelwire.training.tiny_models import seeded
from torch import Tensor, nn

RANK, ALPHA = 4, 2.0
# form -> (module of the library, its arguments)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "locon": ("LoConModule", {}),
    "locon tucker": ("LoConModule", {"use_tucker": True}),
    "locon dora": ("LoConModule", {"weight_decompose": True}),
    "locon dora by inputs": ("LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "loha": ("LohaModule", {}),
    "loha tucker": ("LohaModule", {"use_tucker": True}),
    "loha dora": ("LohaModule", {"weight_decompose": True}),
    "lokr": ("LokrModule", {"factor": 4}),
    "lokr both": ("LokrModule", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr whole": ("LokrModule", {"factor": 4, "full_matrix": True}),
    "lokr tucker": ("LokrModule", {"factor": 4, "use_tucker": True, "lora_dim": 1}),
    "lokr dora by inputs": ("LokrModule", {"factor": 4, "weight_decompose": True, "wd_on_out": False}),
    "full": ("FullModule", {}),
}


def library_layer(form: str, layer: nn.Module) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """(the tensors that the library saves of a layer, by their endings, the weight and bias that it computes with).

    As its modules compute in training: the `get_merged_weight` of 4.1.3 takes alpha / rank twice for LoHa and LoKr, and
    that of a full difference is not what it saves before it was applied.
    """
    import lycoris

    name, arguments = FORMS[form]
    options = {"lora_dim": RANK, "alpha": ALPHA, **arguments}
    module = getattr(lycoris, name)("layer", layer, 1.0, options.pop("lora_dim"), options.pop("alpha"), **options)
    with seeded(11), torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        if form == "full":
            saved = {"diff": module.weight.data, "diff_b": module.bias.data}
            return saved, layer.weight + module.weight, layer.bias + module.bias
        saved = {key: value.detach().clone() for key, value in module.custom_state_dict().items()}
        delta = module.make_weight() * module.scale if name == "LoConModule" else module.get_weight(module.shape)
        weight = layer.weight + delta.reshape(layer.weight.shape)
        return saved, module.apply_weight_decompose(weight, 1.0) if module.wd else weight, None
