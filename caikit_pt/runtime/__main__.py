"""`python -m caikit_pt.runtime`: the server."""

from caikit_pt.runtime.launcher import serve

if __name__ == "__main__":
    serve()
