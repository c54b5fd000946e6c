"""Linear layers that are never trained: as right as torch's own, faster, and nobody notices."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from caikit_pt.base_model.layers import fastest, kernels
from caikit_pt.base_model.layers.fastest import CANDIDATES, Case
from caikit_pt.base_model.layers.linear import FrozenLinear, bytes_to_pack, freeze_linears, pack_linears

WIDTH, OUT, ROWS = 64, 48, 9
RELATIVE = 1e-5

needs_onednn = pytest.mark.skipif(
    not kernels.onednn_is_right(torch.float32), reason="torch has no oneDNN that is right here"
)


@pytest.fixture(autouse=True)
def onednn_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product here is oneDNN's, packed where it can be: what a trial would choose isn't told."""
    monkeypatch.setattr(fastest, "_CHOSEN", _LastCandidate())


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out", [1, 3, OUT, 1000])
@pytest.mark.parametrize(
    "make",
    [
        lambda: _noise(ROWS, WIDTH),
        lambda: _noise(2, ROWS, WIDTH),
        lambda: _noise(2, 3, 4, WIDTH),
        lambda: _noise(3, 20, WIDTH)[:, -ROWS:],
        lambda: _noise(WIDTH, ROWS).t(),
        lambda: _noise(ROWS, 2 * WIDTH)[:, ::2],
        lambda: _noise(1, WIDTH).expand(ROWS, WIDTH),
        lambda: _noise(1000)[3 : 3 + ROWS * WIDTH].view(ROWS, WIDTH),
    ],
    ids=["flat", "batch", "four", "slice", "turned", "strided", "expanded", "shifted"],
)
def test_result_and_gradient_are_those_of_float64(
    make: Callable[[], torch.Tensor], out: int, bias: bool, products: list[int]
) -> None:
    layer, x = _frozen(out, bias), make()
    ours, exact = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    result, expected = layer(ours), deepcopy(layer).double()(exact)
    weights = _noise(*result.shape, seed=3)
    (result * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert len(products) == 2, "once forward and once backward"
    _assert_close(result.detach(), expected.detach())
    assert ours.grad is not None
    assert exact.grad is not None
    _assert_close(ours.grad, exact.grad)


@needs_onednn
def test_a_gradient_of_one_number_repeated_is_right_too(products: list[int]) -> None:
    """A sum hands back a gradient that is one number, seen from everywhere."""
    layer, x = _frozen(), _noise(ROWS, WIDTH).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert len(products) == 2
    _assert_close(x.grad, layer.weight.double().sum(0).expand(ROWS, WIDTH))


@needs_onednn
def test_only_the_input_gets_a_gradient() -> None:
    layer = _frozen().requires_grad_(True)
    layer(_noise(ROWS, WIDTH).requires_grad_()).sum().backward()
    assert [parameter.grad for parameter in layer.parameters()] == [None, None]
    assert not _frozen()(_noise(ROWS, WIDTH)).requires_grad


@needs_onednn
@pytest.mark.parametrize("rows", [1, 2, 3, 17, 64, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_give_the_same(rows: int, bias: bool) -> None:
    layer, x = _frozen(OUT, bias), _noise(rows, WIDTH)
    exact = deepcopy(layer).double()(x.double())
    with torch.inference_mode():
        assert bytes_to_pack(layer, "some") == layer.weight.nbytes
        pack_linears(layer)
        assert bytes_to_pack(layer, "some") == 0
        _assert_close(layer(x), exact)


@needs_onednn
def test_a_gradient_does_without_packed_weights() -> None:
    layer, x = _frozen(), _noise(ROWS, WIDTH).requires_grad_()
    pack_linears(layer)
    layer(x).sum().backward()
    assert x.grad is not None
    _assert_close(x.grad, layer.weight.double().sum(0).expand(ROWS, WIDTH))


@needs_onednn
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_is_the_same_in_any_company(packed: bool) -> None:
    layer, x = _frozen(1000), _noise(64, WIDTH)
    if packed:
        pack_linears(layer)
    with torch.inference_mode():
        whole = layer(x)
        for rows in (1, 2, 3, 8, 31):
            _assert_close(layer(x[:rows]), whole[:rows])


@needs_onednn
def test_bfloat16_is_as_right_as_torch_has_it(products: list[int]) -> None:
    if not kernels.onednn_is_right(torch.bfloat16):
        pytest.skip("oneDNN has no bfloat16 here")
    layer, x = _frozen().bfloat16(), _noise(ROWS, WIDTH).bfloat16().requires_grad_()
    result = layer(x)
    exact = deepcopy(layer).double()(x.detach().double())
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    error, usual = ((each.detach().double() - exact).abs().max() for each in (result, plain))
    assert float(error) <= 2 * float(usual)
    result.sum().backward()
    assert x.grad is not None
    assert len(products) == 2
    with torch.inference_mode():
        pack_linears(layer)
        assert float((layer(x).double() - exact).abs().max()) <= 2 * float(usual)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_data_types_take_the_product_of_torch(dtype: torch.dtype, products: list[int]) -> None:
    layer, x = _frozen().to(dtype), _noise(ROWS, WIDTH).to(dtype).requires_grad_()
    result = layer(x)
    assert torch.equal(result, torch.nn.functional.linear(x, layer.weight, layer.bias))
    result.sum().backward()
    assert x.grad is not None
    assert not products


def test_an_input_of_another_type_than_the_weights_is_an_error_as_ever() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        _frozen()(_noise(ROWS, WIDTH).double())


def test_weights_elsewhere_take_the_product_of_torch(products: list[int]) -> None:
    layer = _frozen().to("meta")
    assert layer(torch.empty(ROWS, WIDTH, device="meta")).shape == (ROWS, OUT)
    assert not products


@needs_onednn
@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same(surroundings: Callable[[], torch.no_grad]) -> None:
    layer, x = _frozen(), _noise(ROWS, WIDTH)
    expected = layer(x)
    with surroundings():
        assert torch.equal(layer(x), expected)


def test_a_model_keeps_its_names_its_weights_and_its_other_layers() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, OUT), torch.nn.LayerNorm(OUT), _Scaled(OUT, OUT), torch.nn.Linear(OUT, 2)
    ).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = _noise(ROWS, WIDTH)
    expected = model(x)
    freeze_linears(model)
    frozen = [type(module) is FrozenLinear for module in model]
    assert frozen == ([True, False, False, True] if kernels.onednn_is_right(torch.float32) else [False] * 4)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    twin = deepcopy(model)
    assert [type(module) for module in twin] == [type(module) for module in model]
    assert all(isinstance(model[number], torch.nn.Linear) for number in (0, 2, 3))
    assert torch.equal(twin(x), model(x))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    twin.state_dict()["0.weight"].zero_()
    assert torch.equal(model.state_dict()["0.weight"], before["0.weight"]), "a copy has its own weights"


@pytest.mark.parametrize("answer", ["wrong", "an error", "nothing"])
def test_a_product_that_is_wrong_or_not_there_is_not_used(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if answer == "an error":
            raise RuntimeError
        if answer == "nothing":
            raise AttributeError
        return torch.nn.functional.linear(x, weight, bias) * 1.001

    monkeypatch.setattr(kernels, "_onednn", product)
    kernels.onednn_is_right.cache_clear()
    try:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        freeze_linears(model)
        assert type(model[0]) is torch.nn.Linear
    finally:
        kernels.onednn_is_right.cache_clear()


# ---- helpers ----


class _LastCandidate(dict[Case, str]):
    """Has chosen the last kernel of each use."""

    def __contains__(self, case: object) -> bool:
        return True

    def __missing__(self, case: Case) -> str:
        return CANDIDATES[case.use][-1]


class _Scaled(torch.nn.Linear):
    """A Linear with a mind of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(input)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each product that oneDNN computes from now on."""
    rows: list[int] = []
    for dtype in kernels.DTYPES:
        kernels.onednn_is_right(dtype)
    real = kernels._onednn

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows.append(x.shape[:-1].numel())
        return real(x, weight, bias)

    monkeypatch.setattr(kernels, "_onednn", spy)
    return rows


def _frozen(out: int = OUT, bias: bool = True) -> FrozenLinear:
    layer = FrozenLinear(WIDTH, out, bias=bias).requires_grad_(False)
    layer.weight.copy_(_noise(out, WIDTH, seed=1))
    if bias:
        layer.bias.copy_(_noise(out, seed=2))
    return layer


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_close(seen: torch.Tensor, exact: torch.Tensor) -> None:
    assert seen.dtype is torch.float32
    assert seen.shape == exact.shape
    assert float((seen - exact).abs().max()) <= RELATIVE * float(exact.abs().max())


def test_a_model_may_change_a_result_in_place() -> None:
    """LED divides its queries in place; a view that a function of one's own has made can't be."""
    layer = torch.nn.Sequential(torch.nn.Linear(6, 4)).requires_grad_(False)
    x = torch.randn(2, 3, 6, requires_grad=True)
    (expected,) = torch.autograd.grad((layer(x) / 2).square().sum(), x)
    freeze_linears(layer)
    result = layer(x)
    result /= 2
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    torch.testing.assert_close(gradient, expected)
