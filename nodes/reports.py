"""What a run will need, told before it is queued."""

from __future__ import annotations

import json
import logging

from comfy_api.latest import io

from ..loaders.devices import explained
from ..loaders.messages import message
from ..loaders.request import Keyframe, Request
from ..loaders.video_model import VideoModel
from . import host
from .sampling.inputs import DEFAULT, preset_input, size_checks, size_inputs
from .sampling.request import request_of
from .types import KeyframesType, model_input, number_input
from .words import models_with


class EstimateNode(io.ComfyNode):
    """Estimate (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireEstimate",
            display_name="Estimate (Video)",
            category="Reelwire/reports",
            is_output_node=True,
            description="Says before you queue a run whether it fits, how long it takes and what it costs: memory by "
            "phase, operations, time by card. Reads the files' headers alone; no weights are loaded.",
            search_aliases=[
                "vram",
                "memory",
                "will it fit",
                "cost",
                "time",
                "flops",
                "out of memory",
                "显存",
                "内存",
                "估算",
                "显存不足",
            ],
            inputs=[
                model_input("With its cache, memory, speed, guidance and LoRA nodes: they are counted"),
                *size_inputs(),
                preset_input(),
                number_input(
                    "price",
                    0.0,
                    (0.0, 100_000.0, 0.01),
                    "Of one hour of the card, in any currency; 0 leaves the cost out",
                ),
                io.Boolean.Input(
                    "calibrate",
                    default=False,
                    tooltip="Measures for about a second how fast this machine multiplies, in this model's shapes, "
                    "and tells the time here by that",
                ),
                KeyframesType.Input(
                    "keyframes",
                    optional=True,
                    tooltip="As the sampler gets them; on "
                    f"{models_with('keyframe_tokens')} any keyframe makes the working memory larger",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Everything as a page with tables (Markdown)"),
                io.String.Output(display_name="json", tooltip="The same as numbers: bytes, operations, seconds"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, frames: int | None = None
    ) -> bool | str:
        from ..samplers.early import check_length

        return host.valid(*size_checks(width, height), (check_length, frames))

    @classmethod
    def fingerprint_inputs(cls, calibrate: bool | None = None, **_: object) -> float:
        """Anew each time: what is free changes, and so does what is measured."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        model: VideoModel,
        width: int,
        height: int,
        frames: int,
        steps: int,
        guidance: float,
        preset: str = DEFAULT,
        price: float = 0.0,
        calibrate: bool = False,
        keyframes: tuple[Keyframe, ...] = (),
    ) -> io.NodeOutput:
        from ..samplers.estimate.count import estimate, outlined
        from ..samplers.estimate.report import facts, markdown, short

        asked = request_of(model, width, height, frames, steps, guidance, preset=preset, keyframes=keyframes)
        rates = _measured(model, outlined(model, asked).request) if calibrate else None
        result = estimate(model, asked, host.machine(model), price, rates)
        report = host.Report(cls)
        report.tell(*short(result), level=logging.DEBUG)
        return io.NodeOutput(markdown(result), json.dumps(facts(result), indent=1), ui=report.ui())


def _measured(model: VideoModel, request: Request) -> tuple[float, float]:
    """Operations a second of (products, attention) here, after room was made for them."""
    from ..samplers.estimate.rates import measure, needed

    device = model.memory.device("transformer")
    host.make_room(device, needed(model, request, device))
    with explained(message("measuring_activity"), message("less_to_measure")):
        return measure(model, request, device)


NODES = [EstimateNode]
