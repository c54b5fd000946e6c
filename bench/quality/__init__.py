"""How good a prompt is that is trained with the defaults, or with a search, beside a grid, peft and outsiders."""
