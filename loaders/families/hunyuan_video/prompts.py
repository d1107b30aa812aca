"""HunyuanVideo's two text encoders: Llama 3 (or Llava, which sees the first frame too) and CLIP-L.

Follows encode_prompt of diffusers 0.42's HunyuanVideoPipeline and HunyuanVideoImageToVideoPipeline, which see there
for the templates. Where a template's parts lie is counted with the tokenizer at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...common.emphasis import check_length, emphasised, prompt_notes, segments, weighted_tokens
from ...common.images import image_processor, to_pil
from ...common.peaks import reader
from ...common.prompts import Prompt, check_ids, padded
from ...common.tokenizers import load_tokenizer
from ...messages import CheckpointError, message
from ...parts import Inputs, Network
from ...video_model import VideoModel

HIDDEN = -3  # which hidden states are the text: two layers before the last (num_hidden_layers_to_skip)
CLIP_TOKENS = 77
ASSISTANT = 4  # tokens of the template's last header, which are cut out
Read = dict[str, Tensor]
Nothing = Callable[[int], Prompt]  # an empty prompt, without a template, of so many tokens


def encode_prompt(model: VideoModel, text: str, name: str, image: Tensor | None, interleave: int) -> Read:
    """{"text" [1, L, width], "mask" [1, L], "pooled" [1, width]} on the CPU.

    image: the first frame [1, H, W, 3] that Llava reads, every `interleave`-th of its tokens kept. Raises InputError
    for a prompt that is too long.
    """
    check_length(name, text)
    prompt, begin = _tokens(model, image is not None, text, name)
    ids = _clip_tokens(model, text)[:, :CLIP_TOKENS]
    check_ids(model, "text_encoder", prompt.ids)
    check_ids(model, "text_encoder_2", ids)
    tokenizer = load_tokenizer(model.recipe.files["tokenizer"])
    nothing = lambda length: padded(tokenizer, segments(""), length, name, "")
    with model.use("text_encoder") as encoder:
        device = model.memory.device("text_encoder")
        if image is None:
            read = _read_text(encoder, prompt, begin, nothing, device)
        else:
            pixels = _pixels(model, image, encoder.config.vision_config.image_size).to(device, encoder.dtype)
            header = tokenizer.convert_tokens_to_ids("<|end_header_id|>") or -1
            read = _read_picture(encoder, prompt, begin, nothing, header, pixels, interleave)
    with model.use("text_encoder_2") as clip:
        pooled = clip(ids.to(model.memory.device("text_encoder_2")), output_hidden_states=False).pooler_output
    return {**{k: v.cpu() for k, v in read.items()}, "pooled": pooled.cpu()}


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


def check_prompt(model: VideoModel, sees: bool, text: str, name: str) -> tuple[str, ...]:
    """Notes on a prompt; raises InputError for one that is too long, before an encoder is loaded.

    sees: whether Llava reads an image along with it. name: of the input that holds it.
    """
    check_length(name, text)
    parts = segments(text)
    notes = prompt_notes(name, text, parts)
    _tokens(model, sees, text, name)
    tokenizer = load_tokenizer(model.recipe.files["tokenizer_2"])
    count = len(weighted_tokens(tokenizer, parts)[0])
    if count > CLIP_TOKENS:
        notes += (message("clip_reads_first", name=name, most=CLIP_TOKENS, count=count),)
    if any(part.weight != 1 for part in parts):
        notes += (message("clip_weighs_nothing"),)
    return notes


def _tokens(model: VideoModel, sees: bool, text: str, name: str) -> tuple[Prompt, int]:
    """(the tokens of the filled template, how many of them are the template's beginning)."""
    tokenizer, template = load_tokenizer(model.recipe.files["tokenizer"]), _template(sees)
    begin = len(tokenizer(template.split("{}")[0]).input_ids)
    parts = segments(template.format(text))
    return padded(tokenizer, parts, model.facts.prompt_tokens, name, text, begin), begin


def _clip_tokens(model: VideoModel, text: str) -> Tensor:
    """What CLIP reads of a prompt [1, 77]: its first tokens and the end sign; the rest is left to Llama."""
    tokenizer, parts = load_tokenizer(model.recipe.files["tokenizer_2"]), segments(text)
    if len(parts) == 1:
        batch = tokenizer(
            [parts[0].text], padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt"
        )
        return batch.input_ids
    ids, _ = weighted_tokens(tokenizer, parts)
    padding = [tokenizer.pad_token_id] * (CLIP_TOKENS - len(ids))
    return torch.tensor([[*ids[: CLIP_TOKENS - 1], *ids[-1:], *padding] if len(ids) > CLIP_TOKENS else ids + padding])


def _read_text(encoder: Network, prompt: Prompt, begin: int, nothing: Nothing, device: torch.device) -> Read:
    ids, mask = prompt.ids.to(device), prompt.mask.to(device)
    hidden = _hidden(encoder, {"input_ids": ids, "attention_mask": mask}, prompt.weights, nothing)
    return {"text": hidden[:, begin:], "mask": mask[:, begin:]}


def _hidden(encoder: Network, inputs: Inputs, weights: Tensor | None, nothing: Nothing) -> Tensor:
    """The hidden states [1, L, width] that are the text, with the weights of its tokens [L] on them."""
    # Llava also tells, for each token, which might follow: 240 MB that nobody reads
    fewest = {"logits_to_keep": 1} if hasattr(encoder.config, "vision_config") else {}
    read = lambda **inputs: encoder(**inputs, **fewest, output_hidden_states=True).hidden_states[HIDDEN]

    def empty() -> Tensor:
        prompt, ids = nothing(inputs["input_ids"].shape[1]), inputs["input_ids"]
        return read(input_ids=prompt.ids.to(ids.device), attention_mask=prompt.mask.to(ids.device))

    return emphasised(read(**inputs), empty, weights)


def _pixels(model: VideoModel, image: Tensor, side: int) -> Tensor:
    usual = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = image_processor(model.recipe.files.get("image_processor"), usual)
    return processor(to_pil(image)[0], return_tensors="pt").pixel_values


def _read_picture(
    encoder: Network, prompt: Prompt, begin: int, nothing: Nothing, header: int, pixels: Tensor, interleave: int
) -> Read:
    """The image's hidden states, then the prompt's without the template around it. header: the sign that ends one."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import _expand_input_ids_with_image_tokens

    ids, mask = prompt.ids.to(pixels.device), prompt.mask.to(pixels.device)
    image_token, vision = encoder.config.image_token_id, encoder.config.vision_config
    count = (vision.image_size // vision.patch_size) ** 2
    if not ((ids[0] == image_token).any() and (ids[0] == header).any()):
        raise CheckpointError(message("tokenizer_strange"), message("download_tokenizer"))
    start = int((ids[0] == image_token).nonzero()[0])
    place = (count, start, start + count)
    expanded = _expand_input_ids_with_image_tokens(
        ids, mask, ids.shape[1], image_token, *place, encoder.config.pad_token_id
    )
    weights = prompt.weights
    if weights is not None:
        weights = torch.cat([weights[:start], torch.ones(count), weights[start + 1 :]])
    hidden = _hidden(encoder, {**expanded, "pixel_values": pixels}, weights, nothing)[0]
    last = int((ids[0] == header).nonzero()[-1]) + 1
    shift = count - 1  # the image's one token has become this many more
    words = torch.cat([hidden[begin + shift : last + shift - ASSISTANT], hidden[last + shift :]])
    word_mask = torch.cat([mask[0, begin : last - ASSISTANT], mask[0, last:]])
    image = hidden[start : start + count][::interleave]
    mask = torch.cat([word_mask.new_ones(len(image)), word_mask])
    return {"text": torch.cat([image, words])[None], "mask": mask[None]}
