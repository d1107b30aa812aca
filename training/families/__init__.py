"""Tiny models of further families on the same world: each file is one process with one thread."""
