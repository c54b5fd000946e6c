"""Rows that are read, join a batch, get a token a step and leave."""
