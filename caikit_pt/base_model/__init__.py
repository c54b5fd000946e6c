"""A name becomes a directory, a fingerprint, and one frozen copy per (weights, data type, device).

Families of models differ only in here: each is a row of `family` and a file in each of `text`, `training` and
`serving`. What each room may know of the others is drawn in docs/architecture.md, and held by a test.
"""
