"""llama.cpp's names of text encoders (gguf-py, gguf/tensor_mapping.py) -> transformers', as ComfyUI-GGUF's files have
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..entry import Entry, rename

Entries = Mapping[str, Entry]
HEAD = 128  # channels of a head of Llama 3
_T5 = {
    r"^token_embd\.": "shared.",
    r"^enc\.output_norm\.": "encoder.final_layer_norm.",
    r"^enc\.blk\.(\d+)\.": r"encoder.block.\1.layer.",
    r"\.layer\.attn_norm\.": ".layer.0.layer_norm.",
    r"\.layer\.attn_rel_b\.": ".layer.0.SelfAttention.relative_attention_bias.",
    r"\.layer\.attn_([qkvo])\.": r".layer.0.SelfAttention.\1.",
    r"\.layer\.ffn_norm\.": ".layer.1.layer_norm.",
    r"\.layer\.ffn_gate\.": ".layer.1.DenseReluDense.wi_0.",
    r"\.layer\.ffn_up\.": ".layer.1.DenseReluDense.wi_1.",
    r"\.layer\.ffn_down\.": ".layer.1.DenseReluDense.wo.",
}
_LLAMA = {
    r"^token_embd\.": "embed_tokens.",
    r"^output_norm\.": "norm.",
    r"^output\.": "lm_head.",
    r"^blk\.(\d+)\.": r"layers.\1.",
    r"\.attn_norm\.": ".input_layernorm.",
    r"\.ffn_norm\.": ".post_attention_layernorm.",
    r"\.attn_([qkv])\.": r".self_attn.\1_proj.",
    r"\.attn_output\.": ".self_attn.o_proj.",
    r"\.ffn_(gate|up|down)\.": r".mlp.\1_proj.",
}
_UNUSED = ("dec.", "rope_freqs.")  # a decoder, and a table that Llama's config tells


def original(entries: Entries) -> Entries:
    """A text encoder's tensors under transformers' names, from llama.cpp's; others pass unchanged."""
    own = {key: entry for key, entry in entries.items() if not key.startswith(_UNUSED)}
    if "enc.blk.0.attn_q.weight" in own:
        return {rename(key, _T5): entry for key, entry in own.items()}
    if "blk.0.attn_q.weight" in own:
        named = {rename(key, _LLAMA): entry for key, entry in own.items()}
        turned = (".self_attn.q_proj.weight", ".self_attn.k_proj.weight")
        return {key: _halves(entry) if key.endswith(turned) else entry for key, entry in named.items()}
    return entries


def _halves(entry: Entry) -> Entry:
    """Rows in the order in which transformers turns them, half a head apart; llama.cpp has pairs side by side."""
    order = (
        start + 2 * i + half for start in range(0, entry.shape[0], HEAD) for half in (0, 1) for i in range(HEAD // 2)
    )
    return replace(entry, rows=tuple((row, row + 1) for row in order))
