"""The node Estimate behind a loader, and the machines that it is asked about."""

from __future__ import annotations

import json
from typing import Any

from reelwire.samplers.estimate.count import (
    Machine,
)
from reelwire.tests.support.host import Host, Prompt, node

ZERO = dict(width=0, height=0, frames=0, steps=0, guidance=0.0, preset="default", price=0.0, calibrate=False)


def asked(loader: str, checkpoint: str, **changes: Any) -> Prompt:
    """A loader, Estimate behind it, and its page shown."""
    return {
        "1": node(loader, checkpoint=checkpoint, precision="float32"),
        "2": node("ReelwireEstimate", model=["1", 0], **{**ZERO, **changes}),
        "3": node("PreviewAny", source=["2", 0]),
        "4": node("PreviewAny", source=["2", 1]),
    }


def estimated(host: Host, prompt: Prompt) -> tuple[list[str], str, dict[str, Any]]:
    """(the lines on the node, the page, the numbers)."""
    outputs = host.post(prompt)["outputs"]
    return outputs["2"]["text"], outputs["3"]["text"][0], json.loads(outputs["4"]["text"][0])


GIB = 2**30
ANY = Machine("this processor", 64 * GIB, 64 * GIB, cpu=True)
