"""A name becomes a directory, a fingerprint, and one frozen copy per (weights, data type, device).

Causal and seq2seq models differ only in here.
"""
