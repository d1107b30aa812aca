"""Mechanisms: what of a forward pass is stored, and how it is put back. One file each; `base` has the contract."""
