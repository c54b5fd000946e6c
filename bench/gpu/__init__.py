"""What a GPU makes of all this: is it right there, how near to the hardware, and what if memory is short?

`python -m bench.gpu` takes ten minutes at most on a machine with Python, torch, transformers and peft:
nothing of caikit is imported. A part that fails is a row with its reason. docs/gpu.md says what is measured.
"""
