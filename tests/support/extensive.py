"""Which tests run with `--extensive` alone, beside those that always run.

Most tests are tried on many models, and those of the page in both of its renderers. CI runs each of them on a quarter
of its models, in one renderer, for BUDGET seconds at most, once at the least: which, is chosen by a digest of the
test's name. So every test runs, every model is tried by many tests, and the choice is the same everywhere. Tests in
ALWAYS run on all models but those in LEFT_OUT and FEW: they compare final latents with the reference, or models with
each other. Those in FEW run on a few of their cases, chosen in the same way.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from .seconds import seconds, test_of

SHARE, BUDGET = 4, 2  # one in so many, and the seconds of all cases of a test
CHOICE = re.compile(r"\[.*(hunyuan|wan|cogvideox|mochi|ltx|svd|LiteGraph|Nodes 2\.0)", re.IGNORECASE)
ALWAYS = (
    "test_parity.py",
    "test_ltx_parity.py",
    "test_files_",
    "test_lora.py",
    "test_configs.py",
    "test_refused_at_load.py",
    "test_bad_input.py",
    "test_host_bad_input.py",
    "test_card_workflows.py",
    "test_workflows.py",
    "whole/test_templates.py",
    "test_released.py",
    "::test_only_the_loader_differs",
)
# models of whose kind another one is always tried
ALIKE = (
    r"tiny-(hunyuan-i2v-concat|wan2\.1-(i2v|flf2v|fun-control)|wan2\.2-i2v-a14b|cogvideox-(2b|5b|5b-i2v)\b"
    r"|cogvideox1\.5-5b\b|ltx-0\.9\.0|svd\b(?!-xt))"
)
# part of the name of a test -> the parameters that are left out in any case
LEFT_OUT = {
    "test_parity.py::test_frames_equal": ALIKE,
    "test_parity.py::test_one_forward_or_two": ALIKE,
    "test_lora.py::test_it_equals_a_merged": r"(mochi|cogvideox|ltx)-(kohya|diffusers)",
    "test_card_workflows.py::test_a_workflow": r"cogvideox_control|ltx_long|svd_i2v",  # test_host_card.py, _long.py
    "test_workflows.py::test_it_makes_a_video": r"\[(wan22_t2v|wan_v2v|ltx_v2v|cogvideox_[iv]2v|mochi_t2v|any_t2v)\]",
    "whole/test_templates.py::": r"\[(?!.*\b(?:any_t2v|any_upscaled|ltx_i2v)\b)",  # test_workflows.py runs all of them
    # those that make nothing of a kind of their own
    "test_released.py::": (
        r"(any_t2v|any_v2v|ltx_(gguf|i2v|multiscale|t2v|v2v)|wan_(t2v|v2v|i2v|lora_distilled)|wan22_t2v"
        r"|cogvideox_[iv]2v|hunyuan_[ti]2v)\]"
    ),
    "test_refused_at_load.py::test_a_folders_configs": ALIKE,
    "test_host_families.py::test_stock_nodes": r"svd",  # 50 s; test_files_svd_cogvideox.py has the host's VAE
}
# tests of long cases that differ in their parameters, of which each is tried by others as well -> how many run
FEW = {
    "test_bench.py::test_without_a_card_it_says_so": 1,
    "test_bundled_model.py::test_judge_is_right_on_ground_truth": 2,
    "test_caches.py::test_with_a_lora": 3,
    "test_caches.py::test_with_fp8_weights": 2,
    "test_card_estimate.py::test_it_warns_before_it_starts": 1,
    "test_configs.py::test_names_and_shapes_are_complete": 14,
    "test_configs.py::test_the_hosts_own_class_has_the_same_shapes": 12,
    "test_files_hunyuan_mochi.py::test_a_network_computes_what_the_host_computes": 16,
    "test_files_kinds.py::test_a_file_computes_what_the_host_computes": 16,
    "test_files_quantised.py::test_a_network_computes_what_the_hosts_class_computes": 2,
    "test_files_quantised.py::test_weights_are_the_hosts_to_the_bit": 12,
    "test_files_svd_cogvideox.py::test_cogvideox": 2,
    "test_files_svd_cogvideox.py::test_published_sizes_have_all_their_tensors": 3,
    "test_files_wan.py::test_a_file_computes_what_the_host_computes": 16,
    "test_host_bad_input.py::test_told_in_words": 33,
    "test_host_caches.py::test_a_cache_says_what_it_did": 2,
    "test_host_card.py::test_room_that_shrinks_and_grows": 1,
    "test_host_card.py::test_what_is_loaded_is_used_again": 1,
    "test_host_families.py::test_only_the_loader_differs": 5,
    "test_host_files.py::test_small_weights_survive_eviction": 1,
    "test_inpaint.py::test_every_solver_keeps_the_outside": 2,
    "test_inpaint.py::test_a_white_mask_is_none_and_a_black_one_is_the_source": 1,
    "test_lora.py::test_it_equals_a_merged_checkpoint": 6,
    "test_lora_forms.py::test_it_equals_what_the_library_merges": 20,
    "test_lora_peft.py::test_alphas_and_ranks_as_peft_reads_them": 4,
    "test_ltx_makers.py::test_guidance_of_the_node": 3,
    "test_ltx_parity.py::test_other_samplers_agree_with_euler_in_the_limit": 2,
    "test_page.py::test_the_gallery_shows_our_templates": 1,
    "test_peaks.py::test_a_step_with_a_cache": 1,
    "test_solvers.py::test_the_trained_model_shows_what_prompts_say": 1,
    "test_streaming_encode.py::test_equals_the_reference": 3,
    "test_wan_fun.py::test_every_form_makes_a_video_of_what_it_is_given": 3,
}
_RULES = [(name, re.compile(rf"(?=\[).*(?:{parameters})")) for name, parameters in LEFT_OUT.items()]


def extensive(nodeids: Iterable[str]) -> set[str]:
    """Those of all tests that are left out where nobody asks for all of them."""
    left, choices = set[str](), dict[str, list[str]]()
    for nodeid in nodeids:
        if any(name in nodeid and rule.search(nodeid) for name, rule in _RULES):
            left.add(nodeid)
        elif _few(nodeid) or (CHOICE.search(nodeid) and not any(name in nodeid for name in ALWAYS)):
            choices.setdefault(test_of(nodeid), []).append(nodeid)
    for cases in choices.values():
        by_digest = sorted(cases, key=lambda nodeid: zlib.crc32(nodeid.encode()))
        share = min(-(-len(cases) // SHARE), int(BUDGET / seconds(cases[0])))
        left.update(by_digest[max(1, _few(cases[0]) or share) :])
    return left


def _few(nodeid: str) -> int | None:
    return next((count for name, count in FEW.items() if f"/{name}" in test_of(nodeid)), None)
