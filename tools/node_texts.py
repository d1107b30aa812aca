"""Writes locales/en/nodeDefs.json from the nodes' schemas: `COMFYUI_DIR=... python -m tools.node_texts [--check]`.

ComfyUI's page shows the file in place of the schemas, so that English is a language like all others. `--check` writes
nothing, and ends with 1 where the file differs. The texts of other languages are translations, kept by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bench.pack import ROOT, import_pack
else:  # as a program the repository's root is where Python looks first
    from bench.pack import ROOT, import_pack

FILE = ROOT / "locales" / "en" / "nodeDefs.json"
# tooltips that name what is installed on this machine: the page takes them from the schema
LOCAL = {("ReelwireSpeed", "attention")}

Texts = dict[str, Any]


def texts_of(schema: Any) -> Texts:
    """The texts of one node in the form of nodeDefs.json."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {each.id: _input_texts(schema.node_id, each) for each in schema.inputs},
        "outputs": {
            str(index): {"name": each.display_name, "tooltip": each.tooltip}
            for index, each in enumerate(schema.outputs)
        },
    }


def _input_texts(node: str, field: Any) -> Texts:
    """A label and a tooltip. The label of a socket is no `display_name`, which would hide all translations."""
    label = field.display_name or getattr(field, "socket_label", field.id)
    return {"name": label} if (node, field.id) in LOCAL else {"name": label, "tooltip": field.tooltip}


def node_texts(comfyui: Path) -> dict[str, Texts]:
    """The texts of all nodes, by their ids, in the order in which the pack lists them."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import_pack()
    from reelwire.nodes import ReelwireExtension

    schemas = [node.GET_SCHEMA() for node in asyncio.run(ReelwireExtension().get_node_list())]
    return {schema.node_id: texts_of(schema) for schema in schemas}


def main() -> int:
    """1 where --check sees a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, end with 1 where the file differs")
    check = parser.parse_args().check
    texts = node_texts(Path(os.environ["COMFYUI_DIR"]))
    present: dict[str, Texts] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    changed = sorted(name for name in texts.keys() | present.keys() if texts.get(name) != present.get(name))
    print(f"{len(changed)} of {len(texts)} nodes differ: {', '.join(changed)}" if changed else "Nothing differs.")
    if check:
        return int(bool(changed))
    FILE.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
