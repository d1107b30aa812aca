"""Which tests run with `--extensive` alone: those that differ from one that always runs in the model and in nothing else."""

from __future__ import annotations

import re

# models of whose kind another one is always tried
ALIKE = (
    r"tiny-(hunyuan-i2v-concat|wan2\.1-(i2v|flf2v)|wan2\.2-i2v-a14b|cogvideox-(2b|5b|5b-i2v)\b|cogvideox1\.5-5b\b"
    r"|ltx-0\.9\.0|svd\b(?!-xt))"
)
# part of a test's name -> the parameters that are left out
LEFT_OUT = {
    "test_tiles.py::": r"ltx 0\.9\.[01]\b",  # 0.9.5 has the same code for tiles, and more of it
    "test_tiles.py::test_encoding_goes_on_in_tiles": r"mochi|hunyuan",
    "test_tiles.py::test_decoding_goes_on_in_tiles_in_the_middle": r"mochi|hunyuan",
    "test_caches.py::test_every_form_of_guidance": r"hunyuan|wan",
    "test_caches.py::test_skipping_changes": r"hunyuan-i2v|vace|cogvideox1\.5-5b-i2v",
    "test_caches.py::test_a_run_leaves_nothing_behind": r"a14b",
    "test_caches.py::test_where_nothing_is_skipped": ALIKE,
    "test_caches.py::test_with_compiled_blocks": r"hunyuan|mochi|cogvideox",
    "test_caches.py::test_memory_is_what_was_said": r"wan|cogvideox",
    "test_card_engine.py::": ALIKE,
    "test_host_memory.py::": f"card-.*{ALIKE}",
    "test_reads.py::": ALIKE,
    "test_host_memory.py::test_every_family": ALIKE,
    "test_long_video.py::test_every_family": ALIKE,
    "test_estimate.py::test_every_variant": r"ltx/0\.9\.[1-7]|cogvideox/5b|720p|i2v-13b-concat|svd/svd\b(?!-xt)",
    "test_estimate.py::test_a_forward_is_imagined": ALIKE,
    "test_estimate.py::test_forwards_are": ALIKE,
    "test_refused_at_load.py::test_a_folders_configs": ALIKE,
    "test_kernels.py::test_a_kernel_in_compiled_blocks": r"hunyuan|mochi",
}
_RULES = [(name, re.compile(rf"\[.*(?:{parameters})")) for name, parameters in LEFT_OUT.items()]


def is_extensive(nodeid: str) -> bool:
    """Whether a test is left out where nobody asks for all of them."""
    return any(name in nodeid and rule.search(nodeid) for name, rule in _RULES)
