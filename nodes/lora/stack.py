"""LoRA Stack (Video): up to eight LoRAs on a model, as a chain of LoRA nodes puts them there."""

from __future__ import annotations

from comfy_api.latest import io

from ...loaders.messages import Message
from ...loaders.spec import with_feature
from ...loaders.video_model import VideoModel
from .. import host
from ..effect import Conditions, Wanted, counted, idle
from ..types import InputValue, model_input, model_output
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

ROWS = range(1, 9)
NONE = "none"


class StackLoRAs(io.ComfyNode):
    """LoRA Stack (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        rows = [field for number in ROWS for field in _row_inputs(number)]
        return io.Schema(
            node_id="ReelwireLoRAStack",
            display_name="LoRA Stack (Video)",
            category="Reelwire/model",
            description="Puts up to eight LoRAs on a model, as a chain of LoRA nodes does. Rows without a LoRA do "
            "nothing.",
            search_aliases=["multiple loras", "power lora", "lora stacker", "lightning", "多个 LoRA", "LoRA 堆"],
            inputs=counted([model_input(), *rows, distilled_input()], _conditions()),
            outputs=[model_output("The same model with the LoRAs")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        lora_1: str | None = None,
        lora_2: str | None = None,
        lora_3: str | None = None,
        lora_4: str | None = None,
        lora_5: str | None = None,
        lora_6: str | None = None,
        lora_7: str | None = None,
        lora_8: str | None = None,
    ) -> bool | str:
        chosen = (lora_1, lora_2, lora_3, lora_4, lora_5, lora_6, lora_7, lora_8)
        files = host.files("loras")
        return host.valid(
            *((host.choose, f"lora_{n}", name, files) for n, name in zip(ROWS, chosen, strict=True) if name != NONE)
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: InputValue) -> list[float]:
        """Load again when a file was replaced, or what lies beside it and says something of it."""
        files = host.files("loras")
        names = (host.meant(inputs.get(f"lora_{n}", NONE), files) for n in ROWS)
        return modified(*(files[name] for name in names if name))

    @classmethod
    def execute(cls, model: VideoModel, distilled: str = "none", **inputs: InputValue) -> io.NodeOutput:
        changed, lines = model, list[Message](idle(cls, {f"lora_{n}": NONE for n in ROWS} | inputs, model))
        for number in ROWS:
            if (name := inputs.get(f"lora_{number}", NONE)) == NONE:
                continue
            names = f"strength_{number}", f"low_noise_strength_{number}"
            strength, low_noise = (float(inputs.get(each, 1.0)) for each in names)
            file = host.choose(f"lora_{number}", name, host.files("loras"))
            changed, notes = with_lora(changed, Row(file, strength, low_noise, names=names))
            lines += [*one_expert(model, names[1], low_noise), *notes]
        report = host.Report(cls)
        report.tell(*dict.fromkeys(lines), *preset_notes(model, distilled))
        return io.NodeOutput(with_presets(changed, distilled), ui=report.ui())


def _row_inputs(number: int) -> list[io.Input]:
    return [
        io.Combo.Input(
            f"lora_{number}",
            options=[NONE, *host.files("loras")],
            default=NONE,
            optional=True,
            tooltip="A file in models/loras; none: this row does nothing",
        ),
        io.Float.Input(f"strength_{number}", optional=True, tooltip="1 as trained, 0 off", **STRENGTH),
        low_noise_input(f"low_noise_strength_{number}"),
    ]


def _conditions() -> Conditions:
    """When a row's strengths count."""
    conditions: dict[str, dict[str, Wanted]] = {}
    for number in ROWS:
        chosen: dict[str, Wanted] = {f"lora_{number}": {"not": (NONE,)}}
        conditions[f"strength_{number}"] = {**chosen}
        conditions[f"low_noise_strength_{number}"] = {"family": with_feature("two_experts"), **chosen}
    return conditions
