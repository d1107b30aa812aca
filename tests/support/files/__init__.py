"""Files in the makers' layouts, and damaged ones."""
