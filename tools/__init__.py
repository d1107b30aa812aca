"""What developers run on the repository: its structure in numbers, and its types."""
