"""The note of a template in English and Chinese: what it makes, its files, cards, licence and prompts, how to swap the
model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCALES = HERE.parent.parent / "locales"
CARDS, FILES, MEMORY, WORDS, CHOOSE = (
    json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("cards", "files", "memory", "words", "choose")
)
LANGUAGES = ("en", "zh")
FITS, MOVES, FAILS = "fits", "fits with weights moved", "does not fit"  # of Estimate
FOLDERS = ("bundled/", "diffusers/")  # whose entries are no files, so that the page cannot offer them
STOCK = {"UpscaleModelLoader": "upscale_models", "FrameInterpolationModelLoader": "frame_interpolation"}  # with folders
Prompt = Mapping[str, Mapping[str, Any]]


def named(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """(node, file or folder) for each model that a twin names; ComfyUI's own loaders leave out the folder."""
    for name, node in prompt.items():
        folder = STOCK.get(node["class_type"])
        for value in node["inputs"].values():
            file = f"{folder}/{value}" if folder else value
            if isinstance(file, str) and file in FILES:
                yield name, file


def value_of(node: Mapping[str, Any], file: str) -> str:
    """A file as the widget of a node of a twin names it."""
    return file.split("/", 1)[1] if node["class_type"] in STOCK else file


def models(prompt: Prompt) -> dict[str, list[dict[str, str]]]:
    """Node -> its `properties.models`, from which the page offers what is missing, by the names of the widgets."""
    entries: dict[str, list[dict[str, str]]] = {}
    for node, file in dict.fromkeys(named(prompt)):
        if not file.startswith(FOLDERS):
            entry = {"name": value_of(prompt[node], file), "url": FILES[file]["url"], "directory": file.split("/")[0]}
            entries.setdefault(node, []).append(entry)
    return entries


def note(name: str, prompt: Prompt) -> str:
    """The Markdown of a template's note, one language after the other."""
    return "\n\n---\n\n".join(("*中文说明在下方。*", *("\n\n".join(_note(name, prompt, word)) for word in LANGUAGES)))


def _note(name: str, prompt: Prompt, language: str) -> Iterator[str]:
    card, names = CARDS[name], _names(language)
    pick = lambda texts, **more: texts[LANGUAGES.index(language)].format(**names, **more)
    yield f"## {card['zh'] if language == 'zh' else card['title']}"
    yield pick(card["makes"])
    yield f"**{pick(WORDS['files'])}**"
    yield "\n".join(_files(prompt)) or pick(WORDS["bundled"])
    if list(named(prompt)):
        yield pick(WORDS["offered"])
    if name in MEMORY:
        yield f"**{pick(WORDS['cards'])}**"
        yield "\n".join((pick(WORDS["row"]), "| --- | --- | --- | --- |", *_rows(name, language)))
        yield "\n".join(f"- {pick(WORDS[key], **facts)}" for key, facts in _cards(MEMORY[name]["rows"]))
        yield pick(WORDS["zeros"], **MEMORY[name]["defaults"])
        yield pick(WORDS["licence"], licence=_licence(name, language))
    if tips := card.get("tips"):
        yield f"**{pick(WORDS['tips'])}**"
        yield "\n".join(f"- {pick(tip)}" for tip in tips)
    yield f"**{pick(WORDS['swap'])}**"
    yield pick(WORDS["how"])
    if card.get("prompt_zh"):
        yield f"**{pick(WORDS['prompts'])}**"
        yield "\n".join(f"- {text}" for text in (*_prompts(prompt), card["prompt_zh"]))


def _names(language: str) -> dict[str, str]:
    """How the page calls the pack's nodes in a language, by their ids without the pack's name."""
    nodes = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return {name.removeprefix("Reelwire"): node["display_name"] for name, node in nodes.items()}


def _files(prompt: Prompt) -> Iterator[str]:
    for file in dict.fromkeys(file for _, file in named(prompt)):
        folder, short = file.split("/")
        size = f", {FILES[file]['gb']} GB" if FILES[file]["gb"] else ""
        yield f"- [{short}]({FILES[file]['url']}) → `models/{folder}`{size}"


def _rows(name: str, language: str) -> Iterator[str]:
    """One line of the table of cards for each class: the largest usual size that runs there, and how long it takes."""
    say = lambda key: CHOOSE["words"][key][LANGUAGES.index(language)]
    for gb in MEMORY[name]["rows"][0]["cards"]:
        row = largest(MEMORY[name]["rows"], gb)
        cells = row and (sized(row, language), say(row["cards"][gb]), row["time"][gb][LANGUAGES.index(language)])
        yield f"| {gb} GB | {' | '.join(cells or (say(FAILS), '', ''))} |"


def largest(rows: Sequence[Mapping[str, Any]], gb: str) -> Mapping[str, Any] | None:
    """The row of the largest video that runs on a class of cards."""
    pixels = lambda row: math.prod(int(side) for side in re.findall(r"\d+", row["size"]))
    return max((row for row in rows if row["cards"][gb] != FAILS), key=pixels, default=None)


def sized(row: Mapping[str, Any], language: str) -> str:
    """The size and the frames of a row."""
    size, frames = row["size"].split(", ")
    return str(CHOOSE["words"]["sized"][LANGUAGES.index(language)]).format(size=size, frames=frames)


def _licence(name: str, language: str) -> str:
    model = next(model for model in CHOOSE["models"] if name in model["twins"])
    return linked(CHOOSE["licences"][model["licence"]], language)


def linked(named: Sequence[str], language: str) -> str:
    """A name in a language, with its address: of [English, Chinese, address]."""
    return f"[{named[LANGUAGES.index(language)]}]({named[-1]})"


def _cards(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(word, what it says) of each size whose answer differs from that of a larger one: from which card on it runs, and
    from which on nothing waits in RAM."""
    before: set[tuple[int | None, int | None]] = set()
    for row in rows:
        size, frames = row["size"].split(", ")
        whole, least = (
            min((int(gb) for gb, said in row["cards"].items() if said in verdicts), default=None)
            for verdicts in ((FITS,), (FITS, MOVES))
        )
        if (whole, least) not in before:
            key = "never" if least is None else "waits" if whole is None else "both" if least < whole else "whole"
            yield key, {"size": size, "frames": frames, "whole": whole, "least": least}
        before.add((whole, least))


def _prompts(prompt: Prompt) -> list[str]:
    """What the twin's nodes are asked for."""
    texts: list[str] = []
    for node in prompt.values():
        texts += [node["inputs"].get(name, "") for name in ("positive", "value")]
        texts += [part["text"] for part in json.loads(node["inputs"].get("timeline", "{}")).get("prompts", ())]
    return list(dict.fromkeys(text for text in texts if text and isinstance(text, str)))
