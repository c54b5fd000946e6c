"""What every model is tried for when it is loaded, or when it is first needed."""
