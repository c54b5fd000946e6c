"""What the guard in front of every RPC costs."""
