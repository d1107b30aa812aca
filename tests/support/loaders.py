"""The loader nodes of all families with tiny checkpoints."""

from __future__ import annotations

# loader -> (tiny checkpoint, frames)
LOADERS = {
    "ReelwireLoadHunyuanVideo": ("diffusers/tiny-hunyuan-t2v", 9),
    "ReelwireLoadWan": ("diffusers/tiny-wan2.1-t2v", 9),
    "ReelwireLoadCogVideoX": ("diffusers/tiny-cogvideox-2b", 9),
    "ReelwireLoadMochi": ("diffusers/tiny-mochi", 7),
    "ReelwireLoadLTX": ("diffusers/tiny-ltx-0.9.0", 9),
}
EVERY: dict[str, tuple[str, str, int, dict[str, bool]]] = {
    **{f"{loader} {checkpoint}": (loader, checkpoint, count, {}) for loader, (checkpoint, count) in LOADERS.items()},
    "Wan 2.2 two experts": ("ReelwireLoadWan", "diffusers/tiny-wan2.2-t2v-a14b", 9, {}),
    "Wan 2.2 TI2V": ("ReelwireLoadWan", "diffusers/tiny-wan2.2-ti2v-5b", 9, {}),
    "CogVideoX 1.5": ("ReelwireLoadCogVideoX", "diffusers/tiny-cogvideox1.5-5b", 9, {}),
    "the bundled LTX": ("ReelwireLoadLTX", "bundled/tiny_ltx", 17, {}),
    "SVD": ("ReelwireLoadSVD", "diffusers/tiny-svd", 14, {"pictured": True}),
    "SVD-XT": ("ReelwireLoadSVD", "diffusers/tiny-svd-xt", 25, {"pictured": True}),
}
