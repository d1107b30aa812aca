"""What the pack costs beside what it stands on, as ratios that were measured in one run: `python -m bench.baseline`."""
