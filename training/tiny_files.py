"""Tiny single files of the kinds that people have, in published layouts: scaled fp8, GGUF, text encoders, VAEs, a LoRA.

python training/tiny_files.py MODELS     fills the folders of a ComfyUI's `models`, with the diffusers folders of
                                         `tiny_models.py` too; `run.py tiny` calls it.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING or __package__:
    from . import tiny_models as tiny
    from . import tiny_text as text
else:  # as a plain script
    sys.path.insert(0, str(Path(__file__).parent))
    import tiny_models as tiny  # type: ignore[no-redef]
    import tiny_text as text  # type: ignore[no-redef]

State = dict[str, Tensor]
# tiny model -> the folder in `weights` of one that was trained, which takes its place where it is there
WEIGHTS = Path(__file__).parent / "weights"
TRAINED = {
    "tiny-hunyuan-t2v": "tiny_hunyuan",
    "tiny-cogvideox-2b": "tiny_cogvideox",
    "tiny-mochi": "tiny_mochi",
    "tiny-svd": "tiny_svd",
}
E4M3, LARGEST = torch.float8_e4m3fn, 448.0
# diffusers' names -> the published ones
WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_out.0.": ".o.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    ".norm2.": ".norm3.",
    "proj_out.": "head.head.",
}
LTX = {"proj_in.": "patchify_proj.", "time_embed.": "adaln_single.", ".norm_q.": ".q_norm.", ".norm_k.": ".k_norm."}


def published(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    tensors = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        tensors[key] = value.contiguous()
    return tensors


def wan_expert(seed: int) -> State:
    network = tiny.new(
        "WanTransformer3DModel",
        seed,
        num_attention_heads=1,
        attention_head_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=4,
        rope_max_seq_len=64,
    )
    named = published(network.state_dict(), WAN)
    tables = {key: re.sub(r"scale_shift_table$", "modulation", key) for key in named}
    return {("head.modulation" if new == "modulation" else new): named[key] for key, new in tables.items()}


def scaled_fp8(state: State) -> State:
    """ComfyUI's first format: `scaled_fp8`, and `x.scale_weight` for each linear layer of the blocks."""
    tensors = {"scaled_fp8": torch.zeros(2, dtype=E4M3)}
    for key, value in state.items():
        tensors[key] = value
        if key.startswith("blocks.") and value.ndim == 2 and key.endswith(".weight"):
            scale = value.abs().max() / LARGEST
            tensors |= {key: (value / scale).to(E4M3), key.removesuffix("weight") + "scale_weight": scale}
    return tensors


def save(state: Mapping[str, Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, file)


def sentencepiece_model() -> bytes:
    """A tokenizer of English and Chinese letters, any other letter as its bytes, as UMT5's."""
    words = [" ".join(text.WORDS), *text.WORDS, *"一二三红绿蓝黄色的圆方形在上下左右移动猫狗", *text.LETTERS]
    return sentencepiece_of(words, 400)


def sentencepiece_of(words: list[str], size: int, **options: Any) -> bytes:
    """A sentencepiece model of these words with so many pieces."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 4),
        model_writer=written,
        vocab_size=size,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


def umt5(file: Path) -> None:
    encoder = tiny.encoder(text.t5, "UMT5", 512)
    state = {k: v.clone() for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save({**state, "spiece_model": torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)}, file)


def t5(file: Path) -> None:
    """It has as many tokens as T5-XXL, whose tokenizer ComfyUI brings along."""
    encoder = tiny.encoder(text.t5, "T5", 32128)
    state = {k: v.clone().half() for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save(state, file)


def wan_vae(file: Path) -> None:
    save(tiny.new("AutoencoderKLWan", base_dim=8, dim_mult=[1, 2, 4, 4]).state_dict(), file)


def ltx_gguf(file: Path) -> None:
    import gguf

    network = tiny.new(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=32,
        attention_head_dim=2,
        cross_attention_dim=64,
        num_layers=4,
        caption_channels=32,
    )
    writer, kind = gguf.GGUFWriter(str(file), "ltxv"), gguf.GGMLQuantizationType.Q8_0
    for key, value in published(network.state_dict(), LTX).items():
        if value.ndim == 2 and value.shape[1] % 32 == 0 and key.startswith("transformer_blocks."):
            writer.add_tensor(key, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, value.numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()


def ltx_vae(file: Path) -> None:
    save(tiny.ltx_vae("0.9.0").state_dict(), file)


def wan_lora(file: Path) -> None:
    """In musubi's form, on the network of tiny-wan2.1-t2v."""
    with tiny.seeded(7):
        layers = {
            f"blocks_{i}_{name}": (24, 24) for i in range(4) for name in ("self_attn_q", "self_attn_v", "cross_attn_o")
        }
        tensors = {f"lora_unet_{k}.lora_down.weight": torch.randn(4, n) * 0.1 for k, (_, n) in layers.items()}
        tensors |= {f"lora_unet_{k}.lora_up.weight": torch.randn(n, 4) * 0.1 for k, (n, _) in layers.items()}
        tensors |= {f"lora_unet_{k}.alpha": torch.tensor(4.0) for k in layers}
    save(tensors, file)


# file inside of `models` -> what makes it
def compact(file: Path) -> None:
    """An upscaler of frames, twice as large, in the layout of Real-ESRGAN's compact networks."""
    widths = {0: (8, 3), 2: (8, 8), 4: (12, 8)}
    torch.manual_seed(0)
    state = {f"body.{at}.weight": torch.randn(*shape, 3, 3) * 0.1 for at, shape in widths.items()}
    state |= {f"body.{at}.bias": torch.zeros(shape[0]) for at, shape in widths.items()}
    save(state | {f"body.{at}.weight": torch.full((8,), 0.25) for at in (1, 3)}, file)


def rife(file: Path) -> None:
    """A frame interpolation network in RIFE's layout that sees no motion: what it puts between frames is their mean."""
    head, width, state = 4, 4, State()

    def layer(name: str, *shape: int, bias: int = 0) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(*shape), torch.zeros(bias or shape[0])

    layer("encode.cnn0", 16, 3, 3, 3)
    layer("encode.cnn1", 16, 16, 3, 3)
    layer("encode.cnn2", 16, 16, 3, 3)
    layer("encode.cnn3", 16, head, 4, 4, bias=head)
    for at in range(5):
        layer(f"block{at}.conv0.0.0", width // 2, (20 if at else 7) + 2 * head, 3, 3)
        layer(f"block{at}.conv0.1.0", width, width // 2, 3, 3)
        for inner in range(8):
            layer(f"block{at}.convblock.{inner}.conv", width, width, 3, 3)
            state[f"block{at}.convblock.{inner}.beta"] = torch.ones(1, width, 1, 1)
        layer(f"block{at}.lastconv.0", width, 52, 4, 4, bias=52)
    save(state, file)


FILES: dict[str, Callable[[Path], Any]] = {
    "diffusion_models/tiny-wan2.2-t2v-high_noise-fp8_scaled.safetensors": lambda file: save(
        scaled_fp8(wan_expert(0)), file
    ),
    "diffusion_models/tiny-wan2.2-t2v-low_noise-fp8_scaled.safetensors": lambda file: save(
        scaled_fp8(wan_expert(1)), file
    ),
    "text_encoders/tiny-umt5.safetensors": umt5,
    "vae/tiny-wan-2.1-vae.safetensors": wan_vae,
    "diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf": ltx_gguf,
    "text_encoders/tiny-t5.safetensors": t5,
    "vae/tiny-ltx-0.9.0-vae.safetensors": ltx_vae,
    "loras/tiny-wan2.1-lora.safetensors": wan_lora,
    "upscale_models/tiny-compact.safetensors": compact,
    "frame_interpolation/tiny-rife.safetensors": rife,
}


def make(name: str, models: Path) -> Path:
    """Write the file called `name`; under its name only when it is whole."""
    target = models / name
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        FILES[name](part)
        part.rename(target)
    return target


def diffusers_folder(name: str, folder: Path) -> Path:
    """The tiny model called `name` inside of `folder`: a trained one, if there is one, else noise."""
    target, part = folder / name, folder / f".{name}.part"
    trained = WEIGHTS / TRAINED.get(name, "-")
    if target.exists() or not trained.exists():
        return tiny.make(name, folder)
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(trained, part)
    part.rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder `models` of a ComfyUI")
    options = parser.parse_args()
    tiny.quiet()
    (options.models / "diffusers").mkdir(parents=True, exist_ok=True)
    makers = {
        f"diffusers/{name}": lambda name=name: diffusers_folder(name, options.models / "diffusers")
        for name in tiny.MODELS
    }
    makers |= {name: lambda name=name: make(name, options.models) for name in FILES}
    for name, maker in makers.items():
        there, path = (options.models / name).exists(), maker()
        size = sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)))
        print(f"  {name:<70} {size / 1e6:5.1f} MB{'  (was there)' if there else ''}", flush=True)


if __name__ == "__main__":
    main()
