"""Video files: their formats, and how frames get into them."""
