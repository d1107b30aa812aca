"""What families share: flow matching, prompts, images, controls, and what a computation holds at its peak."""
