"""The keys of LoRA files -> which layer, of which expert, and what they are for it.

Forms: diffusers (`transformer.blocks.0.attn1.to_q.lora_A.weight`), older ones of diffusers (`unet.….attn1.processor.
to_q_lora.down.weight`, `….to_q.lora.down.weight`), peft (`base_model.model.…`), ComfyUI and the makers' own
(`diffusion_model.blocks.0.self_attn.q.lora_down.weight`), Kohya, musubi and LyCORIS (`lora_unet_blocks_0_self_attn_q.
lora_down.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_ADAPTER = r"(?:\.(?!weight$|bias$)[\w-]+)?"  # peft's name of an adapter, as "default"
_HALF = r"(?:\.lora_{peft}|\.lora_{way}|[._]lora\.{way}|\.lora_linear_layer\.{way})" + _ADAPTER + r"(?:\.weight)?$"
# the end of a key -> what the tensor is
ROLES = {
    _HALF.format(peft="A", way="down"): "down",
    _HALF.format(peft="B", way="up"): "up",
    rf"\.lora_(?:B|up){_ADAPTER}\.bias$": "up_bias",
    r"\.lora_mid(?:\.weight)?$": "mid",
    r"\.(?:lora_)?alpha$": "alpha",
    r"\.(?:diff|w_norm)$": "diff",
    r"\.(?:diff_b|b_norm)$": "bias",
    r"\.diff_m$": "modulation",
    r"\.dora_scale$": "dora_scale",
    rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?$": "magnitude",
    **{rf"\.{name}{_ADAPTER}$": name for n in "12" for name in (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}")},
    **{rf"\.{name}{_ADAPTER}$": name for n in "12" for name in (f"lokr_w{n}", f"lokr_w{n}_a", f"lokr_w{n}_b")},
    rf"\.lokr_t2{_ADAPTER}$": "lokr_t2",
}
_ROLES = [(re.compile(pattern), role) for pattern, role in ROLES.items()]
_TEXT = re.compile(
    r"^(?:base_model\.model\.)?(?:text_encoders?(?:_\d)?\.|text_model\.|lora_te\d?_|lora_text_(?:encoder|model)|"
    r"lycoris_text_model_|lora_(?:t5|clip|llama|llm)\w*_|te\d?\.|clip(?:_[lgh])?\.|t5(?:xxl)?\.|umt5(?:_xxl)?\.|"
    r"llama\.|cond_stage_model\.|conditioner\.)"
)
_WORDS = r"{noise}(?:_noise)?(?:_model|_lora|_expert)?|transformer_{noise}(?:_noise)?"
_EXPERTS = {
    "low": re.compile(rf"^(?:base_model\.model\.)?(?:transformer_2|(?:pipe\.)?dit2|{_WORDS.format(noise='low')})[._]"),
    "high": re.compile(rf"^(?:base_model\.model\.)?(?:{_WORDS.format(noise='high')})[._]"),
}
_FIRST = ("transformer.", "pipe.dit.", "dit.")  # the expert for high noise, in a file that names the other one too
_PREFIX = re.compile(
    r"^(?:base_model\.model\.|transformer\.|unet\.|diffusion_model\.|model\.diffusion_model\.|pipe\.dit\.|dit\.|"
    r"module\.|_orig_mod\.)+"
)
FLAT = re.compile(r"^(?:(?:\w*?_)?lora(?:_unet|_transformer)?|lycoris)_+(?=\w)")  # with a trainer's own words before it
_PROCESSOR = re.compile(r"\.processor(?=\.|$)")


@dataclass(frozen=True)
class Key:
    """One key of a file. layer: without prefixes, with underscores for dots where `flat`; expert: "high", "low" or "",
    both; role: one of ROLES; "" for a key of an unknown kind."""

    layer: str
    role: str
    expert: str = ""
    flat: bool = False


@dataclass
class Groups:
    """The keys of a file by what they are for. experts: "", "high" or "low" -> key -> what it is; text: those of text
    encoders."""

    experts: dict[str, dict[str, Key]] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)


def grouped(keys: Iterable[str]) -> Groups:
    """The keys by expert; where only the second expert is named, what begins as diffusers' first one is the first's."""
    groups, first = Groups(), set[str]()
    for key in keys:
        if _TEXT.match(key):
            groups.text.append(key)
            continue
        parsed = parse(key)
        groups.experts.setdefault(parsed.expert, {})[key] = parsed
        first |= {key} if key.startswith(_FIRST) else set()
    if "low" in groups.experts and "high" not in groups.experts and first:
        shared = groups.experts.pop("", {})
        groups.experts["high"] = {key: shared.pop(key) for key in first if key in shared}
        groups.experts |= {"": shared} if shared else {}
    return groups


def parse(key: str) -> Key:
    """What a key of the network says."""
    expert = next((name for name, pattern in _EXPERTS.items() if pattern.match(key)), "")
    rest = _PREFIX.sub("", _EXPERTS[expert].sub("", key) if expert else key)
    ending, role = next(((m, role) for pattern, role in _ROLES if (m := pattern.search(rest))), (None, ""))
    layer = rest[: ending.start()] if ending else rest
    flat = bool(FLAT.match(layer))
    return Key(FLAT.sub("", layer).rstrip("_") if flat else _PROCESSOR.sub("", layer), role, expert, flat)


_NOISE = re.compile(r"(?<![a-z])(high|low)(?:[-_ .]?noise)?(?![a-z])")


def expert_of_name(name: str) -> str:
    """ "high" or "low" where the name of a file says that it is for one expert; "" where it says neither or both."""
    words = {match[1] for match in _NOISE.finditer(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())}
    return words.pop() if len(words) == 1 else ""
