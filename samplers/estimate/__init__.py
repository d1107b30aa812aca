"""What a run will need, from headers alone: memory, time and cost."""
