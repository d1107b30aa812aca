"""Measurements of ranks that sample one clip together."""
