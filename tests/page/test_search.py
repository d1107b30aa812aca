"""What the page's own search finds for the words that people type, in English and in Chinese pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.page.node_views import film
from reelwire.tests.support.page.pages import choose_language, load, reload

if TYPE_CHECKING:
    from playwright.sync_api import Page

STORES = 'document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s'
# the page loads how often nodes are used a second after it is there, and ranks by it from then on
RANKS = f"() => {STORES}.get('nodeFrequency')?.isLoaded"
# the service behind the search box and the node library
SEARCH = f"""words => {{
    const search = {STORES}.get("nodeDef").nodeSearchService;
    const names = word => search.searchNode(word, [], {{ limit: 64 }}).map(node => node.name);
    return Object.fromEntries(words.map(word => [word, names(word)]));
}}"""
LORAS_OF_CORE = ("LoraLoader", "LoraLoaderModelOnly")
# what is typed -> (a node that it must find, on which place of the list at the latest). Titles that begin with the word
# come first, then those that hold it, and among them those that are used most: core has 27 nodes that begin with Wan.
WANTED = {
    "text to video": ("ReelwireSampler", 5),
    "t2v": ("ReelwireSampler", 1),
    "image to video": ("ReelwireKeyframe", 4),
    "i2v": ("ReelwireKeyframe", 3),
    "first last frame": ("ReelwireKeyframe", 4),
    "flf2v": ("ReelwireKeyframe", 1),
    "v2v": ("ReelwireSampler", 1),
    "video": ("ReelwireSampler", 6),
    "video model": ("ReelwireLoadWan", 6),
    "sample video": ("ReelwireSampler", 3),
    "sampler": ("ReelwireSampler", 22),
    "hunyuan": ("ReelwireLoadHunyuanVideo", 8),
    "wan": ("ReelwireLoadWan", 20),
    "load wan": ("ReelwireLoadWan", 3),
    "load ltx": ("ReelwireLoadLTX", 3),
    "ltxv": ("ReelwireLoadLTX", 10),
    "mochi": ("ReelwireLoadMochi", 2),
    "cogvideo": ("ReelwireLoadCogVideoX", 1),
    "svd": ("ReelwireLoadSVD", 2),
    "long video": ("ReelwireLongVideo", 1),
    "timeline": ("ReelwireLongVideo", 2),
    "storyboard": ("ReelwireTimeline", 1),
    "keyframe": ("ReelwireKeyframe", 2),
    "cache": ("ReelwireCache", 5),
    "teacache": ("ReelwireTeaCache", 1),
    "vram": ("ReelwireMemory", 3),
    "block swap": ("ReelwireMemory", 1),
    "upscale": ("ReelwireLatentUpscale", 10),
    "save video": ("ReelwireDecodeToVideo", 2),
    "vae decode": ("ReelwireDecode", 8),
    "prompt": ("ReelwireEncodePrompt", 6),
    "sage attention": ("ReelwireSpeed", 1),
}
IN_CHINESE: dict[str, tuple[str, int]] = {
    "文生视频": ("ReelwireSampler", 1),
    "图生视频": ("ReelwireKeyframe", 2),
    "首尾帧": ("ReelwireKeyframe", 2),
    "显存": ("ReelwireMemory", 1),
    "时间线": ("ReelwireLongVideo", 2),
    "分镜": ("ReelwireTimeline", 1),
    "缓存": ("ReelwireCache", 3),
    "关键帧": ("ReelwireKeyframe", 1),
    "提示词": ("ReelwireEncodePrompt", 1),
    "长视频": ("ReelwireLongVideo", 1),
    "混元": ("ReelwireLoadHunyuanVideo", 2),
    "万相": ("ReelwireLoadWan", 2),
    "加速": ("ReelwireSpeed", 3),
    "保存视频": ("ReelwireDecodeToVideo", 2),
}


@pytest.fixture(scope="module")
def found(page: Page) -> dict[str, list[str]]:
    """In an English page, as it is when it has just been opened: whoever has a choice of languages types either."""
    return searched(page)


@pytest.fixture(scope="module")
def found_in_chinese(page: Page) -> Iterator[dict[str, list[str]]]:
    choose_language(page, "zh")
    yield searched(page)
    choose_language(page, "en")


def searched(page: Page) -> dict[str, list[str]]:
    """What each word finds, once the page has its titles in its language."""
    load(page, film("page/search"), "search")  # a page that was just opened keeps nothing
    reload(page)
    page.wait_for_function(RANKS, timeout=60_000)
    return page.evaluate(SEARCH, [*WANTED, *IN_CHINESE, "lora"])


@pytest.mark.parametrize("word", [*WANTED, *IN_CHINESE])
def test_the_right_node_is_among_the_first(found: dict[str, list[str]], word: str) -> None:
    name, place = {**WANTED, **IN_CHINESE}[word]
    assert name in found[word][:place], f"{word!r} finds {found[word][:place]}"


@pytest.mark.parametrize("word", IN_CHINESE)
def test_in_a_chinese_page_too(found_in_chinese: dict[str, list[str]], word: str) -> None:
    name, place = IN_CHINESE[word]
    assert name in found_in_chinese[word][:place], f"{word!r} finds {found_in_chinese[word][:place]}"


def test_people_who_make_images_find_their_lora_loader_first(found: dict[str, list[str]]) -> None:
    ours = found["lora"].index("ReelwireLoRA")
    assert [name for name in LORAS_OF_CORE if found["lora"].index(name) > ours] == []


def test_a_wire_that_is_let_go_offers_what_each_graph_needs(page: Page) -> None:
    """In the page's menu, which has room for four."""
    offered = page.evaluate("() => LiteGraph.slot_types_default_out.VIDEO_MODEL")
    assert {"ReelwireEncodePrompt", "ReelwireSampler", "ReelwireLongVideo"} <= {*offered}
