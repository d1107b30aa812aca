"""Text and image encoders as single files: recognised by their keys, described by their shapes.

Published sizes: google/t5-v1_1-xxl and google/umt5-xxl (4096 wide, 24 layers, 64 heads), openai/clip-vit-large-patch14,
xtuner/llava-llama-3-8b-v1_1 (Llama 3 8B, and a vision tower of CLIP ViT-L at 336 pixels), laion/CLIP-ViT-H-14. What
leaves no trace in shapes is the same in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..messages import CheckpointError, message
from ..parts import ConfigDict
from .bundle import read_part
from .entry import Entry, describing, rename
from .format import Entries, Weights
from .gguf.names import original
from .json_files import excerpt
from .kinds import kind_of
from .safetensors import read_file

# config.json of xtuner/llava-llama-3-8b-v1_1-transformers: its two tokens, and the layer of 24 that the projector reads
LLAVA_PICTURE, LLAVA_PAD, LLAVA_LAYER = 128257, 128258, 23
BUCKETS = 32  # of distances between tokens, in every T5
POSITIONS = 77, 248  # of tokens, in CLIP-L and in Long-CLIP, of which a prompt gets the first 77

# how ComfyUI's own checkpoints name an encoder of their own, as text_encoders.umt5xxl.transformer.
INSIDE = re.compile(r"(text_encoders|cond_stage_model|conditioner\.embedders\.\d+)\.([^.]+\.)?transformer\.")


def _layers(entries: Entries, last: str) -> int:
    """How many layers have this key."""
    return sum(key.endswith(last) for key in entries)


def t5_config(entries: Entries) -> ConfigDict:
    """The config that the shapes of a T5 v1.1 or UMT5 encoder tell."""
    layer = "encoder.block.0.layer"
    vocabulary, width = entries["shared.weight"].shape
    query = entries[f"{layer}.0.SelfAttention.q.weight"]
    bias = entries[f"{layer}.0.SelfAttention.relative_attention_bias.weight"].shape
    return dict(
        vocab_size=vocabulary,
        d_model=width,
        num_heads=bias[1],
        relative_attention_num_buckets=BUCKETS,
        d_kv=query.shape[0] // bias[1],
        d_ff=entries[f"{layer}.1.DenseReluDense.wo.weight"].shape[1],
        num_layers=_layers(entries, "SelfAttention.q.weight"),
        feed_forward_proj="gated-gelu" if f"{layer}.1.DenseReluDense.wi_0.weight" in entries else "relu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )


def _clip_config(entries: Entries) -> ConfigDict:
    """CLIP-L's text tower: 64 channels a head, quick GELU. The sign that ends a text is the tokenizer's to tell."""
    vocabulary, width = entries["embeddings.token_embedding.weight"].shape
    positions = entries["embeddings.position_embedding.weight"].shape[0]
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        num_attention_heads=max(width // 64, 1),
        hidden_act="quick_gelu",
        max_position_embeddings=positions if positions in POSITIONS else POSITIONS[0],
        intermediate_size=entries["encoder.layers.0.mlp.fc1.weight"].shape[0],
        projection_dim=width,
        num_hidden_layers=_layers(entries, "mlp.fc1.weight"),
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


def _llama_config(entries: Entries) -> ConfigDict:
    """Llama 3 8B: 128 channels a head, theta 500000."""
    vocabulary, width = entries["embed_tokens.weight"].shape
    rows = lambda name: entries[f"layers.0.self_attn.{name}_proj.weight"].shape[0] // 128
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        num_attention_heads=rows("q"),
        num_key_value_heads=rows("k"),
        head_dim=128,
        intermediate_size=entries["layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=_layers(entries, "mlp.gate_proj.weight"),
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )


def _vision_config(entries: Entries) -> ConfigDict:
    """CLIP ViT-H: 80 channels a head, GELU; ViT-L: 64, quick GELU."""
    return _tower_config(entries) | dict(projection_dim=entries["visual_projection.weight"].shape[0])


def _tower_config(entries: Entries) -> ConfigDict:
    """CLIP's vision tower, without its last projection."""
    width, _, patch, _ = entries["vision_model.embeddings.patch_embedding.weight"].shape
    positions = entries["vision_model.embeddings.position_embedding.weight"].shape[0]
    side = round((positions - 1) ** 0.5)
    large = width % 80 == 0
    return dict(
        hidden_size=width,
        patch_size=patch,
        image_size=side * patch,
        num_attention_heads=max(width // (80 if large else 64), 1),
        intermediate_size=entries["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        hidden_act="gelu" if large else "quick_gelu",
        num_hidden_layers=_layers(entries, "mlp.fc1.weight"),
    )


@dataclass(frozen=True)
class Kind:
    """One kind of encoder.

    architecture: transformers' class.
    title: as people write it.
    mark, lacks: a key that it has, and one that it has not.
    config: tensors -> the config of its class.
    rename: patterns of its published names -> transformers 5's names.
    unused: a pattern of the keys that belong to something else.
    """

    architecture: str
    title: str
    mark: str
    config: Callable[[Entries], ConfigDict]
    rename: Mapping[str, str]
    unused: str
    lacks: str = ""


_BIAS = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
_PROJECTOR = "multi_modal_projector.linear_1.weight"
_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_T5_UNUSED = r"^(encoder\.embed_tokens\.weight|spiece_model)$"  # a copy of shared.weight; UMT5's tokenizer
KINDS = {
    "t5": Kind(
        architecture="T5EncoderModel",
        title=message("kind_t5"),
        mark="encoder.block.0.layer.0.SelfAttention.q.weight",
        lacks=_BIAS,
        config=t5_config,
        rename={},
        unused=_T5_UNUSED,
    ),
    "umt5": Kind(
        architecture="UMT5EncoderModel",
        title=message("kind_umt5"),
        mark=_BIAS,
        config=t5_config,
        rename={},
        unused=_T5_UNUSED,
    ),
    "clip": Kind(
        architecture="CLIPTextModel",
        title=message("kind_clip"),
        mark="embeddings.token_embedding.weight",
        config=_clip_config,
        rename={r"^text_model\.": ""},
        unused=r"(^text_projection\.weight|position_ids|logit_scale)$",
    ),
    "llama": Kind(
        architecture="LlamaModel",
        title=message("kind_llama"),
        mark="layers.0.self_attn.q_proj.weight",
        config=_llama_config,
        rename={r"^model\.": "", r"^language_model\.model\.": ""},
        unused=r"^(language_model\.)?lm_head\.weight$",
    ),
    "vision": Kind(
        architecture="CLIPVisionModelWithProjection",
        title=message("kind_vision"),
        mark=_PATCHES,
        lacks=_PROJECTOR,
        config=_vision_config,
        rename={r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm)\.)": "vision_model."},
        unused=r"(position_ids|logit_scale)$",
    ),
    "llava": Kind(
        architecture="CLIPVisionModel",
        title=message("kind_llava"),
        mark=_PROJECTOR,
        config=_tower_config,
        rename={r"^vision_tower\.": ""},
        unused=r"(position_ids|logit_scale|^visual_projection\.weight)$",
    ),
}


def recognise(entries: Entries) -> tuple[str, dict[str, Entry]]:
    """(kind of encoder, its tensors under transformers 5's names); an empty kind where the file holds none."""
    entries = original(entries)
    for name, kind in KINDS.items():
        renamed = {
            rename(key, kind.rename): _exact(entry) for key, entry in entries.items() if not re.search(kind.unused, key)
        }
        if kind.mark in renamed and kind.lacks not in renamed:
            return name, renamed
    return "", {}


def _exact(entry: Entry) -> Entry:
    """A weight that is widened when it is used, whatever the card can do, as the host asks of its text encoders."""
    return replace(entry, quantisation=replace(entry.quantisation, exact=True))


def read_encoder(source: Path, kind: str, files: str = "") -> Weights:
    """The encoder of a file or of a transformers folder; raises CheckpointError for another kind and a damaged file.

    files: what to get instead, in words.
    """
    with describing(source, KINDS[kind].architecture):
        if source.is_dir():
            other = lambda named: _wrong_kind(source, message("kind_weights", kind=excerpt(named)), kind, files)
            return read_part(source, (KINDS[kind].architecture,), other)
        entries = read_file(source)[0]
        recognised, renamed = recognise(entries)
        if recognised != kind:
            title = KINDS[recognised].title if recognised else kind_of(entries)
            raise _wrong_kind(source, title, kind, files)
        return _described(source, kind, renamed)


def _described(source: Path, kind: str, renamed: dict[str, Entry]) -> Weights:
    """An encoder with the config that its shapes tell; raises CheckpointError for a tensor that is missing."""
    with describing(source, KINDS[kind].architecture):
        return Weights({"architectures": [KINDS[kind].architecture], **KINDS[kind].config(renamed)}, renamed)


def encoders_inside(source: Path, entries: Entries, wanted: Mapping[str, str]) -> dict[str, Weights]:
    """The encoders that lie in the same file as a network, by the parts that need them. wanted: part -> kind."""
    groups: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        if match := INSIDE.match(key):
            groups.setdefault(match[0], {})[key[match.end() :]] = entry
    inside = {}
    for group in groups.values():
        kind, renamed = recognise(group)
        for part in (part for part, of in wanted.items() if of == kind):
            inside[part] = _described(source, kind, renamed)
    return inside


def _wrong_kind(source: Path, title: str, wanted: str, files: str) -> CheckpointError:
    rule = message("wrong_family", file=source.name, kind=title, title=KINDS[wanted].title)
    return CheckpointError(rule, message("put", advice=files) if files else "")


def merge_vision_tower(language: Weights, tower: Weights) -> Weights:
    """Llava of its two halves, a Llama and a vision tower; raises CheckpointError where they do not fit together."""
    projector = tower.entries[_PROJECTOR]
    if projector.shape[0] != output_width(language):
        rule = message("llava_halves", file=projector.file.name, seen=projector.shape[0], wanted=output_width(language))
        raise CheckpointError(rule, message("choose_llava"))
    named = {re.sub(r"^vision_model\.", "vision_tower.", key): entry for key, entry in tower.entries.items()}
    named |= {f"language_model.{key}": entry for key, entry in language.entries.items()}
    config = dict(
        architectures=["LlavaModel"],
        image_token_index=LLAVA_PICTURE,
        pad_token_id=LLAVA_PAD,
        projector_hidden_act="gelu",
        vision_feature_layer=LLAVA_LAYER if tower.config["num_hidden_layers"] >= LLAVA_LAYER else -2,
        vision_config={**tower.config, "model_type": "clip_vision_model"},
        text_config={**language.config, "model_type": "llama"},
    )
    return Weights(config, named, (*language.notes, *tower.notes))


def output_width(weights: Weights) -> int:
    """Channels of what an encoder gives."""
    config = weights.config
    return config.get("d_model") or config.get("hidden_size") or config["text_config"]["hidden_size"]


def projected_width(weights: Weights) -> int:
    """Channels of what an image encoder's last projection makes; 0 where its config does not say."""
    return int(weights.config.get("projection_dim", 0))
