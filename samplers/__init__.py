"""A VideoModel becomes latents, and latents become frames. Nothing here imports the host."""
