"""Tokens: what each family makes of a text and an answer. No weights are needed."""
