"""Are rows that join and leave a batch what they are alone? Tried before a model is served in batches."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from caikit_pt.base_model.loading.memory import is_out_of_memory
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Batch, Decoding
from caikit_pt.base_model.serving.side import ServingSide
from caikit_pt.base_model.trials.sample import agrees, some_ids, window

_LOG = logging.getLogger(__name__)
_LARGEST_WINDOW = 512


def check_batching(serving: ServingSide, static: bool = False) -> bool:
    """Whether rows that join and leave a batch are what they are alone; a log line where they aren't.

    `static`: a batch whose steps have few shapes.
    """
    try:
        with torch.inference_mode():
            wrong = _wrong_in_batches(serving, serving.static_batch() if static else serving.growing_batch())
    except Exception as error:  # whatever a model does with what it doesn't know
        if is_out_of_memory(error):
            # Says nothing of the model, and must not be remembered of it.
            raise
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        how = "with steps of many shapes" if static else "one request at a time"
        _LOG.warning("%s is served %s: %s", serving.text.checkpoint.name, how, wrong)
    return not wrong


def _wrong_in_batches(serving: ServingSide, batch: Batch) -> str:
    """What differs, in words: a row is joined by two others, one of which leaves.

    Where rows have to start together only these are together.
    """
    text = some_ids(serving.text)
    part = serving.text.checkpoint.prompt_parts[0]
    some = serving.weights.embed(text) * 1.1
    # Longer than what the model's narrowest layer sees, where reading that much takes no minutes.
    reach = window(serving.text, _LARGEST_WINDOW)
    long = (text * (reach // len(text) + 2))[: reach + len(text)]
    rows = [Row({part: some[:3]}, text[:2]), Row({}, long), Row({part: some[2:7]}, text[:4])]
    running: list[tuple[Row, Decoding]] = []
    logits: list[Tensor] = []

    def join(*joining: Row) -> None:
        prefill = serving.batched_prefill(joining)
        while prefill.columns:
            prefill.advance(3)
        batch.join(prefill)
        running.extend((row, serving.start([row])) for row in joining)
        logits.extend(prefill.logits)

    def differs() -> bool:
        expected = [plain.logits[0] for _, plain in running]
        return any(not agrees(a, b, serving.weights.dtype) for a, b in zip(expected, logits, strict=True))

    def step() -> None:
        tokens = torch.tensor(text[3 : 3 + len(running)], device=serving.weights.device)
        logits[:] = batch.advance(tokens)
        for token, (_, plain) in zip(tokens, running, strict=True):
            plain.advance(token[None])

    late = serving.shift_invariant
    join(*(rows[:1] if late else rows[:2]))
    step()
    if differs():
        return "its answers would differ when a step is taken"
    if late:
        join(rows[1], rows[2])
        step()
    if differs():
        return "its answers would differ when a row joins"
    batch.leave(0)
    running[0] = running[-1]
    running.pop()
    logits.pop()
    step()
    return "its answers would differ when a row leaves" if differs() else ""
