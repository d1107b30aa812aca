"""The timeline as a node of its own, and what the page asks the server about one."""

from __future__ import annotations

from comfy_api.latest import io

from .. import host
from .inputs import check_timeline, picture_times, timeline_input


class Timeline(io.ComfyNode):
    """Timeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireTimeline",
            display_name="Timeline (Long Video)",
            category="Reelwire/sampling",
            description="Prompts and pictures on one time axis, with the mouse or the keyboard. Connect it to timeline "
            "of Long Video, whose frames, windows and joins it then shows.",
            search_aliases=[
                "timeline",
                "storyboard",
                "prompt schedule",
                "prompt travel",
                "时间线",
                "分镜",
            ],
            inputs=[
                timeline_input(
                    "Which prompt holds from when on, and pictures of ComfyUI's input folder that the video must show; "
                    "Text shows it as JSON"
                )
            ],
            outputs=[io.String.Output(display_name="timeline", tooltip="For timeline of Long Video")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None) -> bool | str:
        return host.valid((check_timeline, timeline, 0.0, 0))

    @classmethod
    def fingerprint_inputs(cls, timeline: str | None = None) -> list[float]:
        """Make the video again when a picture was replaced."""
        try:
            return [*picture_times(timeline or "")]
        except ValueError:  # told when the node runs
            return []

    @classmethod
    def execute(cls, timeline: str) -> io.NodeOutput:
        check_timeline(timeline, 0.0, 0)
        return io.NodeOutput(timeline)


NODES = [Timeline]
