"""Videos side by side, with what each has cost."""

from .node import CompareVideos as CompareVideos

NODES = [CompareVideos]
