"""How fast prompts are tuned: caikit-nlp's loop, what makes it faster step by step, and caikit_pt.

`python -m bench.training` prints Markdown. The models have real shapes and random weights: neither
time nor memory depends on what a model has learnt.
"""
