"""How fast one shape answers, beside generate() and continuous batching; what the host waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.gpu import ceiling, machine, waits
from bench.gpu.graphs import engine, way
from bench.gpu.measure import Measure, Part
from bench.gpu.row import NotThere, Row, judged
from bench.gpu.size import Size

if TYPE_CHECKING:
    from bench.serving.checkpoint import Models
    from bench.serving.contenders import Answers
    from bench.serving.load import Load
    from caikit_pt.serving.engine import Engine
    from caikit_pt.serving.generation import Generation

PART = "serving"
# By rows at once: of the bandwidth of a copy, and tokens a second.
LEAST_BANDWIDTH = {1: 0.6}
LEAST_TOKENS = {64: 2500}
_SHAPES_WITH_GOALS = ("llama-8b", "t5-xl")
_WARM_UP, _CHUNKS = 8, 3
_LONGER = 2  # than a chunk of steps, the answers of rivals
_GENERATE, _CONTINUOUS = "generate()", "transformers' continuous batching"


class Serving:
    """One shape."""

    def __init__(self, size: Size, shape: str) -> None:
        self._size, self._shape = size, shape

    def part(self) -> Part:
        """Ours first; continuous batching, which takes what memory there is, last."""
        size = self._size
        decodes = [
            self._measure(f"decode, {rows} at once, {way(graphs)}", 4, partial(self._decode, rows, graphs))
            for graphs in (False, True)
            for rows in size.rows
        ]
        waiting = [
            Measure(
                waits.PART, self._step(graphs), size.seconds(3, self._shape), partial(self._waits, graphs)
            )
            for graphs in (False, True)
        ]
        rivals = [
            self._measure(f"{name}, {rows} at once", seconds, partial(run, rows))
            for name, seconds, run in ((_GENERATE, 8, self._generate), (_CONTINUOUS, 12, self._continuous))
            for rows in size.rows
        ]
        loaded = self._measure("random weights", 20, self._load)
        read = self._measure(self._reading, 6, self._prefill)
        return Part(f"{PART} {self._shape}", [loaded, *decodes, read, *waiting, *rivals])

    def _measure(self, what: str, seconds: float, run: Callable[[], Iterator[Row]]) -> Measure:
        return Measure(PART, self._of_shape(what), self._size.seconds(seconds, self._shape), run)

    def _load(self) -> Iterator[Row]:
        batched = self._models.base.serving.serves_batched
        found = f"served {'in batches' if batched else 'one by one'}"
        yield judged(PART, self._of_shape("random weights"), found, "in batches", batched)

    def _decode(self, rows: int, graphs: bool) -> Iterator[Row]:
        from bench.serving.alone import bytes_of_a_step
        from bench.training.clock import seconds

        copied = ceiling.bandwidth(self._size.device, self._size.copied)
        steps = self._size.new
        walking = self._walking(rows, graphs, _WARM_UP + _CHUNKS * steps)
        spent = median(seconds(partial(_advance, walking, steps), self._size.device) for _ in range(_CHUNKS))
        a_second = steps / spent
        share = bytes_of_a_step(self._models.base.weights.model) * a_second / copied
        yield self._judged(rows, graphs, rows * a_second, share)

    def _judged(self, rows: int, graphs: bool, tokens: float, share: float) -> Row:
        what = self._of_shape(f"decode, {rows} at once, {way(graphs)}")
        known = ceiling.nominal(machine.name_of(self._size))
        by_maker = share * ceiling.bandwidth(self._size.device, self._size.copied)
        shown = f" ({by_maker / known.bandwidth:.0%} of the nominal one)" if known else ""
        found = f"{tokens:,.4g} tokens/s, {share:.0%} of the bandwidth{shown}"
        if self._shape in _SHAPES_WITH_GOALS and rows in LEAST_BANDWIDTH:
            least = LEAST_BANDWIDTH[rows]
            return judged(PART, what, found, f"{least:.0%} of the bandwidth", share >= least)
        if self._shape in _SHAPES_WITH_GOALS and rows in LEAST_TOKENS:
            return judged(PART, what, found, f"{LEAST_TOKENS[rows]:,} tokens/s", tokens >= LEAST_TOKENS[rows])
        return Row(PART, what, found)

    def _prefill(self) -> Iterator[Row]:
        from bench.serving.contenders import requests_of
        from bench.training.clock import seconds

        size, base = self._size, self._models.base
        asked = self._load_of(size.texts, new=1)
        asked = replace(asked, shortest=size.text, longest=size.text)

        def read(load: Load) -> None:
            reading = engine(base, load.requests, load.requests, graphs=False)
            generations = [reading.submit(request) for request in requests_of(base, load)]
            while reading.busy:
                reading.step()
            _check(generations)

        read(asked)
        spent = median(
            seconds(partial(read, asked.of_round(1 + number)), size.device) for number in range(size.rounds)
        )
        yield Row(PART, self._of_shape(self._reading), f"{size.texts * size.text / spent:,.4g} tokens/s")

    def _waits(self, graphs: bool) -> Iterator[Row]:
        walking = self._walking(self._size.rows[-1], graphs, _WARM_UP + 2)
        yield waits.row(self._step(graphs), self._size.device, walking.step)

    def _generate(self, rows: int) -> Iterator[Row]:
        from bench.serving.contenders import generated

        models = self._models
        yield self._rival(_GENERATE, rows, lambda load: generated(models, load, list(range(rows))))

    def _continuous(self, rows: int) -> Iterator[Row]:
        from bench.serving.contenders import Continuous

        if not self._models.base.text.continues_text:
            raise NotThere("it serves no encoder-decoder models")
        if not hasattr(self._models.network, "generate_batch"):
            raise NotThere("this release of transformers has no generate_batch")
        # Left to itself it may want to fetch a kernel. Nobody asks for embeddings behind it, which it can't.
        attention = "flash_attention_2" if find_spec("flash_attn") else "sdpa"
        self._models.network.set_attn_implementation(f"paged|{attention}")
        row = self._rival(_CONTINUOUS, rows, Continuous(self._models.network))
        yield replace(row, found=f"{row.found}, {attention}")

    def _rival(self, name: str, rows: int, answer: Callable[[Load], Answers]) -> Row:
        """Whole answers, so long that reading the short texts is little of their time."""
        from bench.training.clock import seconds

        load, answers = self._load_of(rows, new=_LONGER * self._size.new), []
        answer(load)
        spent = seconds(lambda: answers.extend(answer(load.of_round(1))), self._size.device)
        tokens = sum(map(len, answers))
        if tokens != load.tokens:
            raise RuntimeError(f"{tokens} tokens, not {load.tokens}")
        return Row(PART, self._of_shape(f"{name}, {rows} at once"), f"{tokens / spent:,.4g} tokens/s")

    def _walking(self, rows: int, graphs: bool, steps: int) -> Engine:
        """An engine in which `rows` answers are under way, with `steps` to go and more."""
        from bench.serving.contenders import requests_of

        base = self._models.base
        asked = engine(base, rows, rows, graphs)
        requests = requests_of(base, self._load_of(rows, new=steps + 2 * rows + _WARM_UP))
        generations = [asked.submit(request) for request in requests]
        while not all(request.generated for request in requests):
            asked.step()
            _check(generations)
        _advance(asked, _WARM_UP)
        return asked

    def _load_of(self, rows: int, new: int) -> Load:
        from bench.serving.load import Load

        words = self._models.base.weights.model.get_input_embeddings().weight
        return Load(words, rows, new=new)

    @cached_property
    def _models(self) -> Models:
        from bench.serving.checkpoint import make_models
        from bench.training.shapes import SHAPES

        folder = Path(self._size.scratch) / PART / self._shape
        models = make_models(SHAPES[self._shape], folder, self._size.dtype, self._size.device)
        models.base.serving.pack()
        return models

    @property
    def _reading(self) -> str:
        return f"prefill, {self._size.texts} texts of {self._size.text}"

    def _step(self, graphs: bool) -> str:
        return f"a step of {self._size.rows[-1]} rows, {self._shape}, {way(graphs)}"

    def _of_shape(self, what: str) -> str:
        return f"{self._shape}: {what}"


def _check(generations: Sequence[Generation]) -> None:
    """Raises what one of them has failed with: then it isn't a whole batch that is timed."""
    for generation in generations:
        if generation.error:
            raise generation.error


def _advance(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        engine.step()
