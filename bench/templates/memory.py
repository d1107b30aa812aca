"""Asks Estimate on which cards each template runs, and how long it takes there; keeps the answers in memory.json. No
weights are read.

python bench/templates/memory.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelwire.loaders.request import Request
    from reelwire.loaders.video_model import VideoModel
    from reelwire.samplers.estimate.count import Estimate, Machine, Span

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
SECOND_PASS = "second pass"  # which belongs to a first one and is no size of its own


def asked(card: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What Estimate says of a template. defaults: of the variant; ram: GB of all weights; rows: what fits where by
    size, the template's own first and then the largest, with the time on each class of cards in both languages."""
    from reelwire.loaders.parts import PlainMemory
    from reelwire.loaders.request import Request
    from reelwire.samplers.estimate.count import GIB, card_of, estimate
    from reelwire.tests.support.files.published import published

    model = published(card["variant"], folder, PlainMemory(), storage=card.get("storage", ""))
    machine = card_of(80, card.get("most_on_card", 0) * GIB)
    first, settings = Request(**card.get("asks", {})), _settings(card)
    result, usual = estimate(model, first, machine), model.complete(Request())
    passes = [Request(**asks) for asks in card.get("passes", ())] or [replace(first, **settings)]
    names = ("width", "height", "frames", "steps", "guidance")
    return {
        "defaults": {n: getattr(usual, n) for n in names} | {"fps": model.facts.fps, **card.get("defaults", {})},
        "ram": round(result.ram / 1e9, 1),
        "rows": [
            {
                "size": f"{r.width}x{r.height}, {r.frames}",
                "cards": {str(gb): said for gb, said in verdicts.items()},
                "time": _times(
                    model, passes if r is result.fits[0][0] else [Request(preset=r.preset, **settings)], machine
                ),
            }
            for r, verdicts in result.fits
            if r is result.fits[0][0] or SECOND_PASS not in r.preset
        ],
    }


def _settings(card: Mapping[str, Any]) -> dict[str, Any]:
    """Steps and guidance that a template has in place of its model's; of several passes each has its own."""
    if "passes" in card:
        return {}
    return {name: value for name, value in card.get("defaults", {}).items() if name in ("steps", "guidance")}


def _times(model: VideoModel, passes: list[Request], machine: Machine) -> dict[str, list[str]]:
    """Class of cards -> how long the passes take there together, in both languages; without those where it fits not."""
    from reelwire.samplers.estimate.cards import in_words
    from reelwire.samplers.estimate.count import estimate

    results = [estimate(model, request, machine) for request in passes]
    spans = {memory: _together(results, memory) for memory in results[0].fits[0][1]}
    return {
        str(memory): [said_in(in_words(span), language) for language in LANGUAGES]
        for memory, span in spans.items()
        if span
    }


def _together(results: list[Estimate], memory: int) -> Span | None:
    """Seconds of all passes on a class of cards."""
    spans = [time.seconds for result in results for time in result.times if time.memory == memory]
    sides = [span for span in spans if span]
    return (sum(s[0] for s in sides), sum(s[1] for s in sides)) if sides and len(sides) == len(spans) else None


def said_in(text: object, language: str) -> str:
    """A message in a language of locales/."""
    key = getattr(text, "key", "")
    if language == "en" or not key:
        return str(text)
    file = HERE.parent.parent / "locales" / language / "main.json"
    texts = json.loads(file.read_text(encoding="utf-8"))["reelwire"]["messages"]
    values = getattr(text, "values", {})
    return str(texts[key].format_map({name: said_in(value, language) for name, value in values.items()}))


def main() -> dict[str, Any]:
    """Twin -> what was told of its card; written to memory.json too."""
    sys.path.insert(0, str(HERE.parent))
    from pack import import_pack

    import_pack()
    cards = json.loads((HERE / "cards.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        answers = {name: asked(card, Path(folder)) for name, card in cards.items() if "variant" in card}
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in answers.items()
    )
    (HERE / "memory.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    print(f"Asked for {', '.join(answers)}.")
    return answers


if __name__ == "__main__":
    main()
