"""The soft prompt: while it is tuned, what it starts from, where sources are found, on disk."""
