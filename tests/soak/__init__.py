"""Hundreds of mixed runs of one ComfyUI, and what they leave behind: `python -m tests.soak --help`."""
