"""Every kind of file for the families whose layouts have tests of their own: CogVideoX, LTX-Video, SVD."""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.loaders.weights.stored import Stored
from reelwire.tests.support.files import KINDS, SMALL
from reelwire.tests.support.native.networks import NETWORKS, differ

SVD_KINDS = (
    "fp8",
    "scaled fp8, new",
    "GGUF Q8_0",
    "int8 convrot",
    "nvfp4",
)  # its UNet takes long; wide kinds are in test_files_svd_cogvideox
CASES = [(family, kind) for family in NETWORKS for kind in KINDS if family != "svd" or kind in SVD_KINDS]


@pytest.mark.parametrize(("family", "file_kind"), CASES)
def test_a_file_computes_what_the_host_computes(tmp_path: Path, family: str, file_kind: str) -> None:
    difference, largest, ours = differ(tmp_path / "network.safetensors", family, file_kind)
    stored = sum(isinstance(layer, Stored) for layer in ours.modules())
    assert (stored > 5) == (file_kind in SMALL)
    assert largest > 0.1
    assert difference < max(NETWORKS[family][3], 2e-3 if "GGUF" in file_kind else 0) * max(1.0, largest)
