"""The configs of LTX-Video's VAEs in the host's own layout."""

from __future__ import annotations

from typing import Any

RES, XY, DOWN = "res_x", ["res_x_y", 1], ["compress_all", 1]
UP = ["compress_all", {"residual": True, "multiplier": 2}]
STACK = lambda n, noise=False: [RES, {"num_layers": n, "inject_noise": noise}]
COMMON = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "latent_channels": 8,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "spatial_padding_mode": "zeros",
}
OLD_ENCODER = [[RES, 1], DOWN, XY, [RES, 1], DOWN, XY, [RES, 1], DOWN, [RES, 1], [RES, 2]]
VAES: dict[str, dict[str, Any]] = {
    "0.9.0": {"blocks": OLD_ENCODER},
    "0.9.1": {
        "encoder_blocks": OLD_ENCODER,
        "decoder_blocks": [STACK(1, True), UP, STACK(2, True), UP, STACK(1, True), UP, STACK(1)],
        "timestep_conditioning": True,
    },
    "0.9.5": {
        "encoder_blocks": [
            [RES, {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 2}],
            [RES, {"num_layers": 2}],
            ["compress_time_res", {"multiplier": 2}],
            [RES, {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            [RES, {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            [RES, {"num_layers": 1}],
        ],
        "decoder_blocks": [STACK(1), UP, STACK(2), UP, STACK(1), UP, STACK(1)],
        "timestep_conditioning": True,
    },
}
