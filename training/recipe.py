"""What the trained tiny models share: clips, the loss and training of a VAE, latents, noise levels, the stages.

`tiny_ltx.py` trains several sizes in several processes; the others are one process with one thread, of one size.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import world
from .optim import Log, Trainer, slope

BUNDLED = Path(__file__).parent.parent / "loaders" / "bundled"
FRAMES, SIZE = 17, 64
WORDINGS = 4  # prompts of each rendered clip, of encoders that are not trained along

Stage = Callable[[Path], None]


# ---------------------------------------------------------------- the VAE


def crops(
    scenes: list[world.Scene], count: int, rng: random.Random, whole: bool, frames: int = FRAMES, piece: int = 9
) -> tuple[Tensor, Tensor]:
    """Clips [B, 3, T, H, W] and loss weights [B, 1, T, H, W]: object counts 3 times, its outline 5 times.

    piece: frames of a crop, out of the `frames` of a clip.
    """
    clips, masks = [], []
    for _ in range(1 if whole else count):
        clip, mask = world.sample_clip(rng.choice(scenes), frames, SIZE, SIZE, rng)
        if not whole:
            t, y, x = rng.choice(range(0, frames - piece + 1, piece // 2)), rng.randrange(33), rng.randrange(33)
            clip, mask = (v[:, t : t + piece, y : y + 32, x : x + 32] for v in (clip, mask))
        clips.append(clip)
        masks.append(mask)
    mask = torch.stack(masks)
    spread = lambda m: F.max_pool3d(m, (1, 5, 5), 1, (0, 2, 2))
    edge = (spread(mask) - (1 - spread(1 - mask))).clamp(0, 1)
    return torch.stack(clips), 1 + 2 * mask + 4 * edge


def coder_loss(vae: Any, clips: Tensor, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(loss, means of the latents): absolute and squared error by weight, and a little of the divergence."""
    posterior = vae.encode(clips).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    error = vae.decode(posterior.mean + posterior.std * noise).sample - clips
    weight = weight / weight.mean()
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return (error.abs() * weight).mean() + 2 * (error**2 * weight).mean() + 5e-4 * divergence, posterior.mean


@torch.no_grad()
def straighten(vae: nn.Module) -> None:
    """Lets a VAE with causal convolutions begin as nearly linear, or a short training learns little: residual
    branches begin at 0, and what lies between the blocks as an orthogonal map of each voxel by itself."""
    for name, weight in vae.named_parameters():
        if (".resnets." in name and ".conv2." in name) or name.endswith("to_out.0.weight"):
            weight.zero_()
        elif "quant_conv" in name or weight.ndim < 4:
            continue
        elif "shortcut" in name or "sampler" in name or name.split(".")[1] in ("conv_in", "conv_out"):
            rows, columns = weight.shape[:2]
            straight = nn.init.orthogonal_(torch.empty(rows, columns)) * max(1, rows / columns) ** 0.5
            place = [size // 2 for size in weight.shape[2:]]
            if weight.ndim == 5:
                place[0] = weight.shape[2] - 1  # now is the last tap
            weight.mul_(0.3)
            at: tuple[slice | int, ...] = (slice(None), slice(None), *place)
            weight[at] += straight


def _grouped(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """What a group norm computes, by the kernel of layer norms."""
    rows = x.reshape(len(x) * norm.num_groups, -1)
    shape = (1, -1, *[1] * (x.ndim - 2))
    weight, bias = (value.view(shape).to(x.dtype) for value in (norm.weight, norm.bias))
    return F.layer_norm(rows, rows.shape[1:], eps=norm.eps).view_as(x) * weight + bias


def quick_norms(net: nn.Module) -> None:
    """Group norms whose backward in bfloat16 takes less than half of a step."""
    for norm in net.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.forward = partial(_grouped, norm)  # type: ignore[method-assign]


def train_coder(
    vae: nn.Module,
    file: Path,
    steps: int,
    is_matrix: Callable[[str, Tensor], bool],
    late: float = 0.5,
    centred: float = 0.0,
    half: bool = False,
    frames: int = FRAMES,
    piece: int = 9,
    count: int = 6,
) -> None:
    """Trains a VAE on crops, late on each third step on a whole clip; leaves the averaged weights in it.

    late: from which share of the steps on, with a rate that falls.
    centred: weight of the squared means of the latents' channels, for a pipeline that subtracts none.
    half: in bfloat16, which is several times faster where the processor multiplies it.
    frames, piece: of a whole clip and of a crop. count: crops of a step.
    """
    trainer = Trainer(vae, is_matrix, file, seed=1, averaging=0.98)
    log, scenes = Log("vae", trainer.rank), sum(world.split(), [])
    for step, rng, generator in trainer.steps(steps):
        clips, weight = crops(scenes, count, rng, step > int(late * steps) and step % 3 == 0, frames, piece)
        with torch.autocast("cpu", torch.bfloat16, half):
            loss, means = coder_loss(vae, clips, weight, generator)
        if centred:
            loss = loss + centred * means.mean((0, 2, 3, 4)).square().mean()
        log.add(step, trainer.update(loss, 1e-3 * slope(step, steps, 20, late), 3.0))
    vae.load_state_dict(trainer.average)


@torch.no_grad()
def statistics(vae: Any, half: bool = False, frames: int = FRAMES) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each of the latents' channels, over 96 clips."""
    rng, scenes = random.Random(2), sum(world.split(), [])
    clips = [world.sample_clip(rng.choice(scenes), frames, SIZE, SIZE, rng)[0] for _ in range(96)]
    with torch.autocast("cpu", torch.bfloat16, half):
        z = torch.cat([vae.eval().encode(clip[None]).latent_dist.mode() for clip in clips]).float()
    return z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))


def pathless(vae: Any) -> Any:
    """The same VAE, without the work folder's path that from_pretrained writes into its config."""
    clean = type(vae).from_config({k: v for k, v in vae.config.items() if not k.startswith("_")})
    clean.load_state_dict(vae.state_dict())
    return clean


# ---------------------------------------------------------------- latents and noise levels


@torch.inference_mode()
def encode_latents(
    file: Path, copies: int, normalised: Callable[[Tensor], Tensor], half: bool = False, frames: int = FRAMES
) -> None:
    """(scenes, latents in fp16) of rendered training clips. copies: clips of each scene. normalised: a clip
    [1, 3, T, H, W] -> its latents."""
    if file.exists():
        return
    rng, scenes = random.Random(100), world.split()[0] * copies
    clips = (world.sample_clip(scene, frames, SIZE, SIZE, rng)[0] for scene in scenes)
    with torch.autocast("cpu", torch.bfloat16, half):
        torch.save((scenes, torch.cat([normalised(clip[None]) for clip in clips]).half()), file)


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels 0..1, towards the noisy end where place and shape are decided; a tenth uniform."""
    normal = torch.sigmoid(torch.randn(count, generator=generator) * 1.3 + 1.0)
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.1, uniform, normal)


Read = dict[str, Tensor]


@torch.inference_mode()
def read_wordings(file: Path, scenes: Sequence[world.Scene], read: Callable[[list[str]], Read]) -> Read:
    """What frozen encoders read in WORDINGS prompts of each of the clips, in fp16, kept in a file."""
    if not file.exists():
        rng = random.Random(200)
        prompts = [world.training_prompt(scene, rng)[0] for scene in scenes for _ in range(WORDINGS)]
        parts = [read(prompts[i : i + 64]) for i in range(0, len(prompts), 64)]
        half = lambda value: value.half() if value.is_floating_point() else value
        torch.save({name: half(torch.cat([part[name] for part in parts])) for name in parts[0]}, file)
    return dict(torch.load(file, weights_only=True))


def of_clips(read: Read, clips: Tensor, generator: torch.Generator) -> Read:
    """One of the wordings of each of these clips; the rows that no mask of them reaches are left out."""
    chosen = clips * WORDINGS + torch.randint(WORDINGS, clips.shape, generator=generator)
    text = {name: value[chosen] for name, value in read.items()}
    text = {name: value.float() if value.is_floating_point() else value for name, value in text.items()}
    if "mask" not in text:
        return text
    rows = int(text["mask"].sum(1).max())
    return text | {name: text[name][:, :rows] for name in ("text", "mask")}


# ---------------------------------------------------------------- the network


def train_network(
    net: nn.Module,
    file: Path,
    steps: int,
    is_matrix: Callable[[str, Tensor], bool],
    loss: Callable[[random.Random, torch.Generator], Tensor],
    seed: int = 5,
    rate: float = 1.5e-3,
    late: float = 0.5,
) -> None:
    """Trains a network for so many steps and leaves the averaged weights in it. loss: of one step. late: from which
    share of the steps on the rate falls."""
    trainer, log = Trainer(net, is_matrix, file, seed=seed, averaging=0.998), Log(file.stem, 0)
    for step, rng, generator in trainer.steps(steps, every=100):
        log.add(step, trainer.update(loss(rng, generator), rate * slope(step, steps, 80, late), 2.5))
    net.load_state_dict(trainer.average)


# ---------------------------------------------------------------- all of it


def run(description: str, stages: Mapping[str, Stage], assemble: Callable[[Path, Path], None]) -> None:
    """The command of a model that one process with one thread trains: its stages in order, then the folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="work folder; the finished model is OUT/model")
    parser.add_argument("--only", nargs="+", choices=stages, default=list(stages), help="some stages alone")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.only:
        begin = time.monotonic()
        stages[name](out)
        print(f"stage {name}: {time.monotonic() - begin:.0f} s", flush=True)
    if list(stages)[-1] in options.only:
        assemble(out, out / "model")
