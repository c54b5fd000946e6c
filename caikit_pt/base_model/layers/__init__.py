"""The arithmetic of frozen layers: fast, exact, and the same for every family."""
