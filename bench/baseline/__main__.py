"""python -m bench.baseline             fails where one costs over 10% more than in bench/baseline.json
python -m bench.baseline --write     puts a dated entry with the present ratios behind the others
python -m bench.baseline --only import "decode wan"

Each ratio is the pack's cost over that of a reference, both measured in this run, in turn, in seconds of the processor
or in bytes; one that is over is measured up to twice more.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def commit() -> str:
    """The commit that is checked out, short; empty outside of a repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def main() -> int:
    """1 where something costs more than it did."""
    from reelwire.bench.baseline.check import add, check, latest
    from reelwire.bench.baseline.measures import all_measures, costs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*all_measures()], default=[*all_measures()], metavar="NAME")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    baseline = {} if options.write else latest()
    ratios, faults = check(costs(options.only), baseline)
    print("| cost | ratio | baseline |\n|---|---:|---:|")
    print(
        "\n".join(
            f"| {name} | {ratio:.3f} | {latest().get(name, float('nan')):.3f} |" for name, ratio in ratios.items()
        )
    )
    if options.write:
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        add({**latest(), **ratios}, today, commit(), {name: version(name) for name in ("torch", "diffusers")})
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    from bench.pack import import_pack

    import_pack()
    sys.exit(main())
