"""Files on disk become a VideoModel. Nothing here imports the host."""
