"""What runs inside caikit's server: the trainer, the data sources, errors with their status."""
