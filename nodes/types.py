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


def keyframes_input(label: str, tooltip: str) -> Any:
    """The socket for keyframes. label: in locales/en; in the schema it would hide all translations."""
    field = KeyframesType.Input("keyframes", optional=True, tooltip=tooltip)
    field.socket_label = label
    return field


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, **more: Any) -> Any:
    """The widget of a share, from 0 to 1. more: further arguments of `io.Float.Input`."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **more)


def node_schema(
    node: str,
    title: str,
    room: str,
    description: str,
    aliases: list[str],
    inputs: list[Any],
    outputs: list[Any],
    **more: Any,
) -> io.Schema:
    """The schema of one of several nodes that are alike. room: the last part of its category."""
    return io.Schema(
        node_id=node,
        display_name=title,
        category=f"Reelwire/{room}",
        description=description,
        search_aliases=aliases,
        inputs=inputs,
        outputs=outputs,
        hidden=[io.Hidden.unique_id],
        **more,
    )
