"""LoRA (Video): one LoRA on a model, with all that can be set of it."""

from __future__ import annotations

from comfy_api.latest import io

from ...loaders.spec import with_feature
from ...loaders.video_model import VideoModel
from .. import host
from ..effect import counted, idle
from ..types import model_input, model_output, share_input
from .shared import (
    STRENGTH,
    Row,
    distilled_input,
    low_noise_input,
    modified,
    one_expert,
    preset_notes,
    with_lora,
    with_presets,
)


class AddLoRA(io.ComfyNode):
    """LoRA (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLoRA",
            display_name="LoRA (Video)",
            category="Reelwire/model",
            description="Puts a LoRA on a model; chain several. The model that came in stays as it is, and the "
            "weights are shared: another strength costs nothing.",
            search_aliases=["lora loader", "lightx2v", "causvid", "distill", "lightning", "加载 LoRA"],
            inputs=counted(
                [model_input(), *_lora_inputs()], {"low_noise_strength": {"family": with_feature("two_experts")}}
            ),
            outputs=[model_output("The same model with the LoRA")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, lora: str | None = None, start: float | None = None, end: float | None = None, blocks: str | None = None
    ) -> bool | str:
        from ...loaders.weights.lora import check_steps, parse_blocks

        chosen = (host.choose, "lora", lora, host.files("loras"))
        return host.valid(chosen, (check_steps, start, end), (parse_blocks, blocks))

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_: object) -> list[float]:
        """Load again when the file was replaced, or what lies beside it and says something of it."""
        files = host.files("loras")
        return modified(files[name]) if (name := host.meant(lora, files)) else []

    @classmethod
    def execute(
        cls,
        model: VideoModel,
        lora: str,
        strength: float,
        low_noise_strength: float = 1.0,
        distilled: str = "none",
        start: float = 0.0,
        end: float = 1.0,
        blocks: str = "",
    ) -> io.NodeOutput:
        file = host.choose("lora", lora, host.files("loras"))
        changed, lines = with_lora(model, Row(file, strength, low_noise_strength, start, end, blocks))
        unused = idle(cls, {"low_noise_strength": low_noise_strength}, model)
        report = host.Report(cls)
        report.tell(*unused, *one_expert(model, "low_noise_strength", low_noise_strength), *lines)
        report.tell(*preset_notes(model, distilled))
        return io.NodeOutput(with_presets(changed, distilled), ui=report.ui())


def _lora_inputs() -> list[io.Input]:
    """Which LoRA, how strongly, and when."""
    return [
        io.Combo.Input(
            "lora",
            options=list(host.files("loras")),
            tooltip="A file in models/loras, in diffusers', ComfyUI's or Kohya's form: LoRA, LoHa, LoKr or DoRA",
        ),
        io.Float.Input("strength", tooltip="1 as trained, 0 off", **STRENGTH),
        low_noise_input("low_noise_strength"),
        distilled_input(),
        share_input("start", 0.0, "Share of the steps before which it is off", advanced=True, optional=True),
        share_input("end", 1.0, "Share of the steps from which it is off", advanced=True, optional=True),
        io.String.Input(
            "blocks",
            default="",
            advanced=True,
            optional=True,
            tooltip="Strengths of single blocks, as 0-9: 1, 10-39: 0.5, rest: 0. Each is multiplied with strength; "
            "what is not named stays as it is, and rest is all outside of blocks. Empty: all alike",
        ),
    ]
