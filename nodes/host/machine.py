"""The machine that the host runs on, as an estimate sees it; and the warning where it is too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management as mm

from ...loaders.messages import message
from ...loaders.video_model import VideoModel
from .memory import free_ram

if TYPE_CHECKING:
    from ...samplers.estimate.count import Machine
    from ...samplers.plan import SamplingPlan


def machine(model: VideoModel) -> Machine:
    """Where a run of this model would go: what is free there, with what this pack and the host can send away."""
    from ...samplers.estimate.count import Machine

    device, waiting = model.memory.device("transformer"), sum(map(_in_ram, model.get_models()))
    ram, limit = free_ram() + waiting, getattr(model.memory, "most_on_card", 0)
    if device.type == "cpu":
        return Machine(message("this_processor"), ram, ram, True, limit)
    return Machine(str(mm.get_torch_device_name(device)), model.memory.room("transformer"), ram, False, limit)


def _in_ram(patcher: Any) -> int:
    """Bytes of a part's weights that lie in RAM."""
    on_card = 0 if patcher.load_device.type == "cpu" else patcher.loaded_size()
    return int(patcher.model_size() - on_card)


def shortage(model: VideoModel, plan: SamplingPlan) -> tuple[str, ...]:
    """What a plan has no room for here, in words; mostly nothing. It is a warning, no error."""
    from ...samplers.estimate.count import shortage

    return shortage(model, plan, machine(model))
