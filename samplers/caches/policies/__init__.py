"""Policies: when a step may be reused, one file each."""
