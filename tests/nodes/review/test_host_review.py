"""Prompt Review in a real ComfyUI: what passes, what waits, and who may decide."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from reelwire.tests.support.host import Host, Prompt, cached, node

ROUTE = "/reelwire/review"


def graph(prompt: str, words: str = "bear", **changes: Any) -> Prompt:
    return {
        "1": node("ReelwirePromptReview", prompt=prompt, words=words, **changes),
        "2": node("PreviewAny", source=["1", 0]),
    }


def known(host: Host, prompt: str) -> dict[str, Any]:
    (case,) = [each for each in host.get(ROUTE)["prompts"] if each["text"] == prompt]
    return case


def passes(host: Host, prompt: Prompt) -> None:
    entry = host.post(prompt)
    if "1" not in cached(entry):
        assert entry["outputs"]["2"]["text"] == [prompt["1"]["inputs"]["prompt"]]


def test_a_held_prompt_passes_once_it_is_released(host: Host) -> None:
    text = "a bear, released"
    refusal = host.refuse(graph(text))
    case = known(host, text)
    assert case["id"] in refusal.message
    assert ROUTE in refusal.message
    assert "“bear”" in refusal.message
    assert (case["state"], case["matched"], case["count"]) == ("held", ["bear"], 1)
    host.refuse(graph(text))
    assert known(host, text)["count"] == 2

    status, answer = host.send(ROUTE, {"id": case["id"], "action": "release"})
    assert (status, answer["state"], answer["by"], answer["address"]) == (200, "released", "default", "127.0.0.1")
    assert f"prompt {case['id'][:12]}: released by default (127.0.0.1)" in host.tail()
    passes(host, graph(text))
    assert "1" in cached(host.post(graph(text))), "nothing is encoded anew"


def test_another_text_or_another_entry_is_another_decision(host: Host) -> None:
    text = "a bear and a wolf"
    host.refuse(graph(text))
    host.send(ROUTE, {"id": known(host, text)["id"], "action": "release"})
    passes(host, graph(text))
    host.refuse(graph(f"{text} "))
    host.refuse(graph(text, "bear\nwolf"))
    assert (known(host, text)["state"], known(host, text)["matched"]) == ("held", ["bear", "wolf"])


def test_a_decision_is_taken_back_whatever_the_host_keeps(host: Host) -> None:
    text = "a bear, dropped"
    host.refuse(graph(text))
    case = known(host, text)["id"]
    host.send(ROUTE, {"id": case, "action": "release"})
    passes(host, graph(text))
    host.send(ROUTE, {"id": case, "action": "drop"})
    assert "default" in host.refuse(graph(text)).message
    host.send(ROUTE, {"id": case, "action": "undo"})
    host.refuse(graph(text))
    assert known(host, text)["state"] == "held"


def test_what_comes_by_a_link_is_looked_at_too(host: Host) -> None:
    text = "a bear by a link"
    prompt = graph("", action="block") | {"3": node("PrimitiveStringMultiline", value=text)}
    prompt["1"]["inputs"]["prompt"] = ["3", 0]
    assert "“bear”" in host.refuse(prompt).message
    assert not [each for each in host.get(ROUTE)["prompts"] if each["text"] == text], "block holds nothing"


def test_a_linked_prompt_is_asked_anew_where_the_list_or_a_decision_changed_alone(host: Host) -> None:
    (host.base / "input" / "linked.txt").write_text("wolf", encoding="utf-8")
    prompt = graph("", file="linked.txt") | {"3": node("PrimitiveStringMultiline", value="a bear, linked")}
    prompt["1"]["inputs"]["prompt"] = ["3", 0]
    host.refuse(prompt)
    case = known(host, "a bear, linked")["id"]
    host.send(ROUTE, {"id": case, "action": "release"})
    assert "1" not in cached(host.post(prompt))
    assert {"1", "2"} <= {*cached(host.post(prompt))}, "what follows is made anew at each queue"
    (host.base / "input" / "linked.txt").write_text("lynx", encoding="utf-8")
    assert "1" not in cached(host.post(prompt))
    host.send(ROUTE, {"id": case, "action": "drop"})
    host.refuse(prompt)


def test_blocked_before_it_is_queued(host: Host) -> None:
    status, answer = host.queue(graph("a bear", action="block"))
    assert status == 400
    assert "“bear”" in json.dumps(answer, ensure_ascii=False)


def test_an_action_that_there_is_not(host: Host) -> None:
    status, answer = host.queue(graph("a deer", action="never"))
    assert status == 400
    assert "action" in answer["node_errors"]["1"]["errors"][0]["details"]


def test_a_list_in_a_file(host: Host) -> None:
    (host.base / "input" / "list.txt").write_text("\ufeff熊\n", encoding="utf-8")
    assert "熊" in host.refuse(graph("一只熊", "", file="list.txt", action="block")).message
    passes(host, graph("一只狗", "", file="list.txt", action="block"))
    (host.base / "input" / "list.txt").write_text("狗\n", encoding="utf-8")
    host.refuse(graph("一只狗", "", file="list.txt", action="block"))
    user = host.base / "user" / "default"
    user.mkdir(parents=True, exist_ok=True)
    (user / "other.txt").write_text("cat", encoding="utf-8")
    host.refuse(graph("a cat", "", file="other.txt", action="block"))


@pytest.mark.parametrize(
    "file",
    ["nothing.txt", "../outside.txt", "/etc/hostname.txt", "__reelwire/review.txt", "tiny_clip.mp4", "latin.txt"],
)
def test_a_file_that_cannot_be_read_lets_nothing_pass(host: Host, file: str) -> None:
    (host.base / "input" / "latin.txt").write_bytes("béar".encode("latin-1"))
    assert "file" in host.refuse(graph("anything", "", file=file)).message


def test_an_empty_list_is_said(host: Host) -> None:
    entry = host.post(graph("a bear", "# nothing yet"))
    assert [json.loads(text)["key"] for text in entry["outputs"]["1"]["reelwire"]] == ["review_no_words"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"id": "' + b"0" * 32 + b'", "action": "release"}', {}, 404),
        (b'{"id": "' + b"0" * 32 + b'", "action": "open"}', {}, 400),
        (b'{"id": "x", "action": "drop"}', {}, 400),
        (b"[" * 500, {}, 400),
        (b"x" * 5000, {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Origin": "http://elsewhere.example"}, 403),
        (b"{}", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_what_is_sent_is_judged(host: Host, body: bytes, headers: dict[str, str], status: int) -> None:
    request = urllib.request.Request(host.url + ROUTE, body, {"Content-Type": "application/json", **headers})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=30)
    with refusal.value:
        assert refusal.value.code == status


def test_the_hosts_own_routes_do_not_reach_the_list(host: Host) -> None:
    host.refuse(graph("a bear, hidden"))
    for path in ("/userdata/..%2F__reelwire%2Freview.json", "/api/userdata/review.json"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            host.read(path)
        refusal.value.close()
