"""The streamed VAEs against diffusers' own, on the CPU in float32. Prints tables and writes bench/vae.json.

python bench/vae.py            frames made, and how far streaming and tiles go from `decode` and `encode` of diffusers
python bench/vae.py --bytes    bytes per pixel that the decoders need at published width (`coders` of the families)
python bench/vae.py --speed    time of the plain decode over that of the streamed one, side by side

The first and the last use the published depths at reduced width with random weights, whose pictures have a deviation of
SPREAD, and two small trained models: only these tell what tiles of space do. Latents are smooth noise, and the trained
ones' are those of a video. The second runs nothing: it counts storages on torch's meta device, in the sizes of use.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parent))
from pack import ROOT, import_pack

if "reelwire" not in sys.modules:
    import_pack()
from reelwire.loaders.families import family
from reelwire.loaders.spec import shipped_config
from reelwire.loaders.vae.tiles import Pieces, Tile, Tiling, tiled
from reelwire.tests.support.fake_peak import Fused, Live
from reelwire.training.tiny_models import new, seeded

OUT = Path(__file__).with_suffix(".json")
SEED, SPREAD, TIME = 7, 0.5, 0.05  # TIME: the decode timestep that LTX.decode_pieces gives
FRAMES = (480, 832), (704, 1280)  # of --bytes
TRAINED = {
    "bundled LTX": ROOT / "loaders" / "bundled" / "tiny_ltx" / "vae",
    "tiny Wan": ROOT / "bench" / "tiny_wan" / "vae",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A VAE: its family and the shipped variant whose config it has ("": a trained model).

    narrow: what the reduced one changes. ratio, step: pixels and frames to a latent. latents: lengths to compare.
    sizes: (height, width, tile) in latent pixels, the last of them for one length alone. fast: (latents, height, width)
    for --speed.
    """

    family: str
    variant: str
    narrow: Mapping[str, Any]
    ratio: int = 8
    step: int = 4
    latents: tuple[int, ...] = (1, 2, 5, 8)
    sizes: tuple[tuple[int, int, int], ...] = ((7, 10, 4), (13, 9, 8))
    fast: tuple[int, int, int] = (5, 14, 18)

    def frames(self, latents: int) -> int:
        return (latents - 1) * self.step + 1

    def clips(self) -> list[tuple[int, tuple[int, int, int]]]:
        """What is compared: (latents, size)."""
        return [(n, self.sizes[0]) for n in self.latents] + [(self.latents[-2], size) for size in self.sizes[1:]]


_GROUPS: dict[str, Any] = dict(block_out_channels=(8, 16, 32, 32), norm_num_groups=4)
_LTX_NEW: dict[str, Any] = dict(block_out_channels=(8, 16, 32, 64, 128), decoder_block_out_channels=(16, 32, 64))
_TRAINED = (13, 18, 8), (26, 34, 8), (26, 34, 16)
_LTX: dict[str, Any] = dict(ratio=32, step=8, fast=(7, 18, 26))
CASES = {
    "Wan 2.1": Case("wan", "2.1-t2v-14b", dict(base_dim=8)),
    "Wan 2.2": Case("wan", "2.2-ti2v-5b", dict(base_dim=8, decoder_base_dim=8), ratio=16, fast=(5, 10, 14)),
    "HunyuanVideo": Case("hunyuan_video", "t2v-13b", _GROUPS, latents=(1, 2, 4, 5, 8, 13)),
    "CogVideoX": Case("cogvideox", "5b", {**_GROUPS, "block_out_channels": (8, 16, 16, 32)}, latents=(1, 3, 5, 13)),
    "Mochi 1": Case(
        "mochi",
        "1-preview",
        dict(encoder_block_out_channels=(32, 64, 64, 96), decoder_block_out_channels=(32, 64, 64, 96)),
        step=6,
        fast=(5, 14, 16),
    ),
    "LTX 0.9.0": Case(
        "ltx", "0.9.0-2b", dict(block_out_channels=(8, 16, 32, 32), decoder_block_out_channels=(8, 16, 32, 32)), **_LTX
    ),
    "LTX 0.9.1": Case(
        "ltx", "0.9.1-2b", dict(block_out_channels=(8, 16, 32, 32), decoder_block_out_channels=(16, 32, 64)), **_LTX
    ),
    "LTX 0.9.5 to 0.9.8": Case("ltx", "0.9.5-2b", _LTX_NEW, **_LTX),
    "SVD": Case(
        "svd", "svd-xt", dict(block_out_channels=(32, 32, 32, 32)), step=1, latents=(14, 25), fast=(14, 14, 18)
    ),
    "bundled LTX": Case("ltx", "", {}, latents=(1, 2, 5, 8, 13), sizes=_TRAINED, fast=(13, 24, 32)),
    "tiny Wan": Case("wan", "", {}, latents=(1, 2, 5, 8, 13), sizes=_TRAINED, fast=(13, 24, 32)),
}
PUBLISHED = {name: case for name, case in CASES.items() if case.variant}


@cache
def reduced(name: str) -> Any:
    """The VAE of a case with reduced width, whose pictures have a deviation of SPREAD; a trained one as it is."""
    case = CASES[name]
    if name in TRAINED:
        import diffusers

        kind = json.loads((TRAINED[name] / "config.json").read_text())["_class_name"]
        return getattr(diffusers, kind).from_pretrained(TRAINED[name]).eval().requires_grad_(False)
    config = {k: v for k, v in shipped_config(case.family, case.variant, "vae").items() if not k.startswith("latents_")}
    kind = config.pop("_class_name")
    vae = new(kind, **{**{k: v for k, v in config.items() if not k.startswith("_")}, **case.narrow})
    last = next(getattr(vae.decoder, n) for n in ("time_conv_out", "proj_out", "conv_out") if hasattr(vae.decoder, n))
    for weight in last.parameters():
        weight.data.mul_(1e-3)  # far from where Wan clamps
    factor = SPREAD / plain(case, vae, smooth(case, vae, max(case.latents), *case.sizes[0][:2])).std()
    for weight in last.parameters():
        weight.data.mul_(factor)
    return vae


def smooth(case: Case, vae: Any, latents: int, height: int, width: int, seed: int = SEED) -> Tensor:
    """Latents [1, C, t, h, w] that vary slowly in space and time; of a trained VAE, those of such a video."""
    if not case.variant:
        return _latents_of_a_video(case, vae, latents, height, width)
    return _slow(vae.config.get("latent_channels") or vae.config.z_dim, latents, height, width, 3, seed)


def _slow(channels: int, frames: int, height: int, width: int, across: int, seed: int) -> Tensor:
    with seeded(seed):
        few = torch.randn(1, channels, -(-frames // 2) + 1, -(-height // across) + 1, -(-width // across) + 1)
    smooth = F.interpolate(few, (frames, height, width), mode="trilinear", align_corners=True)
    return smooth / smooth.std()


def _latents_of_a_video(case: Case, vae: Any, latents: int, height: int, width: int) -> Tensor:
    """Of discs that drift over a slope, as the models were trained on."""
    count, high, wide = case.frames(latents), height * case.ratio, width * case.ratio
    t, y, x = torch.meshgrid(torch.arange(count), torch.arange(high), torch.arange(wide), indexing="ij")
    video = torch.stack([(y / high - 0.5) * k for k in (0.6, 0.3, -0.5)])
    for i, colour in enumerate(((0.8, -0.6, -0.7), (-0.7, 0.5, 0.9), (0.9, 0.8, -0.8))):
        middle = (high * (2 * i + 1) / 6, wide * (i + 1) / 4)
        disc = (y - middle[0]) ** 2 + (x - middle[1] - t * (i - 1)) ** 2 < (min(high, wide) / 5) ** 2
        video = torch.where(disc, torch.tensor(colour).view(3, 1, 1, 1), video)
    with torch.no_grad():
        return vae.encode(video[None]).latent_dist.mode()


def _time(vae: Any) -> Tensor | None:
    return torch.full((1,), TIME) if vae.config.get("timestep_conditioning") else None


def plain(case: Case, vae: Any, z: Tensor) -> Tensor:
    """diffusers' own decode [1, 3, T, H, W]; LTX 0.9.1 draws its noise from torch's own generator."""
    with seeded(SEED), torch.no_grad():
        if case.family == "svd":
            pictures = vae.decode(z[0].transpose(0, 1), num_frames=z.shape[2]).sample
            return pictures.transpose(0, 1)[None]
        if case.family == "ltx":
            return vae.decode(z, temb=_time(vae)).sample
        return vae.decode(z).sample


def streamed(case: Case, vae: Any, z: Tensor, tiling: Tiling = Tiling()) -> Iterator[Tensor]:  # noqa: B008
    """Our decode, as pieces."""
    coder = family(case.family)
    stage: Callable[[Pieces, Tile], Pieces] = lambda part, tile: coder.decode_pieces(vae, part, tile, SEED)
    return tiled(stage, iter(z.split(1, 2)), tiling.rows(*z.shape[3:]))


def diffusers_tiled(case: Case, vae: Any, z: Tensor, pixels: int) -> Tensor | None:
    """diffusers' own tiles of space, overlapping by a quarter; None for SVD, which has none."""
    if case.family == "svd":
        return None
    size = dict(tile_sample_min_height=pixels, tile_sample_min_width=pixels)
    if case.family == "cogvideox":
        more = dict(tile_overlap_factor_height=0.25, tile_overlap_factor_width=0.25)
    else:
        more = dict(tile_sample_stride_height=pixels * 3 // 4, tile_sample_stride_width=pixels * 3 // 4)
    vae.enable_tiling(**size, **more)
    try:
        return plain(case, vae, z)
    finally:
        vae.disable_tiling()


def gap(ours: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest and mean difference."""
    if ours.shape != expected.shape:
        raise ValueError(f"{tuple(ours.shape)} instead of {tuple(expected.shape)}")
    distance = (ours.double() - expected.double()).abs()
    return {"max": float(f"{distance.max():.3g}"), "mean": float(f"{distance.mean():.3g}")}


# ---------------------------------------------------------------- differences


def decode_row(name: str, latents: int, height: int, width: int, across: int) -> Row:
    """How far streaming, tiles and, for SVD, chunks of time go from plain."""
    case, vae = CASES[name], reduced(name)
    z = smooth(case, vae, latents, height, width)
    expected = plain(case, vae, z)
    decoded = torch.cat(list(streamed(case, vae, z)), 2)
    parts = torch.cat(list(streamed(case, vae, z, Tiling(across, offload_state=case.family != "svd"))), 2)
    theirs = diffusers_tiled(case, vae, z, across * case.ratio)
    row: Row = {
        "vae": name,
        "latents": latents,
        "pixels": [height * case.ratio, width * case.ratio],
        "expected": case.frames(latents),
        "made": decoded.shape[2],
        "deviation": round(expected.std().item(), 3),
        "streamed": gap(decoded, expected),
        "tile": across * case.ratio,
        "tiled": gap(parts, expected),
    }
    if theirs is not None and theirs.shape == expected.shape:
        row |= {"diffusers_tiled": gap(theirs, expected), "tiled_to_diffusers_tiled": gap(parts, theirs)}
    if case.family == "svd":
        row["chunks"] = gap(torch.cat(list(streamed(case, vae, z, Tiling(0, True))), 2), expected)
    return row


def encode_row(name: str, latents: int, height: int, width: int) -> Row:
    """How far the streamed encode is from diffusers' own, in the posterior's mean and log variance."""
    case, vae, count = CASES[name], reduced(name), CASES[name].frames(latents)
    pixels = _slow(3, count, height * case.ratio, width * case.ratio, case.ratio, SEED).div(2).clamp(-1, 1)
    with torch.no_grad():
        if case.family == "svd":
            expected = torch.stack([vae.encode(frame).latent_dist.parameters for frame in pixels.unbind(2)], 2)
        else:
            expected = vae.encode(pixels).latent_dist.parameters
        encoded = torch.cat(list(family(case.family).encode_pieces(vae, iter(pixels.split(1, 2)), count)), 2)
    return {
        "vae": name,
        "frames": count,
        "pixels": list(pixels.shape[3:]),
        "latents": encoded.shape[2],
        "streamed": gap(encoded, expected),
    }


def differences() -> dict[str, list[Row]]:
    print(
        f"{'VAE':<19}{'latents':>8}{'pixels':>10}{'frames':>10} |{'streamed':>9} |{'tile':>5}{'max':>9}{'mean':>9}"
        f" |{'diffusers':>9}{'mean':>9} |{'ours to theirs':>15}"
    )
    decode, encode = list[Row](), list[Row]()
    for name, case in CASES.items():
        for latents, size in case.clips():
            decode.append(decode_row(name, latents, *size))
            print(_decode_line(decode[-1]), flush=True)
    print(f"\n{'VAE':<19}{'frames':>8}{'pixels':>10}{'latents':>8} |{'streamed encode':>16}")
    for name, case in CASES.items():
        for latents in case.latents:
            encode.append(encode_row(name, latents, *case.sizes[0][:2]))
            row = encode[-1]
            print(
                f"{name:<19}{row['frames']:>8}{_size(row):>10}{row['latents']:>8} |{row['streamed']['max']:>16.1e}",
                flush=True,
            )
    return {"decode": decode, "encode": encode}


def _size(row: Row) -> str:
    return "{1}x{0}".format(*row["pixels"])


def _decode_line(row: Row) -> str:
    frames = f"{row['made']} / {row['expected']}"
    line = f"{row['vae']:<19}{row['latents']:>8}{_size(row):>10}{frames:>10} |{row['streamed']['max']:>9.1e} |"
    line += f"{row['tile']:>5}{row['tiled']['max']:>9.1e}{row['tiled']['mean']:>9.1e} |"
    if "diffusers_tiled" in row:
        line += f"{row['diffusers_tiled']['max']:>9.1e}{row['diffusers_tiled']['mean']:>9.1e} |"
        line += f"{row['tiled_to_diffusers_tiled']['max']:>15.1e}"
    if "chunks" in row:
        line += f"  chunks of time: max {row['chunks']['max']:.1e}, mean {row['chunks']['mean']:.1e}"
    return line


# ---------------------------------------------------------------- memory


@cache
def decoder_alone(name: str) -> Any:
    """The published VAE without its encoder, on the meta device."""
    import diffusers

    config = shipped_config(PUBLISHED[name].family, PUBLISHED[name].variant, "vae")
    with torch.device("meta"):
        vae = getattr(diffusers, config["_class_name"])(**{k: v for k, v in config.items() if not k.startswith("_")})
    vae.encoder = None
    return vae.to("meta").eval().requires_grad_(False)


def bytes_row(name: str, height: int, width: int, offload_state: bool) -> Row:
    """peak: per pixel of a frame; waits: what is held there between two pieces; piece: frames at a time, at most."""
    case, vae, most, waits = PUBLISHED[name], decoder_alone(name), 0, list[int]()
    latents, size = 25 if case.family == "svd" else 9, (height // case.ratio, width // case.ratio)
    with Live() as live, Fused(), torch.no_grad():
        z = torch.zeros(1, vae.config.get("latent_channels") or vae.config.z_dim, latents, *size, device="meta")
        before, tile = live.now, Tile(0, 0, *size, size, offload_state)
        for piece in family(case.family).decode_pieces(vae, iter(z.split(1, 2)), tile, SEED):
            most = max(most, piece.shape[2])
            del piece
            waits.append(live.now - before)
    rounded = lambda n: round(n / height / width)
    coder = family(case.family)
    known = coder.coders[coder.coder(vae.config)]
    assumed = round(known.decoding(1, offload_state, latents, float32=True))
    return {
        "vae": name,
        "pixels": [height, width],
        "latents": latents,
        "offload_state": offload_state,
        "piece": most,
        "peak": rounded(live.peak - before),
        "waits": rounded(waits[len(waits) // 2]),
        "assumed": assumed,
    }


def memory() -> dict[str, list[Row]]:
    print(
        f"{'VAE':<19}{'pixels':>10}{'offload':>8} |{'peak B/px':>10}{'between pieces':>15}{'assumed':>10}{'margin':>8}"
    )
    rows = list[Row]()
    for name in PUBLISHED:
        for size, offload_state in product(FRAMES, (False, True)):
            rows.append(bytes_row(name, *size, offload_state))
            row = rows[-1]
            known = f"{row['peak']:>10}{row['waits']:>15}{row['assumed']:>10}{row['assumed'] / row['peak'] - 1:>8.0%}"
            print(f"{name:<19}{_size(row):>10}{offload_state!s:>8} |{known}", flush=True)
    return {"bytes": rows}


# ---------------------------------------------------------------- speed


@contextmanager
def _clock(into: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into.append(time.perf_counter() - start)


class OneKernel(TorchFunctionMode):
    """The same convolution for both: by itself torch takes its slow one on the CPU where channels x frames x rows are
    20480 or fewer (ConvParams::use_mkldnn), and so for pieces of these narrow networks but not for whole clips."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is not F.conv3d or kwargs:
            return call(*args, **(kwargs or {}))
        x, weight, bias, stride, padding, dilation, groups = args
        padding = padding if isinstance(padding, tuple) else (padding,) * 3
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)


def speed_row(name: str, rounds: int) -> Row:
    """Plain and streamed in turns; the ratio is the median of the rounds' own."""
    case, vae = CASES[name], reduced(name)
    z, ours, theirs = smooth(case, vae, *case.fast), list[float](), list[float]()
    for _ in range(rounds + 1):  # the first warms up
        with torch.no_grad(), OneKernel():
            with _clock(theirs):
                plain(case, vae, z)
            with _clock(ours):
                for _piece in streamed(case, vae, z):
                    pass
    ratios = [a / b for a, b in zip(theirs[1:], ours[1:], strict=True)]
    return {
        "vae": name,
        "latents": case.fast[0],
        "pixels": [v * case.ratio for v in case.fast[1:]],
        "plain_s": round(median(theirs[1:]), 3),
        "streamed_s": round(median(ours[1:]), 3),
        "ratio": round(median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }


def speed(rounds: int, names: Iterable[str]) -> dict[str, list[Row]]:
    print(f"{'VAE':<19}{'latents':>8}{'pixels':>10} |{'plain s':>8}{'streamed s':>11}{'ratio':>7}  (from, to)")
    rows = list[Row]()
    for name in names:
        rows.append(speed_row(name, rounds))
        row = rows[-1]
        times = f"{row['plain_s']:>8.2f}{row['streamed_s']:>11.2f}{row['ratio']:>7.3f}"
        span = f"({row['least']:.3f}, {row['most']:.3f})"
        print(f"{name:<19}{row['latents']:>8}{_size(row):>10} |{times}  {span}", flush=True)
    return {"speed": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", action="store_true", help="memory at published width")
    parser.add_argument("--speed", action="store_true", help="plain against streamed")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed")
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=[*CASES], help="VAEs of --speed; the file stays as it is"
    )
    options = parser.parse_args()
    results = memory() if options.bytes else speed(options.rounds, options.only) if options.speed else differences()
    if [*options.only] == [*CASES]:
        before = json.loads(OUT.read_text()) if OUT.exists() else {}
        lines = {k: "[\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for k, rows in {**before, **results}.items()}
        OUT.write_text("{\n " + ",\n ".join(f'"{k}": {v}' for k, v in lines.items()) + "\n}\n")


if __name__ == "__main__":
    main()
