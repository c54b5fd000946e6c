"""Is the same computed there as on a CPU? Every family, by its logits, tokens, losses and gradients.

The reference is the plain way on a CPU in float32: each row alone through transformers' own cache, and rows
padded for training. What it is compared with is what is served and trained: rows of one batch, packed where
the model can be. Logits are those along the reference's own tokens, so that a near-tie costs one token, not
all behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu.measure import Measure, Part
from bench.gpu.row import NotThere, Row, judged
from bench.gpu.size import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from caikit_pt.base_model.loading.checkpoint import Checkpoint
    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.base_model.row import Row as TextRow
    from caikit_pt.base_model.row import TrainingBatch
    from caikit_pt.parameters.generation import GenerationParameters

PART = "correctness"
STEPS = 8
# Differences that are taken for rounding: of the largest logit, and of the length of losses and of gradients.
# In bfloat16, where a model may round more than others, up to three times what a CPU's own bfloat16 does.
TOLERANCES = {"float32": (1e-3, 1e-3, 1e-3), "bfloat16": (1e-1, 5e-2, 5e-2)}
OF_A_CPUS_OWN = 3
_NAMES = ("logits", "losses", "gradients")
# Virtual tokens and tokens of the text of each row.
_LENGTHS = ((8, 5), (20, 2), (3, 17), (0, 9), (8, 11))
_TARGETS = (1, 3, 6, 2, 4)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one model: logits [STEPS, V] of each row, losses [B], the gradients of all prompts, and the ways."""

    logits: list[Tensor]
    losses: Tensor
    gradients: Tensor
    ways: tuple[str, ...] = ()

    def differences(self, other: Seen) -> tuple[float, ...]:
        """How far `other` is from this, as TOLERANCES has it."""
        farthest = max(
            float((a - b).abs().max() / a.abs().max()) for a, b in zip(self.logits, other.logits, strict=True)
        )
        return farthest, _apart(self.losses, other.losses), _apart(self.gradients, other.gradients)


@dataclass(frozen=True, slots=True)
class Task:
    """What every copy of a model is given: rows with their tokens, and a batch with its two prompts."""

    rows: list[TextRow]
    tokens: Tensor  # [B, STEPS], the reference's
    batch: TrainingBatch
    prompts: list[dict[str, Tensor]]


class Correctness:
    """All families, each in turn."""

    def __init__(self, size: Size) -> None:
        self._size = size

    def part(self) -> Part:
        """A measure for each family; those of the examples first."""
        names = [*self._size.embedded, *self._size.families]
        seconds = self._size.seconds(2)
        return Part(PART, [Measure(PART, name, seconds, partial(self._family, name)) for name in names])

    def _family(self, name: str) -> Iterator[Row]:
        from caikit_pt.base_model.pool import load
        from caikit_pt.errors import InvalidParameter

        checkpoint = self._checkpoint(name)
        try:
            plain = load(checkpoint, "float32", "cpu")
        except InvalidParameter as refusal:
            raise NotThere(f"refused on a CPU, too: {refusal}") from refusal
        task = task_of(plain)
        reference = _reference(plain, task)
        on_cpu = {dtype: seen(load(checkpoint, dtype, "cpu"), task) for dtype in TOLERANCES}
        told, good, ways = [], True, set()
        for dtype, tolerances in TOLERANCES.items():
            base = load(checkpoint, dtype, self._size.device)
            found = seen(base, task)
            own = reference.differences(on_cpu[dtype])
            limits = [
                max(limit, OF_A_CPUS_OWN * cpus) if dtype != "float32" else limit
                for limit, cpus in zip(tolerances, own, strict=True)
            ]
            apart = reference.differences(found)
            good &= all(one <= limit for one, limit in zip(apart, limits, strict=True))
            figures = ", ".join(
                f"{what} {one:.0e}{f' (a CPU {cpus:.0e})' if limit > stated else ''}"
                for what, one, cpus, limit, stated in zip(_NAMES, apart, own, limits, tolerances, strict=True)
            )
            equal, count = _equal_tokens(found.logits, task.tokens, plain), task.tokens.numel()
            if dtype == "float32":
                equal, count = _equal_answers(base, task)
                good &= equal == count
            told.append(f"{dtype}: {figures}, {equal} of {count} tokens")
            ways.add(" and ".join(found.ways))
            if found.ways != on_cpu[dtype].ways:
                told.append(f"on a CPU {' and '.join(on_cpu[dtype].ways)}")
        yield judged(PART, name, "; ".join([*told, *sorted(ways)]), "as on a CPU", good)

    def _checkpoint(self, name: str) -> Checkpoint:
        from caikit_pt.base_model.loading.checkpoint import locate
        from caikit_pt.settings import Settings
        from tests.numerics.families import Zoo

        if name in self._size.embedded:
            folder = Path(__file__).parents[2] / "examples" / "base_models"
            return locate(name, Settings(base_models_dir=str(folder)))
        return Zoo(Path(self._size.scratch) / PART).checkpoint(name)


def task_of(plain: BaseModel) -> Task:
    """Made on a CPU, of the model's own tokens; those of the answers are the likeliest that end nothing."""
    import torch

    from caikit_pt.base_model.row import Row as TextRow
    from caikit_pt.base_model.row import TrainingBatch
    from caikit_pt.base_model.trials.sample import some_ids
    from tests.numerics.answers import soft_prompt

    part, words = plain.checkpoint.prompt_parts[0], some_ids(plain.text)

    def text(length: int, first: int) -> list[int]:
        return [words[(first + 4 * index + index // 3) % len(words)] for index in range(length)]

    rows = [
        TextRow({part: soft_prompt(plain, prompt, number)} if prompt else {}, text(length, number))
        for number, (prompt, length) in enumerate(_LENGTHS)
    ]
    targets = [text(length, 3 + number) for number, length in enumerate(_TARGETS)]
    prompts = [{part: soft_prompt(plain, 4 + number, 50 + number)} for number in range(2)]
    batch = TrainingBatch(
        [list(row.ids) for row in rows], targets, [number % 2 for number in range(len(rows))]
    )
    tokens = torch.tensor([_likeliest(plain, row) for row in rows])
    return Task(rows, tokens, batch, prompts)


def seen(base: BaseModel, task: Task) -> Seen:
    """What `base` computes, the way it serves and trains."""
    from caikit_pt.tuning.losses import backward

    prompts = _leaves(base, task)
    losses = backward(base, prompts, task.batch, _weights(task))
    ways = (
        "packed" if base.training.trains_packed else "padded",
        "in batches" if base.serving.serves_batched else "one by one",
    )
    return Seen(_served(base, task), losses.cpu(), _gradients(prompts), ways)


def _reference(plain: BaseModel, task: Task) -> Seen:
    import torch

    prompts = _leaves(plain, task)
    step = plain.training.padded_step(prompts)
    losses = step.target_losses(task.batch)
    (losses * losses.new_tensor(_weights(task))).sum().backward()  # type: ignore[no-untyped-call]
    step.finish()
    logits = []
    with torch.inference_mode():
        for row, tokens in zip(task.rows, task.tokens, strict=True):
            decoding = plain.serving.start([row])
            steps = [decoding.logits[0]]
            for token in tokens[:-1]:
                decoding.advance(token[None])
                steps.append(decoding.logits[0])
            logits.append(torch.stack(steps))
    return Seen(logits, losses.detach(), _gradients(prompts))


def _served(base: BaseModel, task: Task) -> list[Tensor]:
    """Logits along the tokens of `task`, rows of one cohort in one batch, or one by one."""
    import torch

    found: dict[int, Tensor] = {}
    with torch.inference_mode():
        for group in _groups(base, task.rows):
            prefill, batch = base.serving.prefill([task.rows[number] for number in group]), None
            while prefill.columns:
                prefill.advance(64)
            steps, batch = [prefill.logits.float().cpu()], base.serving.new_batch()
            batch.join(prefill)
            for tokens in task.tokens[group].T[:-1]:
                # Copied at once: a replayed graph writes into the same place each time.
                steps.append(batch.advance(tokens.to(base.weights.device)).float().cpu())
            found.update(zip(group, torch.stack(steps, dim=1), strict=True))
    return [found[number] for number in range(len(task.rows))]


def _groups(base: BaseModel, rows: Sequence[TextRow]) -> list[list[int]]:
    if not base.serving.serves_batched:
        return [[number] for number in range(len(rows))]
    cohorts: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        cohorts.setdefault(base.serving.cohort(row), []).append(number)
    return list(cohorts.values())


def _likeliest(plain: BaseModel, row: TextRow) -> list[int]:
    import torch

    from caikit_pt.base_model.row import Row as TextRow

    found: list[int] = []
    with torch.inference_mode():
        for _ in range(STEPS):
            # Read anew each time: some models turn all positions otherwise where a row is long.
            logits = plain.serving.start([TextRow(row.prompt, row.ids, tuple(found))]).logits[0]
            found.append(int(_without_ends(logits, plain).argmax()))
    return found


def _equal_tokens(logits: Sequence[Tensor], tokens: Tensor, plain: BaseModel) -> int:
    likeliest = [_without_ends(of_row, plain).argmax(dim=-1) for of_row in logits]
    return sum(int((a == b).sum()) for a, b in zip(likeliest, tokens, strict=True))


def _without_ends(logits: Tensor, plain: BaseModel) -> Tensor:
    logits = logits.clone()
    logits[..., list(plain.text.end_ids)] = float("-inf")
    return logits


def _equal_answers(base: BaseModel, task: Task) -> tuple[int, int]:
    """Tokens of the engine's answers to all rows at once that are the reference's, and how many there are."""
    from bench.gpu.graphs import engine
    from caikit_pt.serving.request import Request
    from caikit_pt.soft_prompt.prompt import SoftPrompt

    answering = engine(base, len(task.rows), len(task.rows), graphs=False)
    generations = [
        answering.submit(Request(base.text, SoftPrompt(row.prompt), list(row.ids), _parameters()))
        for row in task.rows
    ]
    while answering.busy:
        answering.step()
    answers = [generation.result().generated for generation in generations]
    pairs = zip(answers, task.tokens.tolist(), strict=True)
    equal = sum(a == b for answer, tokens in pairs for a, b in zip(answer, tokens, strict=False))
    return equal, task.tokens.numel()


def _parameters() -> GenerationParameters:
    from caikit_pt.parameters.generation import GenerationParameters

    return GenerationParameters(max_new_tokens=STEPS, min_new_tokens=STEPS, preserve_input_text=False)


def _leaves(base: BaseModel, task: Task) -> list[dict[str, Tensor]]:
    device = base.weights.device
    return [
        {part: tensor.to(device).clone().requires_grad_() for part, tensor in prompt.items()}
        for prompt in task.prompts
    ]


def _gradients(prompts: Sequence[dict[str, Tensor]]) -> Tensor:
    import torch

    grads = [tensor.grad for prompt in prompts for tensor in prompt.values()]
    return torch.cat([gradient.flatten().float().cpu() for gradient in grads if gradient is not None])


def _weights(task: Task) -> list[float]:
    return [1.0 + number for number in range(len(task.rows))]


def _apart(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).norm() / expected.norm())
