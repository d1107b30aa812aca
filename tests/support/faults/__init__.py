"""Faults at every write of the product: what can be written, what can fail, and what is left afterwards."""
