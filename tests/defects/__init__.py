"""What goes wrong when peft, accelerate and generate are put together the obvious way."""
