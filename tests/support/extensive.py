"""Which tests run with `--extensive` alone: those that differ in nothing but the model from one that always runs."""

from __future__ import annotations

import re

# models of whose kind another one is always tried
ALIKE = (
    r"tiny-(hunyuan-i2v-concat|wan2\.1-(i2v|flf2v)|wan2\.2-i2v-a14b|cogvideox-(2b|5b|5b-i2v)\b|cogvideox1\.5-5b\b"
    r"|ltx-0\.9\.0|svd\b(?!-xt))"
)
# part of a test's name -> the parameters that are left out
LEFT_OUT = {
    # VAEs: 0.9.5 has the same code as the other releases of LTX-Video, and more of it
    "test_tiles.py::": r"(ltx|LTX) 0\.9\.[01]\b",
    "test_tiles.py::test_encoding_goes_on_in_tiles": r"mochi|hunyuan",
    "test_tiles.py::test_decoding_goes_on_in_tiles": r"mochi|hunyuan|wan 2\.2",
    "test_tiles.py::test_no_memory_even": r"mochi|hunyuan|cogvideox",
    "test_streaming_decode.py::": r"ltx 0\.9\.[01]\b",
    "test_streaming_decode.py::test_eight_bits": r"hunyuan|mochi|cogvideox|wan 2\.2",
    "test_streaming_encode.py::": r"ltx 0\.9\.[01]\b",
    "test_streaming_encode.py::test_frames_are_read": r"73-(?!svd)",
    # runs of the engine
    "test_families.py::test_a_run_leaves": ALIKE,
    "test_families.py::test_encoders_are_gone": ALIKE,
    "test_families.py::test_video_to_video": r"True-tiny-(hunyuan|mochi|cogvideox)",
    "test_families.py::test_flow_solvers_agree": r"hunyuan|mochi",
    "test_parity.py::test_frames_equal": ALIKE,
    "test_parity.py::test_one_forward_or_two": ALIKE,
    "test_long_video.py::test_every_family": ALIKE,
    "test_lora.py::test_it_equals_a_merged": r"(mochi|cogvideox|ltx)-(kohya|diffusers)",
    "test_kernels.py::test_a_kernel_in_compiled_blocks": r"hunyuan|mochi|cogvideox",
    "test_trim_text.py::test_with_compiled_blocks": r"i2v-concat",
    # caches
    "test_caches.py::test_every_form_of_guidance": r"hunyuan|wan",
    "test_caches.py::test_skipping_changes": rf"hunyuan-i2v|vace|cogvideox1\.5-5b-i2v|mochi|ti2v|{ALIKE}",
    "test_caches.py::test_a_run_leaves_nothing_behind": r"a14b",
    "test_caches.py::test_where_nothing_is_skipped": rf"i2v-replace|ti2v|{ALIKE}",
    "test_caches.py::test_with_compiled_blocks": r"hunyuan|mochi|cogvideox",
    "test_caches.py::test_with_fp8_weights": r"hunyuan",
    "test_caches.py::test_with_keyframes": r"ltx-0\.9\.0",
    "test_caches.py::test_memory_is_what_was_said": r"wan|cogvideox|mochi",
    "test_calibration.py::test_the_clean_video": ALIKE,
    "test_calibration.py::test_a_plan_computes": r"-(1\.3|3\.0)|mochi",
    # estimates
    "test_estimate.py::test_every_variant": (
        r"ltx/0\.9\.[1-7]|cogvideox/(5b|2b|1\.5-5b\b(?!-))|720p|i2v-13b-concat|svd/svd\b(?!-xt)|2\.1-t2v-14b|2\.2-t2v"
    ),
    "test_estimate.py::test_a_decode_is_counted": r"tiny-(hunyuan-t2v-8|cogvideox-2b-7)",
    "test_estimate.py::test_a_forward_is_imagined": ALIKE,
    "test_estimate.py::test_counting_few_blocks": r"vace",
    "test_estimate.py::test_forwards_are": ALIKE,
    "test_peaks.py::test_a_step_with_a_cache": r"stack",
    # on the pretend card, and under the host's manager
    "test_card_engine.py::": ALIKE,
    "test_card_engine.py::test_it_makes": r"(hunyuan|mochi|cogvideox|wan|svd).*float32",
    "test_card_engine.py::test_tiles": r"hunyuan",
    "test_card_engine.py::test_on_a_second_card": r"hunyuan|mochi",
    "test_peaks_card.py::": r"vace|wan|cogvideox",
    "test_card_workflows.py::test_a_workflow": r"cogvideox_control|ltx_long|svd_i2v",  # test_host_card.py, _long.py
    "test_reads.py::": ALIKE,
    "test_reads.py::test_a_step_reads": r"hunyuan-t2v|vace|ti2v",
    "test_reads.py::test_every_form_of_guidance": r"hunyuan",
    "test_reads.py::test_a_cache_reads": r"wan2\.1-t2v-(?!TeaCache|MagCache|calibration|plan)",
    "test_host_memory.py::": rf"card-.*{ALIKE}",
    "test_host_memory.py::test_every_family": rf"here-tiny-(?!wan2\.1-t2v|wan2\.2-t2v|svd-xt)|{ALIKE}",
    "test_host_memory.py::test_caches_under": r"hunyuan",
    "test_host_memory.py::test_weights_of_eight_bits": r"here-tiny-(?!wan|svd)",
    "test_host_card.py::test_what_is_loaded": r"hunyuan|cogvideox|mochi|ltx|i2v|svd|experts",  # the one after it too
    "test_host_card.py::test_room_that_shrinks": r"mochi|experts|hunyuan\]|wan|cogvideox",
    "test_host_card.py::test_most_on_card": r"dynamic_card_host-(cogvideox|mochi|ltx|svd)|\[card_host-(?!svd)",
    "test_card_estimate.py::test_an_estimate": r"vace|cogvideox|hunyuan",
    "test_card_estimate.py::test_it_warns": r"_long",  # test_host_estimate.py warns of long videos
    # in a real ComfyUI
    "test_host_caches.py::test_a_cache_says": r"first block|taylorseer|FORA|easycache",
    "test_host_families.py::test_asked_sizes": r"two experts|TI2V|CogVideoX 1\.5|Mochi|SVD\]",
    "test_host_families.py::test_video_to_video": r"two experts|CogVideoX 1\.5|SVD\]",
    "test_host_families.py::test_stock_nodes": r"svd",  # 38 s; test_files_svd_cogvideox.py has the host's VAE
    "test_host_estimate.py::test_every_family": r"two experts|CogVideoX 1\.5|SVD\]",
    "test_workflows.py::test_it_makes_a_video": r"\[(wan22_t2v|wan_v2v|ltx_v2v|cogvideox_[iv]2v|mochi_t2v|any_t2v)\]",
    # those of tests/released that make nothing of a kind of their own
    "test_released.py::": (
        r"(any_t2v|any_v2v|ltx_(gguf|i2v|multiscale|t2v|v2v)|wan_(t2v|v2v|i2v|lora_distilled)|wan22_t2v"
        r"|cogvideox_[iv]2v|hunyuan_[ti]2v)\]"
    ),
    "test_refused_at_load.py::test_a_folders_configs": ALIKE,
}
_RULES = [(name, re.compile(rf"(?=\[).*(?:{parameters})")) for name, parameters in LEFT_OUT.items()]


def is_extensive(nodeid: str) -> bool:
    """Whether a test is left out where nobody asks for all of them."""
    return any(name in nodeid and rule.search(nodeid) for name, rule in _RULES)
