"""One loader node per family."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..loaders.checkpoints import CheckpointError
from ..loaders.video_model import Recipe
from . import host
from .types import VideoModelType


class LoadLTX(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLoadLTX", display_name="Load LTX-Video", category="Reelwire/loaders",
            description="Loads LTX-Video 0.9.0 to 0.9.8 (2B, 13B, distilled) from a diffusers folder or a single file. Nothing is downloaded.",
            search_aliases=["ltxv", "video model", "lightricks"],
            inputs=[
                io.Combo.Input("checkpoint", options=list(host.checkpoints("ltx")),
                               tooltip="A file in models/checkpoints or models/diffusion_models, a folder in models/diffusers, or the bundled tiny model"),
                io.Combo.Input("text_encoder", options=[host.AUTO, *host.files("text_encoders")], default=host.AUTO, advanced=True,
                               tooltip="T5-XXL. auto: the folder's own, else the T5-XXL file in models/text_encoders"),
                io.Combo.Input("vae", options=[host.AUTO, *host.files("vae")], default=host.AUTO, advanced=True,
                               tooltip="auto: the one that comes with the checkpoint"),
                io.Combo.Input("precision", options=list(host.PRECISIONS), default=host.AUTO, advanced=True,
                               tooltip="auto: bfloat16 where the card computes in it, else float32"),
            ],
            outputs=[VideoModelType.Output(display_name="model")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        try:
            host.choose("checkpoint", checkpoint, host.checkpoints("ltx"))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, text_encoder: str, vae: str, precision: str) -> list[float]:
        """Load again when a file was replaced."""
        known = host.checkpoints("ltx") | host.files("text_encoders") | host.files("vae")
        return [host.changed(known[name]) for name in (checkpoint, text_encoder, vae) if name in known]

    @classmethod
    def execute(
        cls, checkpoint: str, text_encoder: str = host.AUTO, vae: str = host.AUTO, precision: str = host.AUTO
    ) -> io.NodeOutput:
        from ..loaders.ltx import LTX
        from ..loaders.ltx_files import read_ltx

        source = host.choose("checkpoint", checkpoint, host.checkpoints("ltx"))
        files = {"checkpoint": source}
        if vae != host.AUTO:
            files["vae"] = host.choose("vae", vae, host.files("vae"))
        read_ltx(source, files.get("vae"))  # what is wrong with the checkpoint is told before what is missing beside it
        text = _text_encoder(source, text_encoder)
        files |= {"text_encoder": text, "tokenizer": _tokenizer(source, text)}
        return io.NodeOutput(LTX().load(Recipe("ltx", "", files, host.precision(precision)), host.HostMemory()))


def _text_encoder(source: Path, chosen: str) -> Path:
    if chosen != host.AUTO:
        return host.choose("text_encoder", chosen, host.files("text_encoders"))
    if (source / "text_encoder").is_dir():
        return source / "text_encoder"
    found = {
        name: path
        for name, path in host.files("text_encoders").items()
        if "t5xxl" in name.lower() and "umt5" not in name.lower()
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise CheckpointError(f"text_encoder = auto: {', '.join(found)} could all serve. Choose one of them.")
    raise CheckpointError(
        f"{source.name} holds no text encoder. Put t5xxl_fp16.safetensors (9.8 GB) or t5xxl_fp8_e4m3fn.safetensors (4.9 GB), "
        "published as comfyanonymous/flux_text_encoders, into models/text_encoders."
    )


def _tokenizer(source: Path, text_encoder: Path) -> Path:
    """The tokenizer folder beside the text encoder that is used, else the host's T5 tokenizer."""
    beside = source / "tokenizer"
    return beside if beside.is_dir() and text_encoder.parent == source else host.t5_tokenizer()


NODES = [LoadLTX]
