"""The pack's own wire types, and the sockets and widgets that many nodes share."""

from typing import Any

from comfy_api.latest import io

from .words import models_with

VideoModelType = io.Custom("VIDEO_MODEL")
ConditioningType = io.Custom("VIDEO_CONDITIONING")
KeyframesType = io.Custom("KEYFRAMES")
ControlType = io.Custom("VIDEO_CONTROL")

ABSENT = "absent"  # an input without a link, where `validate_inputs` gets None for one with a link: not known yet

InputValue = Any  # what the host hands a node for an input, of the type that the node's schema says

MODEL = "From a loader, or from a node that changes the model, as LoRA or Cache"


def model_input(tooltip: str = MODEL, optional: bool = False) -> io.Input:
    """The socket for a model."""
    return VideoModelType.Input("model", tooltip=tooltip, optional=optional)


def model_output(tooltip: str) -> io.Output:
    """The socket of a model that goes on."""
    return VideoModelType.Output(display_name="model", tooltip=tooltip)


def keyframes_input(label: str, tooltip: str) -> io.Input:
    """The socket for keyframes. label: in locales/en; in the schema it would hide all translations."""
    field = KeyframesType.Input("keyframes", optional=True, tooltip=tooltip)
    field.socket_label = label
    return field


def sound_input() -> io.Input:
    """The socket for the sound of a video file."""
    tooltip = (
        "The sound of the file: an AUDIO, or a VIDEO whose sound is taken, copied as it is where it is AAC. It is cut "
        "where the picture ends, or followed by silence"
    )
    return io.MultiType.Input("audio", [io.Audio, io.Video], optional=True, tooltip=tooltip)


def source_sound_input() -> io.Input:
    """Whether a video file has the sound of the video that it was made from."""
    tooltip = (
        "Whether the sound of the video that this one is made from goes along, where nothing is connected to audio; "
        "fps 0 is then that video's own rate"
    )
    return io.Boolean.Input("source_sound", default=True, optional=True, advanced=True, tooltip=tooltip)


def whole_input(name: str, default: int, span: tuple[int, int], tooltip: str, **more: object) -> io.Input:
    """The widget of a whole number. span: the least and the most; more: further arguments of `io.Int.Input`."""
    least, most = span
    return io.Int.Input(name, default=default, min=least, max=most, tooltip=tooltip, **more)


def number_input(name: str, default: float, span: tuple[float, float, float], tooltip: str, **more: object) -> io.Input:
    """The widget of a number. span: the least, the most, and the step; more: further arguments of `io.Float.Input`."""
    least, most, step = span
    return io.Float.Input(name, default=default, min=least, max=most, step=step, tooltip=tooltip, **more)


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, **more: object) -> io.Input:
    """The widget of a share, from 0 to 1."""
    return number_input(name, default, (0.0, 1.0, step), tooltip, **more)


def decoding_inputs() -> list[io.Input]:
    """What latents are decoded with, on models whose VAE makes the last denoising step."""
    models, span = models_with("decode_timestep"), (-1.0, 1.0, 0.005)
    more: dict[str, object] = {"optional": True, "advanced": True}
    return [
        number_input(
            "decode_timestep",
            -1.0,
            span,
            f"{models}: the noise level that its VAE is told; below 0: the preset's or the published one, .05. Less "
            "is sharper",
            **more,
        ),
        number_input(
            "decode_noise",
            -1.0,
            span,
            f"{models}: how much noise the latents get before they are decoded; below 0: the preset's or the "
            "published one, .025",
            **more,
        ),
        number_input(
            "tone_map",
            -1.0,
            span,
            f"{models}: how much extreme values of the latents are softened; below 0: as the preset says, else not at "
            "all",
            **more,
        ),
    ]


def node_schema(
    node: str,
    title: str,
    room: str,
    description: str,
    aliases: list[str],
    inputs: list[io.Input],
    outputs: list[io.Output],
    **more: object,
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
