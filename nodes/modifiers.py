"""VIDEO_MODEL -> VIDEO_MODEL: what changes how a model samples. The model that came in stays as it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..loaders.messages import InputError, Message, message
from ..loaders.request import Guidance, SpatioTemporal
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.guidance import METHODS, STG_MODES, check_method, check_span, check_switch
from . import host
from .effect import Conditions, Wanted, counted, idle
from .types import InputValue, model_input, model_output, number_input, share_input, whole_input
from .words import models_with

_SKIP_LAYER: dict[str, Wanted] = {"method": ("skip-layer",)}
_TWO_EXPERTS: dict[str, Wanted] = {"family": with_feature("two_experts")}
_APG: dict[str, Wanted] = {"method": ("apg",)}
_STG: dict[str, Wanted] = {"method": ("stg",)}
LONGEST_LIST = 2000  # characters of a list of numbers
STG_INPUTS = ("scales", "stg_scales", "rescales", "timesteps", "stg_mode", "cfg_star")
GUIDANCE_COUNTS: Conditions = {
    **dict.fromkeys(("low_noise_guidance", "boundary", "switch_step"), _TWO_EXPERTS),
    "true_guidance": {"family": with_feature("embedded_guidance")},
    "dynamic": {"family": with_feature("dynamic_guidance")},
    "layers": {"method": ("skip-layer", "stg")},
    **dict.fromkeys(("layer_scale", "layer_start", "layer_end"), _SKIP_LAYER),
    **dict.fromkeys(("eta", "momentum", "threshold"), _APG),
    **dict.fromkeys(STG_INPUTS, _STG),
}
# inputs of the node Guidance that have another name as fields of Guidance
GUIDANCE_FIELDS = {"low_noise_guidance": "low_noise", "true_guidance": "true_scale"}


class SetGuidance(io.ComfyNode):
    """Guidance (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireGuidance",
            display_name="Guidance (Video)",
            category="Reelwire/model",
            description="How strongly and in what way the prompt pulls. Without this node the sampler does plain "
            "classifier-free guidance with its own scale.",
            search_aliases=["cfg", "apg", "cfg zero star", "tcfg", "slg", "skip layer", "perpendicular", "引导"],
            inputs=counted(
                [model_input(), *_guidance_inputs(), *_method_inputs(), *_expert_inputs(), *_stg_inputs()],
                GUIDANCE_COUNTS,
            ),
            outputs=[model_output("The same model with this guidance; the one that came in stays as it is")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        start: float | None = None,
        end: float | None = None,
        layers: str | None = None,
        boundary: float | None = 0.0,
        switch_step: int | None = 0,
        scales: str | None = None,
        stg_scales: str | None = None,
        rescales: str | None = None,
        timesteps: str | None = None,
    ) -> bool | str:
        lists = {"scales": scales, "stg_scales": stg_scales, "rescales": rescales, "timesteps": timesteps}
        numbers = ((_numbers, name, text) for name, text in lists.items())
        experts = check_switch, boundary, switch_step
        return host.valid((check_span, start, end), (_block_lists, layers), experts, *numbers)

    @classmethod
    def execute(cls, model: VideoModel, method: str, layers: str = "", **inputs: InputValue) -> io.NodeOutput:
        values = {GUIDANCE_FIELDS.get(name, name): value for name, value in inputs.items() if name not in STG_INPUTS}
        if method == "stg":
            values["stg"] = _spatio_temporal(layers, **{name: inputs[name] for name in STG_INPUTS if name in inputs})
        else:
            values["layers"] = _block_numbers(layers)
        guided = replace(model, guidance=Guidance(method, **values))
        check_method(guided)
        return _noted(cls, guided, idle(cls, {**inputs, "method": method, "layers": layers}, model))


def _spatio_temporal(
    layers: str,
    scales: str = "",
    stg_scales: str = "1",
    rescales: str = ".7",
    timesteps: str = "",
    stg_mode: str = STG_MODES[0],
    cfg_star: bool = False,
) -> SpatioTemporal:
    """What the inputs for spatio-temporal guidance say."""
    return SpatioTemporal(
        _numbers("scales", scales),
        _numbers("stg_scales", stg_scales) or (0.0,),
        _numbers("rescales", rescales) or (1.0,),
        _numbers("timesteps", timesteps),
        _block_lists(layers),
        stg_mode,
        cfg_star,
    )


def _guidance_inputs() -> list[io.Input]:
    """When and how strongly guidance is on."""
    scale: dict[str, object] = {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "advanced": True}
    return [
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default="cfg",
            tooltip="cfg: plain. apg: high scales without oversaturation. cfg-zero*: for flow models. tcfg: drops "
            "what the two branches disagree on. skip-layer: steadier shapes. stg: skip-layer whose numbers follow the "
            f"noise, for {models_with('spatio_temporal')}",
        ),
        share_input("start", 0.0, "Share of the steps before which guidance is off"),
        share_input(
            "end",
            1.0,
            "Share of the steps from which guidance is off: faster, as each step then takes one forward instead of two",
        ),
        io.Float.Input(
            "low_noise_guidance",
            tooltip=f"{models_with('two_experts')}: scale of the low-noise expert; 0: the preset's, or the "
            "sampler's where that is set",
            **scale,
        ),
        io.Float.Input(
            "true_guidance",
            tooltip=f"{models_with('embedded_guidance')}: scale of classifier-free guidance beside the embedded one; "
            "0 or 1: off. Takes two forwards a step",
            **scale,
        ),
        io.Boolean.Input(
            "dynamic",
            default=False,
            advanced=True,
            tooltip=f"{models_with('dynamic_guidance')}: the scale grows along a cosine; made for its sampler dpm",
        ),
    ]


def _method_inputs() -> list[io.Input]:
    """What single methods of guidance read."""
    return [
        io.String.Input(
            "layers",
            default="",
            tooltip="skip-layer, stg: the blocks to leave out, as 7, 8, 9; of stg with a list for each timestep as "
            "11, 25; 22; 28",
        ),
        number_input("layer_scale", 2.8, (0.0, 100.0, 0.1), "skip-layer: how much it counts"),
        share_input("layer_start", 0.01, "skip-layer: from this share of the steps on"),
        share_input("layer_end", 0.2, "skip-layer: up to this share of the steps"),
        number_input(
            "eta",
            1.0,
            (0.0, 10.0, 0.05),
            "apg: how much of the part parallel to the prediction stays; less means less saturation",
        ),
        number_input("momentum", 0.0, (-1.0, 1.0, 0.05), "apg: of the update over the steps; -.5 is usual"),
        number_input("threshold", 15.0, (0.0, 1000.0, 0.5), "apg: largest norm of the update; 0: no limit"),
    ]


def _expert_inputs() -> list[io.Input]:
    """When the second expert takes over."""
    families = models_with("two_experts")
    return [
        share_input(
            "boundary",
            0.0,
            f"{families}: share of the noise above which the high-noise expert works; 0: the model's own, .875 or .9",
            step=0.005,
            optional=True,
            advanced=True,
        ),
        whole_input(
            "switch_step",
            0,
            (0, 1000),
            f"{families}: so many steps are the high-noise expert's, the rest the other one's, whatever the noise; "
            "0: by the boundary",
            optional=True,
            advanced=True,
        ),
    ]


def _stg_inputs() -> list[io.Input]:
    """What spatio-temporal guidance reads: numbers that follow the noise."""
    more: dict[str, object] = {"optional": True, "advanced": True}
    text = lambda name, default, tooltip: io.String.Input(name, default=default, tooltip=tooltip, **more)
    return [
        text("scales", "", "stg: guidance scales, one or one for each timestep, as 1, 6, 8; empty: the sampler's"),
        text("stg_scales", "1", "stg: how much each prediction is pushed away from the one without the layers; 0: off"),
        text("rescales", "0.7", "stg: how far contrast is brought back, 0 to 1"),
        text("timesteps", "", "stg: the noise levels, from 1 to 0, down to which the entries of the lists count"),
        io.Combo.Input(
            "stg_mode",
            options=list(STG_MODES),
            default=STG_MODES[0],
            tooltip="stg: what the layers go without: attention_values: looking around, attention_skip: attention, "
            "transformer_block: all of it",
            **more,
        ),
        io.Boolean.Input(
            "cfg_star",
            default=False,
            tooltip="stg: scales the prediction without the prompt to the one with it first",
            **more,
        ),
    ]


def _noted(cls: type[io.ComfyNode], model: VideoModel, lines: tuple[Message, ...]) -> io.NodeOutput:
    """The model, and on the node what does nothing."""
    report = host.Report(cls)
    report.tell(*lines)
    return io.NodeOutput(model, ui=report.ui())


def _words(name: str, text: str) -> list[str]:
    """The words of a list that people write, parted by commas or spaces; raises InputError for an endless one."""
    if len(text) > LONGEST_LIST:
        rule = message("list_long", most=LONGEST_LIST)
        raise InputError(name, repr(f"{text[:40]}..."), rule, message("write_fewer"))
    return text.replace(",", " ").split()


def _block_numbers(layers: str) -> tuple[int, ...]:
    """The numbers in "7, 8, 9"; raises InputError for anything else."""
    words = _words("layers", layers)
    if not all(word.isdecimal() for word in words):
        raise InputError("layers", repr(layers), message("layers_rule"), message("write_blocks"))
    return tuple(map(int, words))


def _block_lists(layers: str) -> tuple[tuple[int, ...], ...]:
    """The lists of "11, 25; 22; 28", an empty one between two semicolons; raises InputError for anything else."""
    _words("layers", layers)
    words = [_words("layers", part) for part in layers.split(";")]
    if not all(word.isdecimal() for part in words for word in part):
        raise InputError("layers", repr(layers), message("layers_lists_rule"), message("write_layers_lists"))
    return tuple(tuple(map(int, part)) for part in words) if layers.strip() else ()


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """The numbers in "1, 6, 8"; raises InputError for anything else."""
    try:
        values = tuple(map(float, _words(name, text)))
    except InputError:
        raise
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(name, repr(text), message("numbers_rule"), message("write_numbers"))
    return values


class SetMotion(io.ComfyNode):
    """Motion (SVD Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireMotion",
            display_name=f"Motion ({models_with('motion')} Video)",
            category="Reelwire/model",
            description=f"How much {models_with('motion')} moves its picture. Other models pay no attention to "
            "it, so that graphs can be shared.",
            search_aliases=["motion bucket", "augmentation", f"{models_with('motion').lower()} conditioning", "运动"],
            inputs=[
                model_input(),
                whole_input(
                    "motion_bucket", 127, (0, 1023), "More means more motion; 127 is usual, up to 255 was trained"
                ),
                whole_input("fps", 7, (1, 120), "What the model is told; 5 to 30 was trained"),
                number_input(
                    "noise_augmentation",
                    0.02,
                    (0.0, 10.0, 0.01),
                    "Noise on the picture: more gives the model more freedom",
                ),
            ],
            outputs=[model_output("The same model with this motion; the one that came in stays as it is")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: VideoModel, motion_bucket: int, fps: int, noise_augmentation: float) -> io.NodeOutput:
        motion = {"motion_bucket": motion_bucket, "fps": fps, "noise_augmentation": noise_augmentation}
        unmoved = message("idle_motion", title=model.title, models=models_with("motion"))
        lines = () if "motion" in model.checkpoint.spec.features else (unmoved,)
        return _noted(cls, replace(model, options=motion), lines)


WEIGHTS = {"as in the file": "", "fp8": "fp8", "int8": "int8"}


class SetMemory(io.ComfyNode):
    """Memory (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireMemory",
            display_name="Memory (Video)",
            category="Reelwire/model",
            description="How the network's weights are held. Without this node they are held as their file has them, "
            "and ComfyUI decides what lies on the card. The model is read anew with these settings.",
            search_aliases=[
                "vram",
                "low vram",
                "offload",
                "block swap",
                "fp8",
                "int8",
                "quantise",
                "显存",
                "内存",
                "低显存",
                "量化",
            ],
            inputs=[
                model_input(),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default="as in the file",
                    tooltip="fp8, int8: the layers of the network's blocks take half the room of bfloat16, with a "
                    "scale for each row; int8 is nearer to the original. Files in fp8 or GGUF stay as they are in any "
                    "case",
                ),
                number_input(
                    "most_on_card",
                    0.0,
                    (0.0, 1024.0, 0.1),
                    "GB of weights that may lie on the card at a time; the rest waits in RAM and is brought in layer "
                    "by layer. 0: ComfyUI decides",
                ),
            ],
            outputs=[model_output("The model with these settings; the one that came in stays as it is")],
        )

    @classmethod
    def execute(cls, model: VideoModel, weights: str, most_on_card: float) -> io.NodeOutput:
        recipe = replace(model.recipe, storage=WEIGHTS[weights])
        loaded = host.load_model(recipe, most_on_card * 2**30)
        facts = replace(loaded.facts, presets=model.facts.presets)
        return io.NodeOutput(replace(loaded, facts=facts, **options_of(model)))


def options_of(model: VideoModel) -> dict[str, Any]:
    """What was set on a model since it was loaded."""
    return {name: getattr(model, name) for name in model.optional_fields() if name != "node"}


class SetSpeed(io.ComfyNode):
    """Speed (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireSpeed",
            display_name="Speed (Video)",
            category="Reelwire/model",
            description="Runs the same network faster: compiled blocks, other kernels for attention, no padding. "
            "Works together with every cache.",
            search_aliases=["torch compile", "sage attention", "flash attention", "xformers", "加速", "编译"],
            inputs=counted(
                [
                    model_input(),
                    io.Boolean.Input(
                        "compile",
                        default=False,
                        tooltip="torch.compile of the repeated blocks: the first run takes minutes, later ones less",
                    ),
                    _attention_input(),
                    io.Boolean.Input(
                        "trim_text",
                        default=False,
                        optional=True,
                        advanced=True,
                        tooltip=f"{models_with('trimmed_text')}: leaves out the empty rows behind a prompt's end, "
                        "and with them the mask that keeps fast kernels away. The same video but for rounding",
                    ),
                ],
                {"trim_text": {"family": with_feature("trimmed_text")}},
            ),
            outputs=[model_output("The same model with these settings")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, attention: str | None = None) -> bool | str:
        """In place of the host's own check, which names the offered ones alone: why one is not among them."""
        from ..samplers.kernels import check_offered

        return host.valid((check_offered, attention))

    @classmethod
    def execute(cls, model: VideoModel, **inputs: InputValue) -> io.NodeOutput:
        from ..samplers.speed import Speed, check_speed

        faster = replace(model, speed=Speed(**inputs))
        check_speed(faster)
        return _noted(cls, faster, idle(cls, inputs, model))


def _attention_input() -> io.Input:
    """The kernels that can be used here, and of the others why not."""
    from ..samplers.kernels import KERNELS, absent

    lacks = absent()
    auto = "auto: as ComfyUI computes it (--use-sage-attention and the like)."
    tooltip = " ".join([auto, *(f"{name}: {words}" for name, words in lacks.items())])
    offered = [name for name in KERNELS if name not in lacks]
    return io.Combo.Input("attention", options=offered, default="auto", tooltip=tooltip)


NODES = [SetGuidance, SetMotion, SetMemory, SetSpeed]
