"""Modules in training: statistics, dropout, frozen parts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import cnnfast as cf
from cnnfast import nn, ops, random
from cnnfast.errors import ShapeError
from cnnfast.models.efficientnet import StochasticDepth


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- batch normalisation ---------------------------------------------------------------------------


def test_batch_norm_goes_by_the_batch_and_follows_it(backend: str) -> None:
    bn = nn.BatchNorm2d(3, momentum=0.25)
    x = draw(4, 5, 6, 3) * 3 + 2
    y = bn(cf.Tensor(x)).data
    flat = y.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.var(0), 1, atol=1e-4)
    wide = x.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(bn.running_mean, 0.25 * wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(bn.running_var, 0.75 + 0.25 * wide.var(0, ddof=1), rtol=1e-5)
    assert bn.num_batches_tracked == 1
    assert {b.dtype for b in (bn.running_mean, bn.running_var)} == {np.dtype(np.float32)}
    before = bn.running_mean
    bn.eval()(cf.Tensor(x))
    assert bn.running_mean is before


def test_statistics_that_others_hold_do_not_change() -> None:
    bn = nn.BatchNorm2d(3)
    state = bn.state_dict()
    bn(cf.Tensor(draw(4, 5, 6, 3)))
    assert (state["running_mean"] == 0).all()
    assert (bn.running_mean != 0).all()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("kind", ["norm", "conv", "depthwise", "linear"])
def test_activation_in_the_same_pass(backend: str, kind: str, activation: type[nn.Module]) -> None:
    """Values, gradients and running statistics are those of two steps, which a hook asks for."""
    layers: dict[str, Any] = {
        "norm": lambda: nn.BatchNorm2d(5),
        "conv": lambda: nn.Conv2d(5, 6, 3),
        "depthwise": lambda: nn.DepthwiseConv2d(5, 3),
        "linear": lambda: nn.Linear(5, 4),
    }
    outcomes, seen = [], []
    for hooked in (False, True):
        model = nn.Sequential(layers[kind](), activation())
        for i, p in enumerate(model.parameters()):
            p.data = 3 * draw(*p.shape, seed=i + 1)
        if hooked:
            model[0].register_forward_hook(lambda module, inputs, result: seen.append(result.data.min()))
        x = cf.Tensor(draw(2, 7, 6, 5), requires_grad=True)
        y = model(x)
        y.backward(draw(*y.shape, seed=9))
        grads = [p.grad for p in model.parameters()]
        outcomes.append([y.data, x.grad, *grads, *model.state_dict().values()])
        assert np.array_equal(model.eval()(x).data, activation()(model[0](x)).data)
    assert min(seen) < 0  # the hook saw what the activation had not yet touched
    assert outcomes[0][0].min() == 0
    for one, two in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(one, two)


def test_activated_by_name_and_with_other_layers(backend: str) -> None:
    x = draw(2, 3, 3, 4)
    norm = nn.BatchNorm2d(4)
    np.testing.assert_array_equal(nn.activated(norm, "relu", x), ops.relu(norm(x)))
    np.testing.assert_array_equal(nn.activated(nn.Identity(), "relu", x), ops.relu(x))
    np.testing.assert_array_equal(nn.activated(norm, nn.Tanh(), x), ops.tanh(norm(x)))


def test_a_single_value_has_no_variance() -> None:
    with pytest.raises(ShapeError, match=r"BatchNorm2d: training needs at least two values .*\(1,1,1,3\)"):
        nn.BatchNorm2d(3)(cf.Tensor(draw(1, 1, 1, 3)))


def test_batch_norm_in_double_precision() -> None:
    bn = nn.BatchNorm2d(3)

    def call(x: Any, scale: Any, shift: Any) -> Any:
        bn._parameters.update(weight=scale, bias=shift)
        return bn(x)

    rng = np.random.default_rng(1)
    assert cf.gradcheck(call, rng.standard_normal((2, 3, 2, 3)), rng.random(3) + 0.5, rng.random(3))


def test_frozen_parts_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    model[0].freeze()
    model[1].freeze()
    model.train()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    y = model(cf.Tensor(draw(2, 8, 8, 3)))
    ops.reduce_sum(y * y).backward()
    after = model.state_dict()
    for name, value in before.items():
        frozen = name[0] in "01"
        assert np.array_equal(value, after[name]) or not frozen, name
    assert not np.array_equal(before["4.running_mean"], after["4.running_mean"])
    grads = {name: p.grad is not None for name, p in model.named_parameters()}
    assert {name for name, has in grads.items() if not has} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_nothing_is_taped_before_the_first_trained_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model[0].freeze()
    y = model(cf.Tensor(draw(1, 6, 6, 3)))
    assert y.step.sources[0] is None
    assert y.step.inputs[0].shape == (1, 4, 4, 4)


# --- random layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Dropout(0.25), StochasticDepth(0.25)], ids=["dropout", "depth"])
def test_random_layers(layer: nn.Module) -> None:
    x = np.ones((400, 5, 5, 2), np.float32)
    cf.manual_seed(3)
    layer.train()
    y = layer(x)
    values, counts = np.unique(y, return_counts=True)
    assert values.tolist() == [0, np.float32(1 / 0.75)]
    assert abs(counts[0] / y.size - 0.25) < 0.1
    if isinstance(layer, StochasticDepth):
        assert (y == y[:, :1, :1, :1]).all()
    assert not np.array_equal(y, layer(x))
    cf.manual_seed(3)
    assert np.array_equal(y, layer(x))
    assert np.array_equal(x, layer.eval()(x))


def test_the_gradient_of_dropout_is_its_mask() -> None:
    x = cf.Tensor(draw(50), requires_grad=True)
    y = nn.Dropout(0.5)(x)
    y.backward(np.ones(50, np.float32))
    assert np.array_equal(y.data, x.data * x.grad)


def test_the_generator_goes_on_where_it_was() -> None:
    layer = nn.Dropout(0.5)
    x = np.ones(100, np.float32)
    cf.manual_seed(7)
    layer(x)
    state = json.loads(json.dumps(random.get_state()))
    expected = [layer(x) for _ in range(3)]
    cf.manual_seed(8)
    random.set_state(state)
    assert all(np.array_equal(layer(x), e) for e in expected)
    with pytest.raises(ValueError, match="negative"):
        cf.manual_seed(-1)


def test_tracing_and_compiling_know_no_training(backend: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    x = draw(2, 4)
    engine = cf.compile(model, (2, 4), device=backend)
    assert model.training
    np.testing.assert_allclose(engine(x), model.eval()(x), rtol=1e-6)


# --- modules made of modules ------------------------------------------------------------------------


def test_lists_and_mappings_of_modules() -> None:
    """By arguments, as a list or a mapping, and by keywords: the names are the same."""
    for made in (nn.ModuleList(nn.Linear(2, 3), nn.ReLU()), nn.ModuleList([nn.Linear(2, 3), nn.ReLU()])):
        assert [type(m) for m in made] == [nn.Linear, nn.ReLU]
        assert list(made.state_dict()) == ["0.weight", "0.bias"]
    for named in (nn.ModuleDict(a=nn.Linear(2, 3)), nn.ModuleDict({"a": nn.Linear(2, 3)})):
        assert list(named.state_dict()) == ["a.weight", "a.bias"]
    assert len(nn.ModuleList()) == len(nn.ModuleList([])) == 0


def test_what_is_no_module_or_parameter() -> None:
    """Refused where it is given: it would be left out of state dicts, and of training, without a word."""
    for wrong in (3, cf.ops.relu, [nn.ReLU()], nn.ReLU):
        with pytest.raises(TypeError, match="Sequential: expected a Module as '0', got"):
            nn.Sequential(wrong)  # type: ignore[arg-type]
    layer = nn.Linear(2, 3)
    values = np.ones((2, 3), np.float32)
    for array in (values, cf.Tensor(values), values.tolist()):
        with pytest.raises(
            TypeError, match=r"Linear: expected a Parameter or None as 'weight', got .* weight\.data"
        ):
            layer.weight = array
    layer.weight = nn.Parameter(values)
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]
    assert np.array_equal(layer(values[:1, :2]), [[2, 2, 2]])


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (nn.Conv2d, {"padding": "some"}, "Conv2d: padding must be one of 'valid', 'same', got 'some'"),
        (nn.Conv2d, {"padding": -1}, "Conv2d: padding must be at least 0, got -1"),
        (nn.Conv2d, {"stride": 0}, "Conv2d: stride must be at least 1, got 0"),
        (nn.Conv2d, {"dilation": 1.5}, "Conv2d: dilation must be a whole number, got 1.5"),
        (nn.ConvTranspose2d, {"padding": "same"}, "padding must be given in numbers, got 'same'"),
        (nn.ConvTranspose2d, {"output_padding": -1}, "output_padding must be at least 0, got -1"),
    ],
)
def test_convolutions_refuse_wrong_geometry_when_made(
    layer: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        layer(3, 4, 3, **options)


def test_convolutions_take_lists_and_numpy_integers() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=[np.int64(2), 1], padding=[(0, 1), (1, 0)]).initialize(0)
    assert layer(np.zeros((1, 8, 8, 3), np.float32)).shape == (1, 4, 7, 4)
