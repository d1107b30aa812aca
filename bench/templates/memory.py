"""Asks Estimate on which cards each template runs, and keeps the answers in memory.json; no weights are read.

python bench/templates/memory.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def asked(card: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """{"rows": what fits where by size, the largest first, "defaults": of the variant} of Estimate."""
    from reelwire.loaders.parts import PlainMemory
    from reelwire.loaders.request import Request
    from reelwire.samplers.estimate.count import GIB, card_of, estimate
    from reelwire.tests.support.models.published import published

    model = published(card["variant"], folder, PlainMemory(), storage=card.get("storage", ""))
    result = estimate(model, Request(**card.get("asks", {})), card_of(80, card.get("most_on_card", 0) * GIB))
    usual = model.complete(Request())
    rows = [
        {"size": f"{r.width}x{r.height}, {r.frames}", "cards": {str(gb): said for gb, said in verdicts.items()}}
        for r, verdicts in result.fits
    ]
    names = ("width", "height", "frames", "steps", "guidance")
    return {
        "defaults": {n: getattr(usual, n) for n in names} | {"fps": model.facts.fps, **card.get("defaults", {})},
        "rows": rows,
    }


def main() -> dict[str, Any]:
    """Twin -> what was told of its card; written to memory.json too."""
    sys.path.insert(0, str(HERE.parent))
    from pack import import_pack

    import_pack()
    cards = json.loads((HERE / "cards.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        answers = {name: asked(card, Path(folder)) for name, card in cards.items() if "variant" in card}
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in answers.items())
    (HERE / "memory.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    print(f"Asked for {', '.join(answers)}.")
    return answers


if __name__ == "__main__":
    main()
