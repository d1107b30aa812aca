"""What ComfyUI imports to see whether there is a card; this folder is on the path of such a ComfyUI alone.

It hides itself when it was found once: transformers and diffusers would use an NPU's own kernels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
import card
from card import group

card.attach(int(os.environ["REELWIRE_CARD_BYTES"]), int(os.environ["REELWIRE_CARD_COUNT"]))
group.register()
if os.environ["REELWIRE_CARD_DYNAMIC"] == "1":
    from card import dynamic

    dynamic.enable()
sys.modules[__name__] = None  # type: ignore[assignment]
