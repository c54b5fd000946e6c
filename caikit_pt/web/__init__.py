"""OpenAI's API and the studio page: a process of its own, and a client of the server."""
