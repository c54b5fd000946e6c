"""Hostile requests and files, each with the refusal that it is to get: `python -m attacks`.

A server of its own is attacked, in directories of its own; the tests run the same. After each attack another
client has to be answered, as if nothing had been.
"""
