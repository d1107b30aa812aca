"""HunyuanVideo's two text encoders: Llama 3 (or Llava, which sees the first frame too) and CLIP-L.

Follows encode_prompt of diffusers 0.42's HunyuanVideoPipeline and HunyuanVideoImageToVideoPipeline, which see there
for the templates. Where a template's parts lie is counted with the tokenizer at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...common.images import to_pil
from ...common.peaks import reader
from ...common.prompts import load_tokenizer
from ...messages import InputError, message
from ...parts import Network, Tokenizer
from ...video_model import VideoModel

HIDDEN = -3  # which hidden states are the text: two layers before the last (num_hidden_layers_to_skip)
CLIP_TOKENS = 77
ASSISTANT = 4  # tokens of the template's last header, which are cut out
Read = dict[str, Tensor]


def encode_prompt(
    model: VideoModel, text: str, name: str, image: Tensor | None, interleave: int
) -> tuple[Read, tuple[str, ...]]:
    """({"text" [1, L, width], "mask" [1, L], "pooled" [1, width]} on the CPU, notes).

    image: the first frame [1, H, W, 3] that Llava reads, every `interleave`-th of its tokens kept. Raises InputError
    for a prompt that is too long.
    """
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    with model.use("text_encoder") as encoder:
        device = model.memory.device("text_encoder")
        if image is None:
            read = _read_text(encoder, tokenizer, model.facts.prompt_tokens, device, text, name)
        else:
            pixels = _pixels(model, image, encoder.config.vision_config.image_size).to(device, encoder.dtype)
            read = _read_picture(encoder, tokenizer, model.facts.prompt_tokens, device, text, name, pixels, interleave)
    with model.use("text_encoder_2") as clip:
        clip_tokenizer = load_tokenizer(model.recipe.files["tokenizer_2"])
        pooled, notes = _pool(clip, clip_tokenizer, model.memory.device("text_encoder_2"), text, name)
    return {**{k: v.cpu() for k, v in read.items()}, "pooled": pooled}, notes


def text_tokens(model: VideoModel, interleave: int) -> int:
    """How many rows of text the network reads; interleave: as in `encode_prompt`, 0 without an image."""
    if not interleave:
        return model.facts.prompt_tokens
    encoder = reader(model.parts["text_encoder"].tensors)
    image = max(encoder.pictures - 1, 0) if encoder else 0  # without the one that stands for all
    return -(-image // interleave) + model.facts.prompt_tokens - ASSISTANT


def template_tokens(model: VideoModel) -> int:
    """How many tokens stand before the prompt, by the tokenizer at hand."""
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    return len(
        tokenizer(_template(picture="vision_config" in model.parts["text_encoder"].config).split("{}")[0]).input_ids
    )


def _template(picture: bool) -> str:
    """diffusers' own, of text or of image to video."""
    import diffusers.pipelines.hunyuan_video as pipelines

    name = "pipeline_hunyuan_video_image2video" if picture else "pipeline_hunyuan_video"
    return str(getattr(pipelines, name).DEFAULT_PROMPT_TEMPLATE["template"])


def check_prompts(model: VideoModel, sees: bool, **prompts: str) -> None:
    """Raise InputError for prompts, by the names of their inputs, that are too long; before an encoder is loaded.

    sees: whether Llava reads an image along with them.
    """
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    for name, text in prompts.items():
        _tokens(tokenizer, _template(sees), model.facts.prompt_tokens, text, name)


def _tokens(tokenizer: Tokenizer, template: str, length: int, text: str, name: str) -> tuple[Any, int]:
    """(the tokens of the filled template, how many of them are the template's beginning)."""
    begin = len(tokenizer(template.split("{}")[0]).input_ids)
    filled = template.format(text)
    count = len(tokenizer(filled).input_ids) - begin
    if count > length:
        rule = message("prompt_too_long", count=count, most=length)
        raise InputError(name, f"{text[:40]!r}...", rule, message("shorten"))
    return tokenizer([filled], padding="max_length", max_length=length + begin, return_tensors="pt"), begin


def _read_text(encoder: Network, tokenizer: Tokenizer, length: int, device: torch.device, text: str, name: str) -> Read:
    batch, begin = _tokens(tokenizer, _template(False), length, text, name)
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    hidden = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[HIDDEN]
    return {"text": hidden[:, begin:], "mask": mask[:, begin:]}


def _pixels(model: VideoModel, image: Tensor, side: int) -> Tensor:
    from transformers import CLIPImageProcessor

    folder = model.recipe.files.get("image_processor")
    sizes: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = (
        CLIPImageProcessor.from_pretrained(folder, local_files_only=True) if folder else CLIPImageProcessor(**sizes)
    )
    return processor(to_pil(image)[0], return_tensors="pt").pixel_values


def _read_picture(
    encoder: Network,
    tokenizer: Tokenizer,
    length: int,
    device: torch.device,
    text: str,
    name: str,
    pixels: Tensor,
    interleave: int,
) -> Read:
    """The image's hidden states, then the prompt's without the template around it."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import _expand_input_ids_with_image_tokens

    batch, begin = _tokens(tokenizer, _template(True), length, text, name)
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    image_token, vision = encoder.config.image_token_id, encoder.config.vision_config
    count = (vision.image_size // vision.patch_size) ** 2
    start = int((ids[0] == image_token).nonzero()[0])
    place = (count, start, start + count)
    expanded = _expand_input_ids_with_image_tokens(
        ids, mask, length + begin, image_token, *place, encoder.config.pad_token_id
    )
    hidden = encoder(**expanded, pixel_values=pixels, output_hidden_states=True).hidden_states[HIDDEN][0]
    last = int((ids[0] == tokenizer.convert_tokens_to_ids("<|end_header_id|>")).nonzero()[-1]) + 1
    shift = count - 1  # the image's one token has become this many more
    words = torch.cat([hidden[begin + shift : last + shift - ASSISTANT], hidden[last + shift :]])
    word_mask = torch.cat([mask[0, begin : last - ASSISTANT], mask[0, last:]])
    image = hidden[start : start + count][::interleave]
    mask = torch.cat([word_mask.new_ones(len(image)), word_mask])
    return {"text": torch.cat([image, words])[None], "mask": mask[None]}


def _pool(
    clip: Network, tokenizer: Tokenizer, device: torch.device, text: str, name: str
) -> tuple[Tensor, tuple[str, ...]]:
    """CLIP's one vector for the whole prompt; it reads 77 tokens, the rest is left to Llama, which is said."""
    count = len(tokenizer(text).input_ids)
    batch = tokenizer([text], padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt")
    pooled = clip(batch.input_ids.to(device), output_hidden_states=False).pooler_output.cpu()
    note = message("clip_reads_first", name=name, most=CLIP_TOKENS, count=count)
    return pooled, (note,) if count > CLIP_TOKENS else ()
