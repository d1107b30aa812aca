"""Mechanisms: what of a network's work is kept, and how it is put back."""
