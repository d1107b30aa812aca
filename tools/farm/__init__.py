"""A list of jobs, made by the ComfyUIs of several workers: one file for each, whatever ends on the way."""
