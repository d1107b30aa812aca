"""Videos longer than a model can sample at once."""
