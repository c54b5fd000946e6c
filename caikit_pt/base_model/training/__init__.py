"""Losses of batches and their gradients in the soft prompts."""
