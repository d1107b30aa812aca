"""Work for several workers: where it is done, and lists of prompts and seeds that they share among them."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..loaders.messages import InputError, message
from ..loaders.request import MODES, MOST_WORKERS, Mode, Parallel
from ..loaders.video_model import VideoModel
from . import host
from .sampling.inputs import seed_input
from .types import model_input, model_output, node_schema, whole_input
from .words import models_with

MOST_JOBS = 10_000  # of a list


class SetParallel(io.ComfyNode):
    """Parallel (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireParallel",
            display_name="Parallel (Video)",
            category="Reelwire/model",
            description="Spreads sampling over several cards: jobs, as prompts and seeds of lists, over those of this "
            "machine or of a Ray cluster; or one clip over those of this machine.",
            search_aliases=[
                "ray",
                "multi gpu",
                "multigpu",
                "distributed",
                "cluster",
                "batch",
                "workers",
                "并行",
                "多显卡",
                "多卡",
                "分布式",
                "集群",
            ],
            inputs=[
                model_input(),
                io.String.Input(
                    "address",
                    default="",
                    tooltip="Of a Ray cluster that this machine belongs to, as 10.0.0.5:6379; empty: the cards of this "
                    "machine",
                ),
                whole_input("workers", 0, (0, MOST_WORKERS), "How many at most; 0: one for each card"),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="jobs",
                    optional=True,
                    tooltip="jobs: each video on a worker of its own. One clip on all: context shares out its tokens "
                    f"({models_with('split_tokens')}), branches the two passes of guidance, experts the two "
                    f"networks of {models_with('two_experts')}",
                ),
            ],
            outputs=[model_output("The same model, sampled by workers; the one that came in stays as it is")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, address: str | None = None) -> bool | str:
        from ..samplers.parallel.address import check_address

        return host.valid((check_address, address))

    @classmethod
    def execute(cls, model: VideoModel, address: str = "", workers: int = 0, mode: Mode = "jobs") -> io.NodeOutput:
        from ..samplers.parallel.address import check_reachable, check_there
        from ..samplers.parallel.clip.check import check_parallel

        choice = Parallel(address.strip(), workers, mode)
        check_parallel(choice)
        if not choice.splits_clip:
            check_there()
            check_reachable(choice.address)
        return io.NodeOutput(replace(model, parallel=choice))


class PromptList(io.ComfyNode):
    """Prompts and Seeds (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "ReelwirePromptList",
            "Prompts and Seeds (Video)",
            "conditioning",
            "Lists of prompts and seeds, for Encode Prompt and Video Sampler: ComfyUI makes one video for each entry, "
            "and with Parallel several at a time.",
            ["batch", "list", "queue", "variations", "prompts", "批量", "列表", "多个提示词", "种子"],
            [
                io.String.Input(
                    "prompts", multiline=True, default="", tooltip="One prompt a line; empty lines are left out"
                ),
                whole_input("seeds", 1, (1, MOST_JOBS), "How many seeds each prompt is made with"),
                seed_input("The first seed; the others count up from it", io.ControlAfterGenerate.fixed),
            ],
            [
                io.String.Output(
                    display_name="positive",
                    is_output_list=True,
                    tooltip="For Encode Prompt, each as often as it has seeds",
                ),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="For the seed of Video Sampler"),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None = None, seeds: int | None = None) -> bool | str:
        return host.valid((_checked_lines, prompts, seeds))

    @classmethod
    def execute(cls, prompts: str, seeds: int = 1, seed: int = 0) -> io.NodeOutput:
        lines = _checked_lines(prompts, seeds)
        texts = [line for line in lines for _ in range(seeds)]
        return io.NodeOutput(texts, [(seed + number) % 2**64 for _ in lines for number in range(seeds)])


def _checked_lines(prompts: str, seeds: int) -> list[str]:
    """The prompts; raises InputError where there is none, or too many."""
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if not lines:
        raise InputError("prompts", message("no_lines"), message("prompts_lines_rule"), message("write_prompts"))
    if len(lines) * seeds > MOST_JOBS:
        rule = message("jobs_most", most=MOST_JOBS)
        raise InputError("prompts, seeds", f"{len(lines)}, {seeds}", rule, message("use_farm"))
    return lines


NODES = [SetParallel, PromptList]
