"""Tiny models and what they are run with."""
