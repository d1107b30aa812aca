"""What `bench/native.py` compares: our side and that of ComfyUI's own classes, per family."""
