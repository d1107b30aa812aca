"""The note of a template, in English and Chinese: what it makes, its files and cards, how to swap the model, its prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CARDS, FILES, MEMORY, WORDS = (
    json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in ("cards", "files", "memory", "words")
)
LANGUAGES = ("en", "zh")
FITS, MOVES = "fits", "fits with weights moved"  # of Estimate
FOLDERS = ("bundled/", "diffusers/")  # whose entries are no files, so that the page cannot offer them
Prompt = Mapping[str, Mapping[str, Any]]


def named(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """(node, file or folder) for each model that a twin names."""
    for name, node in prompt.items():
        for value in node["inputs"].values():
            if isinstance(value, str) and value in FILES:
                yield name, value


def models(prompt: Prompt) -> dict[str, list[dict[str, str]]]:
    """Node -> its `properties.models`, from which the page offers what is missing. Names are as the widgets show them."""
    found: dict[str, list[dict[str, str]]] = {}
    for node, file in dict.fromkeys(named(prompt)):
        if not file.startswith(FOLDERS):
            entry = {"name": file, "url": FILES[file]["url"], "directory": file.split("/")[0]}
            found.setdefault(node, []).append(entry)
    return found


def note(name: str, prompt: Prompt) -> str:
    """The Markdown of a template's note, one language after the other."""
    return "\n\n---\n\n".join(("*中文说明在下方。*", *("\n\n".join(_told(name, prompt, word)) for word in LANGUAGES)))


def _told(name: str, prompt: Prompt, language: str) -> Iterator[str]:
    card, words = CARDS[name], {key: texts[LANGUAGES.index(language)] for key, texts in WORDS.items()}
    pick = lambda texts: texts[LANGUAGES.index(language)]
    yield f"## {card['zh'] if language == 'zh' else card['title']}"
    yield pick(card["makes"])
    yield f"**{words['files']}**"
    yield "\n".join(_files(prompt, words)) or words["bundled"]
    if name in MEMORY:
        yield f"**{words['cards']}**"
        yield "\n".join(_cards(MEMORY[name], words))
        yield words["zeros"].format(**MEMORY[name]["defaults"])
    if tips := card.get("tips"):
        yield f"**{words['tips']}**"
        yield "\n".join(f"- {pick(tip)}" for tip in tips)
    yield f"**{words['swap']}**"
    yield words["how"]
    if card.get("prompt_zh"):
        yield f"**{words['prompts']}**"
        yield "\n".join(f"- {text}" for text in (*_prompts(prompt), card["prompt_zh"]))


def _files(prompt: Prompt, words: Mapping[str, str]) -> Iterator[str]:
    files = list(dict.fromkeys(file for _, file in named(prompt)))
    for file in files:
        folder, short = file.split("/")
        size = f", {FILES[file]['gb']} GB" if FILES[file]["gb"] else ""
        yield f"- [{short}]({FILES[file]['url']}) → `models/{folder}`{size}"
    if files:
        yield f"\n{words['offered']}"


def _cards(told: Mapping[str, Any], words: Mapping[str, str]) -> Iterator[str]:
    """From which card on each size runs, and from which on nothing waits in RAM."""
    for row in told["rows"]:
        size, frames = row["size"].split(", ")
        whole, least = (
            min((int(gb) for gb, said in row["cards"].items() if said in verdicts), default=None)
            for verdicts in ((FITS,), (FITS, MOVES))
        )
        key = "never" if least is None else "waits" if whole is None else "both" if least < whole else "whole"
        yield f"- {size}, " + words[key].format(frames=frames, whole=whole, least=least)


def _prompts(prompt: Prompt) -> list[str]:
    texts = [node["inputs"]["positive"] for node in prompt.values() if node["class_type"] == "ReelwireEncodePrompt"]
    return list(dict.fromkeys(filter(None, texts)))
