"""Stable Video Diffusion beside the host's own classes: it reads a picture and no text, and its network is a UNet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families import load
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.loaders.parts import Part, Recipe
from reelwire.loaders.request import Conditioning, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.safetensors import read_file
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.tests.support.files.files import plain
from reelwire.tests.support.files.native import randomised
from reelwire.training.tiny_models import make, seeded
from torch import Tensor

LOOK = 32  # width of what the tiny model's CLIP sees
CONFIG = dict(
    use_linear_in_transformer=True,
    use_temporal_attention=True,
    use_temporal_resblock=True,
    num_classes="sequential",
    use_spatial_transformer=True,
    extra_ff_mix_layer=True,
    use_spatial_context=True,
    legacy=False,
    image_size=32,
    merge_strategy="learned_with_images",
    merge_factor=0.0,
    video_kernel_size=[3, 1, 1],
    in_channels=8,
    out_channels=4,
    model_channels=64,
    channel_mult=(1, 2, 4, 4),
    num_res_blocks=[1] * 4,
    transformer_depth=[1] * 3 + [0],
    transformer_depth_middle=1,
    transformer_depth_output=[1] * 6 + [0] * 2,
    context_dim=LOOK,
    adm_in_channels=768,
    num_heads=-1,
    num_head_channels=64,
)
FRAMES, WIDTH, HEIGHT = 14, 192, 128
MOTION = dict(fps=7, motion_bucket_id=127, augmentation_level=0.02)


@dataclass(frozen=True)
class Sides:
    """The same weights on both sides: the host's patcher, and our model whose UNet was read from the native file."""

    patcher: Any
    model: VideoModel
    steps: int
    scale: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the host's latents [T, C, h, w]."""
        return FRAMES, 4, HEIGHT // 8, WIDTH // 8

    def request(self) -> Request:
        image = Keyframe(torch.full((1, HEIGHT, WIDTH, 3), 0.5), 0)
        return Request(WIDTH, HEIGHT, FRAMES, self.steps, self.scale, seed=1, keyframes=(image,))

    def ours(self, **more: Any) -> Tensor:
        conditioning = Conditioning("svd", 0, {"cond": {}, "uncond": {}})
        return sample(self.model, conditioning, plan(self.model, self.request()), **more)

    def theirs(self) -> Tensor:
        import comfy.sample

        with seeded(1):
            noise, image, look = torch.randn(self.shape), torch.randn(1, *self.shape[1:]), torch.randn(1, 1, LOOK)
        positive = [[look, {**MOTION, "concat_latent_image": image}]]
        negative = [[torch.zeros_like(look), {**MOTION, "concat_latent_image": torch.zeros_like(image)}]]
        return comfy.sample.sample(
            self.patcher,
            noise,
            self.steps,
            self.scale,
            "euler",
            "karras",
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )

    def forward(self) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """(ours, theirs): one forward of one branch for the same input."""
        import comfy.model_management as mm

        mm.load_models_gpu([self.patcher])
        network, run = self.patcher.model.diffusion_model, self._prepared()
        inputs = self._inputs(run)
        time = run.schedule.timesteps[:1]
        vector = torch.cat([self.patcher.model.embedder(number) for number in run.ids[0].float().split(1)], 1)

        def ours() -> Tensor:
            with torch.no_grad(), self.model.use("unet") as mine:
                return run.predict(mine, run.latents, 0, "cond")[0]

        def theirs() -> Tensor:
            with torch.no_grad():
                return network(
                    inputs[0],
                    time.repeat(FRAMES),
                    run.embeds["cond"].repeat(FRAMES, 1, 1),
                    vector.repeat(FRAMES, 1),
                    num_video_frames=FRAMES,
                    image_only_indicator=torch.zeros(1),
                )

        return ours, theirs

    @staticmethod
    def _inputs(run: Any) -> Tensor:
        scaled = run.schedule.scheduler.scale_model_input(run.latents, run.schedule.timesteps[0])
        return torch.cat([scaled, run.image_latents["cond"]], 2)

    def _prepared(self) -> Any:
        runs: list[Any] = []

        def stop(run: Any) -> None:
            runs.append(run)
            raise StopIteration

        with suppress(StopIteration):
            self.ours(wrap=stop)
        return runs[0]


def open_sides(folder: Path, steps: int, scale: float) -> Sides:
    import comfy.model_management as mm
    import comfy.model_patcher
    from comfy.supported_models import SVD_img2vid
    from reelwire.nodes.host.memory import HostMemory

    config = SVD_img2vid(dict(CONFIG))
    config.set_inference_dtype(torch.float32, None)
    with seeded(1):
        native = config.get_model({}, "", mm.unet_offload_device())
        state = randomised(native.diffusion_model)
    file = folder / "svd.safetensors"
    plain(file, state)
    patcher = comfy.model_patcher.CoreModelPatcher(native, mm.get_torch_device(), mm.unet_offload_device())
    tiny = load(Recipe("svd", "", files_of(make("tiny-svd", folder)), "float32"), HostMemory())
    weights = svd_files.transformer(read_file(file)[0], {"file": file.name})
    assert weights is not None
    part = Part("unet", lambda progress: weights.build(torch.float32, True, "", progress))
    return Sides(patcher, replace(tiny, parts={**tiny.parts, "unet": part}), steps, scale)
