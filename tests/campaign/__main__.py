"""`python -m tests.campaign`, from the root of the repository."""

from __future__ import annotations

import sys

from bench.pack import import_pack

if __name__ == "__main__":
    from tests.campaign.sandbox import alone

    network = alone()  # before torch starts threads, of which only a process without may leave its namespace
    import_pack()
    from reelwire.tests.campaign.command import main

    sys.exit(main(sys.argv[1:], network))
