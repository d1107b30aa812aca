"""The machine that the host runs on: what it computes with, what is free on it, and where that is too little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management as mm
from comfy.cli_args import args

from ...loaders.messages import Message, message
from ...loaders.video_model import VideoModel
from .memory import Patcher, free_ram, patchers_of

if TYPE_CHECKING:
    from ...samplers.estimate.count import Machine
    from ...samplers.plan import SamplingPlan


AUTO = "auto"
PRECISIONS = (AUTO, "bfloat16", "float16", "float32")


def precision(name: str) -> str:
    """The torch dtype's name for a precision choice; "auto" is bfloat16 where the card computes in it, else float32."""
    if name != AUTO:
        return name
    return "bfloat16" if mm.should_use_bf16(mm.get_torch_device()) else "float32"


def attention() -> str:
    """The kernel that the host computes attention with (sage, flash, xformers, split or quad); empty for PyTorch's own.

    In the order in which the host looks for them.
    """
    switches = {
        "sage": mm.sage_attention_enabled(),
        "flash": mm.flash_attention_enabled(),
        "xformers": mm.xformers_enabled(),
        "split": args.use_split_cross_attention,
        "quad": args.use_quad_cross_attention,
    }
    return next((name for name, on in switches.items() if on), "")


def machine(model: VideoModel) -> Machine:
    """Where a run of this model would go: what is free there, with what this pack and the host can send away."""
    from ...samplers.estimate.count import Machine

    device = model.memory.device("transformer")
    ram = free_ram() + sum(map(_in_ram, patchers_of(model)))
    limit = getattr(model.memory, "most_on_card", 0)
    if device.type == "cpu":
        return Machine(message("this_processor"), ram, ram, True, limit)
    name, room = str(mm.get_torch_device_name(device)), model.memory.room("transformer")
    return Machine(name, room, ram, False, limit, device.type)


def _in_ram(patcher: Patcher) -> int:
    """Bytes of a part's weights that lie in RAM."""
    on_card = 0 if patcher.load_device.type == "cpu" else patcher.loaded_size()
    return int(patcher.model_size() - on_card)


def card_in_use(model: VideoModel) -> tuple[Message, ...]:
    """How much of the card that a model runs on is in use, by anybody; nothing where it runs on the processor."""
    device = model.memory.device("transformer")
    if device.type == "cpu":
        return ()
    total = mm.get_total_memory(device)
    used = total - mm.get_free_memory(device)
    return (message("card_in_use", used=f"{used / 2**30:.1f}", total=f"{total / 2**30:.1f}"),)


def shortage(model: VideoModel, plan: SamplingPlan) -> tuple[str, ...]:
    """What a plan has no room for here, in words; mostly nothing. It is a warning, no error."""
    from ...samplers.estimate.count import shortage

    return shortage(model, plan, machine(model))
