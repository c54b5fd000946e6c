"""What was measured on, and when."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

from bench.gpu import ceiling
from bench.gpu.measure import Measure, Part
from bench.gpu.row import MACHINE, Row
from bench.gpu.size import Size


def part(size: Size) -> Part:
    """Names and versions first: they are there even where nothing can be computed."""
    return Part(
        MACHINE,
        [
            Measure(MACHINE, "versions", size.seconds(15), lambda: _versions(size)),
            Measure(MACHINE, "device", size.seconds(5), lambda: _device(size)),
            Measure(MACHINE, "limits", size.seconds(5), lambda: _limits(size)),
        ],
    )


def _versions(size: Size) -> Iterator[Row]:
    yield Row(MACHINE, "date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    # As they are installed: nothing has to be imported for it.
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    yield Row(MACHINE, "versions", f"Python {platform.python_version()}, {libraries}")


def _device(size: Size) -> Iterator[Row]:
    import torch

    if size.device == "cpu":
        yield Row(MACHINE, "device", f"no GPU: {platform.machine()}, small models")
        return
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    yield Row(
        MACHINE, "device", f"{properties.name}, {memory}, driver {_driver()}, CUDA {torch.version.cuda}"
    )


def _limits(size: Size) -> Iterator[Row]:
    known = ceiling.nominal(name_of(size))
    operations = ceiling.peak(size.device, size.dtype, size.products)
    by_maker = f" ({known.operations / 1e12:.0f} nominal)" if known else ""
    yield Row(MACHINE, f"products in {size.dtype}", f"{operations / 1e12:,.3g} TFLOP/s{by_maker}")
    by_maker = f" ({known.bandwidth / 1e12:.2f} nominal)" if known else ""
    copied = ceiling.bandwidth(size.device, size.copied)
    yield Row(MACHINE, "a copy, read and written", f"{copied / 1e12:,.3g} TB/s{by_maker}")


def name_of(size: Size) -> str:
    """The device's name, empty for a CPU."""
    import torch

    return "" if size.device == "cpu" else torch.cuda.get_device_name()


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
