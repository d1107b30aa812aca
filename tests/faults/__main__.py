"""Every write of the product under every fault: python -m tests.faults [--short] [--hosts N] [--out FILE]

Prints a table: what writes, which fault, how often it was tried, how many runs failed in words and in others, what was
lost, what was half-written under a final name, what was left behind after the next run, and how many next runs came to
the same bytes. Ends with 1 where anything but that is not 0. COMFYUI_DIR names ComfyUI's folder; Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLUMNS = ("point", "fault", "tried", "words", "raw", "lost", "half", "left", "equal")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one call in a few, as in CI")
    parser.add_argument("--hosts", type=int, default=0, help="rounds of two real hosts with one output folder, too")
    parser.add_argument("--out", type=Path, help="where the table goes, as JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "bench"))
    from pack import import_pack

    import_pack()
    from reelwire.tests.support.faults.hosts import two_hosts
    from reelwire.tests.support.faults.table import table

    began, rows = time.monotonic(), []
    print("".join(f"{name:>{width}}" for name, width in zip(COLUMNS, _widths(), strict=True)))
    comfyui = Path(os.environ["COMFYUI_DIR"])
    for row in chain(table(comfyui, options.short), two_hosts(comfyui, options.hosts) if options.hosts else ()):
        rows.append(row)
        values = asdict(row)
        print("".join(f"{values[name]!s:>{width}}" for name, width in zip(COLUMNS, _widths(), strict=True)), flush=True)
        for note in row.notes[:5]:
            print("    ", note)
    print(f"{sum(row.tried for row in rows)} trials in {time.monotonic() - began:.0f} s")
    if options.out:
        table_of = [{name: asdict(row)[name] for name in COLUMNS} for row in rows]
        lines = ",\n ".join(json.dumps(values) for values in table_of)
        options.out.write_text(f"[\n {lines}\n]\n", encoding="utf-8")
    return int(not all(row.is_good for row in rows))


def _widths() -> list[int]:
    return [16, 26, *[7] * (len(COLUMNS) - 2)]


if __name__ == "__main__":
    sys.exit(main())
