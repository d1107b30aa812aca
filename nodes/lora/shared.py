"""What both LoRA nodes do: put one on a model, and say what a person should know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...loaders.messages import Message, between, inputs_named, listed, message
from ...loaders.parts import Config, Part
from ...loaders.spec import with_feature
from ...loaders.video_model import VideoModel
from .. import host
from ..words import models_with

if TYPE_CHECKING:
    from ...loaders.weights.lora import LoRA
    from ...loaders.weights.lora.blocks import Ranges

# step-distillation LoRAs -> what their makers sample with: lightx2v/Wan2.1-Distill-Models, Wan2.2-Lightning (README),
# tianweiy/CausVid, hao-ai-lab/FastVideo (FastHunyuan)
DISTILLED: dict[str, dict[str, float]] = {
    "none": {},
    "lightx2v, Lightning (4 steps)": {"steps": 4, "guidance": 1.0, "guidance_2": 1.0, "shift": 5.0},
    "CausVid (8 steps)": {"steps": 8, "guidance": 1.0, "guidance_2": 1.0, "shift": 8.0},
    "FastHunyuan (6 steps)": {"steps": 6, "guidance": 6.0, "shift": 17.0},
}
STRENGTH: Mapping[str, object] = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05}


@dataclass(frozen=True)
class Row:
    """One LoRA as people choose it. names: of the inputs for both strengths."""

    file: Path
    strength: float = 1.0
    low_noise: float = 1.0
    start: float = 0.0
    end: float = 1.0
    blocks: str = ""
    names: tuple[str, str] = ("strength", "low_noise_strength")


def with_lora(model: VideoModel, row: Row) -> tuple[VideoModel, tuple[Message, ...]]:
    """(the model with a LoRA, what to say of it); raises CheckpointError for a file that does not fit, and InputError
    for steps and blocks that there cannot be."""
    from ...loaders.weights.lora import LoRA, block_factors, canonical, check_steps, parse_blocks, read_lora

    check_steps(row.start, row.end)
    ranges, part = parse_blocks(row.blocks), _network(model)
    if not row.strength and not (row.low_noise and "transformer_2" in model.parts):
        return model, (message("lora_off", file=row.file.name),)
    contents = read_lora(row.file, model.checkpoint, part, 2 if "transformer_2" in model.parts else 1)
    layers = {*contents.deltas, *(contents.low_deltas or ())}
    lists = tuple(filter(None, (*model.stacks.lists, model.stacks.beside))) if model.stacks else ()
    factors = block_factors(ranges, lists, part.tensors, layers)
    strengths = row.strength, row.low_noise
    parts, blocks = (contents.deltas, contents.low_deltas), canonical(ranges)
    lora = LoRA(row.file, *strengths, *parts, row.start, row.end, blocks, factors, contents.settings)
    named = () if contents.low_deltas is not None else _named_expert(model, row)
    words = (*_works(model, lora), *_blocks_notes(ranges, lists, part, lora))
    return replace(model, loras=(*model.loras, lora)), (*words, *contents.notes, *named)


def _works(model: VideoModel, lora: LoRA) -> Iterator[Message]:
    """What to say of a LoRA that changes a model."""
    from ...loaders.weights.lora import rank_of

    layers = {*lora.deltas, *(lora.low_deltas or ())}
    ranks = [rank_of({role: entry.shape for role, entry in delta.factors.items()}) for delta in lora.deltas.values()]
    known = sorted({rank for rank in ranks if rank})
    if layers and all(lora.factors.get(name, 1.0) == 0 for name in layers):
        yield message("lora_blocks_off", file=lora.file.name, blocks=lora.blocks)
    elif known:
        rank = between(str(known[0]), str(known[-1]))
        yield message("lora_works_rank", file=lora.file.name, count=len(layers), rank=rank)
    else:
        yield message("lora_works", file=lora.file.name, count=len(layers))
    if any(each.file == lora.file for each in model.loras):
        yield message("lora_twice", file=lora.file.name)


def _blocks_notes(ranges: Ranges, lists: tuple[str, ...], part: Part, lora: LoRA) -> Iterator[Message]:
    """What to say of "rest", which many read as the blocks that are not named."""
    from ...loaders.weights.lora import rest_of

    outside, unnamed = rest_of(ranges, lists, part.tensors, {*lora.deltas, *(lora.low_deltas or ())})
    if unnamed and any(first < 0 for first, _, _ in ranges):
        yield message("blocks_rest", outside=outside, unnamed=unnamed)


def _network(model: VideoModel) -> Part:
    return next(part for name, part in model.parts.items() if name in ("transformer", "unet"))


def _named_expert(model: VideoModel, row: Row) -> Iterator[Message]:
    """What to say of a file that is for one expert by its name, and works on another one."""
    from ...loaders.weights.lora import expert_of_name

    expert = expert_of_name(row.file.name) if "transformer_2" in model.parts else ""
    own, other = (row.strength, row.low_noise) if expert == "high" else (row.low_noise, row.strength)
    if not expert or not other:
        return
    strength, low = row.names
    if not own:
        named = message("word_high") if expert == "high" else message("word_low")
        yield message("lora_on_other", file=row.file.name, named=named)
    elif expert == "high":
        yield message("lora_high_on_both", file=row.file.name, strength=inputs_named(strength), low=inputs_named(low))
    else:
        yield message("lora_low_on_both", file=row.file.name, strength=inputs_named(strength), low=inputs_named(low))


def one_expert(model: VideoModel, name: str, value: float) -> tuple[Message, ...]:
    """What to say of a strength for a second expert that the model does not have."""
    if value == 1 or model.name not in with_feature("two_experts") or "transformer_2" in model.parts:
        return ()
    return (message("idle_expert", input=inputs_named(name), value=value, variant=model.variant),)


def with_presets(model: VideoModel, distilled: str) -> VideoModel:
    """The model with the default steps, guidance and shift of a distillation; what its family lacks is left out."""
    usual, values = model.facts.presets["default"], DISTILLED[distilled]
    changed: Config = {**usual, **{name: value for name, value in values.items() if name in usual}}
    return replace(model, facts=replace(model.facts, presets={**model.facts.presets, "default": changed}))


def preset_notes(model: VideoModel, distilled: str) -> tuple[Message, ...]:
    """What to say of a distillation's numbers: which count, and that others belong to another kind of model."""
    usual, values = model.facts.presets["default"], DISTILLED[distilled]
    counts = [
        message("changed_to", input=inputs_named(name), old=f"{usual[name]:g}", new=f"{values[name]:g}")
        for name in values
        if name in usual
    ]
    strange = [name for name in values if name not in usual and name != "guidance_2"]
    names = {"distilled": distilled, "title": model.title}
    sets = (message("distilled_sets", numbers=listed(counts), **names),) if counts else ()
    return (*sets, message("distilled_strange", names=inputs_named(*strange), **names)) if strange else sets


def modified(*files: Path) -> list[float]:
    """When LoRAs, and what says something of them, were last written: then they are read again."""
    from ...loaders.weights.lora import settings_file

    return [host.modified(path) for file in files for path in (file, settings_file(file)) if path is not None]


def low_noise_input(name: str) -> io.Input:
    """The strength on the second expert."""
    return io.Float.Input(
        name,
        advanced=True,
        optional=True,
        tooltip=f"{models_with('two_experts')}: strength on the low-noise expert; the other one works on the "
        "high-noise expert. LoRAs come as two files there: set this to 0 for the high-noise file, and strength "
        "to 0 for the low-noise file",
        **STRENGTH,
    )


def distilled_input() -> io.Input:
    """The preset of a step distillation."""
    return io.Combo.Input(
        "distilled",
        options=list(DISTILLED),
        default="none",
        advanced=True,
        optional=True,
        tooltip="Step-distillation LoRAs: sets the default steps, guidance and shift to what its makers sample "
        "with. What is set in Video Sampler goes before",
    )
