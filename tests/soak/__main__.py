"""`python -m tests.soak`, from the root of the repository."""

from __future__ import annotations

import sys

from bench.pack import import_pack

if __name__ == "__main__":
    import_pack()
    from reelwire.tests.soak.command import main

    sys.exit(main(sys.argv[1:]))
