"""What a person does on ComfyUI's page, and sees there."""
