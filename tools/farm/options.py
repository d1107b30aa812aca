"""What a person writes after `run.py farm`. Standard library only: run.py reads it before anything is installed."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The list, the workflow, and who makes the files."""
    parser.add_argument("jobs", type=Path, help="a JSON object a line, or a CSV: names of inputs and their values")
    parser.add_argument("--workflow", type=Path, required=True, metavar="FILE", help="in ComfyUI's API form")
    parser.add_argument("--address", default="", metavar="HOST:PORT", help="of a Ray cluster; without it, this machine")
    parser.add_argument("--workers", type=int, default=0, help="at most; without it, one for each card")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the files; without it, beside the list")
    parser.add_argument("--save", default="", metavar="NODE", help="the number of the node whose file is meant")
