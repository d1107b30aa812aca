"""The pack's own wire types, and the sockets that many nodes share."""

from typing import Any

from comfy_api.latest import io

VideoModelType = io.Custom("VIDEO_MODEL")
ConditioningType = io.Custom("VIDEO_CONDITIONING")
KeyframesType = io.Custom("KEYFRAMES")
ControlType = io.Custom("VIDEO_CONTROL")

ABSENT = "absent"  # an input without a link, where `validate_inputs` gets None for one with a link: not known yet

MODEL = "From a loader, or from a node that changes the model, as LoRA or Cache"


def model_input(tooltip: str = MODEL, optional: bool = False) -> Any:
    """The socket for a model."""
    return VideoModelType.Input("model", tooltip=tooltip, optional=optional)


def model_output(tooltip: str) -> Any:
    """The socket of a model that goes on."""
    return VideoModelType.Output(display_name="model", tooltip=tooltip)
