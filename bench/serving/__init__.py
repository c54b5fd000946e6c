"""How fast soft prompts are served: by generate(), by transformers' continuous batching, by vLLM, by ours.

Everything in one table is measured in one interleaved run, by CPU time of the process that does the work.
"""
