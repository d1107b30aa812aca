"""What is kept of earlier steps, so that a step need not be computed whole: one runner, one file for each policy."""
