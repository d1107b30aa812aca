"""Prompt Review."""

from __future__ import annotations

import json
import time

from comfy_api.latest import io

from ...loaders.common.emphasis import check_length
from ...loaders.messages import InputError, message, quoted, series
from .. import host
from .store import DROPPED, RELEASED, SHOWN, Case, Store, id_of
from .words import entries_of, matches

BLOCK, HOLD = "block", "hold"
FILE = "review.json"
NAMED = 5  # entries in a message


def store() -> Store:
    """Where prompts wait."""
    return Store(host.own_folder() / FILE)


class ReviewPrompt(io.ComfyNode):
    """Prompt Review."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwirePromptReview",
            display_name="Prompt Review (Video)",
            category="Reelwire/conditioning",
            description="Lets a prompt pass unless it holds a word of your list. Such a prompt ends the run before it "
            "is encoded: it is refused, or held until a person releases it.",
            search_aliases=[
                "word filter",
                "blocklist",
                "banned words",
                "moderation",
                "safety",
                "敏感词",
                "屏蔽词",
                "过滤",
                "审核",
            ],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The text that goes to Encode Prompt; a negative prompt needs a node of its own",
                ),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="",
                    tooltip="The list: a word or a phrase a line. Case, width and accents do not count. Whole words, "
                    "but in Chinese, Japanese, Korean and Thai anything that contains it. Lines with # are remarks",
                ),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="A text file (UTF-8, .txt) with more such lines, in ComfyUI's input or user folder; empty: "
                    "none",
                ),
                io.Combo.Input(
                    "action",
                    options=[HOLD, BLOCK],
                    default=HOLD,
                    optional=True,
                    tooltip="block: the prompt is refused. hold: it waits in the page's sidebar until a person "
                    "releases or drops it",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The same text, for Encode Prompt")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, prompt: str | None = None, words: str | None = None, file: str | None = "", action: str | None = HOLD
    ) -> bool | str:
        return host.valid((_check_action, action), (_check_early, prompt, words, file, action))

    @classmethod
    def fingerprint_inputs(
        cls, prompt: str | None = None, words: str | None = None, file: str = "", action: str = HOLD
    ) -> str:
        """What was decided of a prompt: once that changes, the host asks anew. Of a text that comes by a link, which is
        not known yet, any decision and any change of the list will do."""
        if prompt is None or words is None:
            return f"{host.stamp(store().path)} {host.stamp_of(file.strip()) if file else ''}"
        try:
            found = matches(prompt, _entries(words, file))
            case = store().find(prompt) if found else None
            return f"{found} {None if case is None else (case.state, case.decided, case.matched)}"
        except (ValueError, OSError):
            return str(time.time_ns())  # it is told when it runs

    @classmethod
    def execute(cls, prompt: str, words: str, file: str = "", action: str = HOLD) -> io.NodeOutput:
        check_length("prompt", prompt)
        entries, report = _entries(words, file), host.Report(cls)
        if not entries:
            report.tell(message("review_no_words"))
        found = matches(prompt, entries)
        if found and action == BLOCK:
            raise _blocked(prompt, found)
        if found:
            case = _released(prompt, found)
            values = {"who": case.by, "when": _when(case.decided), "matched": _named(found)}
            report.tell(message("review_released", **values))
        return io.NodeOutput(prompt, ui=report.ui())


def _entries(words: str, file: str) -> tuple[str, ...]:
    """The list of a node; raises InputError for a file that cannot be read."""
    more = entries_of(host.read_text(file, "file"), "file") if file.strip() else ()
    return tuple(dict.fromkeys((*entries_of(words, "words"), *more)))


def _check_action(action: str) -> None:
    """Raise InputError for an action that there is not."""
    if action not in (HOLD, BLOCK):
        raise InputError("action", action, message("takes_a_choice"), message("set_a_choice"))


def _check_early(prompt: str, words: str, file: str, action: str) -> None:
    """Raise InputError for what can be refused before a prompt is queued. Nothing is held yet."""
    check_length("prompt", prompt)
    found = matches(prompt, _entries(words, file))
    if found and action == BLOCK:
        raise _blocked(prompt, found)


def _blocked(prompt: str, found: tuple[str, ...]) -> InputError:
    rule = message("review_blocked", matched=_named(found))
    return InputError("prompt", repr(quoted(prompt, 60)), rule, message("review_change"))


def _released(prompt: str, found: tuple[str, ...]) -> Case:
    """The decision to release a prompt, whatever it was found to hold; raises InputError where there is none."""
    case = store().find(prompt)
    if case is not None and case.state == RELEASED and {*found} <= {*case.matched}:
        return case
    value = repr(quoted(prompt, 60))
    if case is not None and case.state == DROPPED:
        rule = message("review_dropped", who=case.by, when=_when(case.decided), matched=_named(found))
        raise InputError("prompt", value, rule, message("review_undo", request=_request(case, "undo")))
    case = store().hold(prompt, found)
    host.tell_all("reelwire.review", {"held": True})
    rule = message("review_held", matched=_named(found), name=id_of(prompt)[:SHOWN])
    raise InputError("prompt", value, rule, message("review_how", request=_request(case, "release")))


def _request(case: Case, action: str) -> str:
    """What is sent to decide of a case without the page."""
    return json.dumps({"id": case.id, "action": action})


def _named(found: tuple[str, ...]) -> str:
    """The entries that a prompt holds, in words."""
    names = series(quoted(f"“{entry}”", 60) for entry in found[:NAMED])
    return names if len(found) <= NAMED else message("review_more", names=names, count=len(found) - NAMED)


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


NODES = [ReviewPrompt]
