"""How good prompts are: trained with the defaults or a search, beside a grid, peft and outsiders."""
