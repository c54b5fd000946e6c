"""Records -> examples -> batches -> updates -> a soft prompt. Knows nothing of gRPC or caikit."""
