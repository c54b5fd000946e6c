"""How large everything is: on a GPU as a service has it, and so small that a CPU is through in no time."""

from __future__ import annotations

from dataclasses import dataclass

# tests/numerics/families.py, which takes long to import: a test compares.
FAMILIES = (
    "llama",
    "gpt2",
    "bloom",
    "opt",
    "qwen3",
    "gemma",
    "gemma3",
    "t5",
    "bart",
    "bart_scaled",
    "mistral",
    "phi3",
    "phi3_longrope",
    "phimoe_longrope",
    "olmo3",
    "olmo2",
    "gpt_neox",
    "granite",
    "phi",
    "cohere",
    "smollm3",
    "gpt_bigcode",
    "mixtral",
    "gemma2",
    "falcon",
    "falcon_alibi",
    "gptj",
    "llama4",
    "lfm2",
    "mt5",
    "mbart",
    "blenderbot",
    "umt5",
    "m2m_100",
)
# Of the time that the larger shape takes.
_SMALLER = 0.6


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, and with how much of everything."""

    device: str
    # A folder for models that are made; who gave it clears it, whatever becomes of a process.
    scratch: str
    quick: bool
    # ---- correctness: random families of tests/numerics, and embedded models ----
    families: tuple[str, ...] = FAMILIES
    embedded: tuple[str, ...] = ("tiny-llama", "tiny-t5")
    # ---- training and serving ----
    dtype: str = "bfloat16"
    causal: str = "llama-8b"
    seq2seq: str = "t5-xl"
    # Of targets and virtual tokens.
    trainings: tuple[tuple[bool, int], ...] = ((False, 20), (False, 100), (True, 20))
    batch: int = 16
    accumulate: int = 16
    rounds: int = 3
    rows: tuple[int, ...] = (1, 16, 64)
    new: int = 64
    texts: int = 32
    text: int = 512
    # ---- memory: a model whose own weights are few beside what passes over it take ----
    pressed: str = "llama"
    pressed_records: int = 256
    small_requests: int = 8
    # ---- the hardware: sides of square products, and bytes of a copy ----
    products: tuple[int, ...] = (4096, 8192)
    copied: int = 2**31

    def seconds(self, full: float, shape: str = "") -> float:
        """What takes about `full` seconds on a large GPU with the larger of the models, here with `shape`."""
        if self.quick:
            return 1.0
        return full * (_SMALLER if shape == self.seq2seq else 1.0)


def full(device: str, scratch: str) -> Size:
    """The shapes that the goals are for."""
    return Size(device, scratch, quick=False)


def quick(device: str, scratch: str) -> Size:
    """Does all of it run?"""
    return Size(
        device,
        scratch,
        quick=True,
        families=("llama", "bloom", "t5"),
        embedded=("tiny-llama",),
        dtype="float32" if device == "cpu" else "bfloat16",
        causal="llama-260k",
        seq2seq="t5-mini",
        trainings=((False, 20),),
        batch=4,
        accumulate=1,
        rounds=1,
        rows=(1, 4),
        new=6,
        texts=2,
        text=64,
        pressed="llama-mini",
        pressed_records=16,
        small_requests=3,
        products=(256,),
        copied=2**24,
    )
