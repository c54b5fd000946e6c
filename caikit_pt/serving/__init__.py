"""Requests -> logits -> tokens -> text. Knows nothing of gRPC or caikit."""
