"""What the live view costs: the sampling, and the page."""
