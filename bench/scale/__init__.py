"""What requests cost a server that remembers a million trainings and has a hundred thousand prompts."""
