"""Which errors say that memory has ended."""

from __future__ import annotations

import pytest
import torch

from caikit_pt.base_model.loading.memory import is_out_of_memory


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
