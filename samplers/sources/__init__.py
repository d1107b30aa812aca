"""What a request brings along: images, masks and clips."""
