"""One clip, or many, on several cards and machines; imported where a model says so alone."""
