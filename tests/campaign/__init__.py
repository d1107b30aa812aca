"""Files and prompts of strangers, thousands of them from a seed: `python -m tests.campaign --help`."""
