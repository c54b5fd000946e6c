"""Which errors say that memory has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caikit_pt.base_model.loading.memory import free_memory, is_out_of_memory


@pytest.mark.parametrize("sizes", [(2**50,), (2**40, 2**40), (2**62, 2**10)])
def test_a_tensor_beyond_all_memory_is_told_from_a_defect(sizes: tuple[int, ...]) -> None:
    """torch has no error of its own for the memory of a CPU: 200 kB of combining marks were an INTERNAL."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(sizes)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_other_words_for_it(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


def test_a_defect_is_no_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    # What a request says is nobody's allocator.
    assert not is_out_of_memory(ValueError("text: 'out of memory' is not allowed"))


def test_what_was_read_of_files_is_free(tmp_path: Path) -> None:
    """A container that has read its weights once would have no memory left."""
    for name, told in (("memory.max", "3000000"), ("memory.current", "2900000")):
        (tmp_path / name).write_text(told)
    (tmp_path / "memory.stat").write_text("anon 900000\nfile 2000000\ninactive_file 1900000\n")
    assert free_memory(tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max")
    assert free_memory(tmp_path) > 2_000_000
    assert free_memory(tmp_path / "none") > 2_000_000
