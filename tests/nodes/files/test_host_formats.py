"""Formats of files on a real host: where the file lies, what the page is told, and what is refused before sampling."""

from __future__ import annotations

import av
import pytest
from reelwire.tests.support.host import Host, Prompt, workflow


def prompt(**inputs: object) -> Prompt:
    """A short video of the bundled model."""
    graph = workflow("any_t2v")
    for node in graph.values():
        if node["class_type"] == "ReelwireSampler":
            node["inputs"] |= {"steps": 2, "frames": 9}
        if node["class_type"] == "ReelwireDecodeToVideo":
            node["inputs"] |= inputs
    return graph


@pytest.mark.parametrize(
    ("name", "codec", "save_output"),
    [("webm (VP9)", "vp9", True), ("gif", "gif", False), ("mov (ProRes 422 HQ)", "prores", False)],
)
def test_a_file_lies_where_the_page_is_told(host: Host, name: str, codec: str, save_output: bool) -> None:
    entry = host.post(prompt(format=name, save_output=save_output, filename_prefix="formats/a"))
    (shown,) = next(output["images"] for output in entry["outputs"].values() if output.get("images"))
    assert shown["type"] == ("output" if save_output else "temp")
    file = host.base / shown["type"] / shown["subfolder"] / shown["filename"]
    with av.open(str(file)) as video:
        assert video.streams.video[0].codec_context.name == codec
        assert sum(1 for _ in video.decode(video=0)) == 9
    other = "output" if shown["type"] == "temp" else "temp"
    assert not (host.base / other / shown["subfolder"] / shown["filename"]).exists()


def test_too_many_frames_for_a_gif_are_refused_before_sampling(host: Host) -> None:
    refusal = host.refuse(prompt(format="gif", fps=60.0))
    assert "50" in refusal.message
    assert "ReelwireSampler" not in refusal.done


def test_a_long_video_of_another_format(host: Host) -> None:
    """Its keyframe comes by a link, so that the node is asked before it runs too."""
    graph = workflow("ltx_long", {"11.steps": 2, "11.format": "webm (VP9)", "11.fps": 25.0})
    (shown,) = host.post(graph)["outputs"]["11"]["images"]
    assert shown["filename"].endswith(".webm")
    too_fast = workflow("ltx_long", {"11.format": "gif", "11.fps": 60.0})
    assert host.refuse(too_fast).done == ()
