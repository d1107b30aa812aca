"""What all VAEs share: streams of frames, tiles, and the way from frames to latents and back."""
