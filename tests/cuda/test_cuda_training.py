"""Training on a device: gradients of networks, steps, the trainer with all that it keeps; in 16 bits too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks_on_device import Residual, Several

import cnnfast as cf
from cnnfast import Tensor, nn, optim, train
from cnnfast.cuda import DeviceArray, asarray
from cnnfast.errors import DTypeError
from cnnfast.train import load_checkpoint
from training import Stop, loader, network, numbers, patterns, settings, state, stopping_loss


def test_gradients_of_a_network(device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    start = rng.standard_normal((2, 7)).astype(np.float32)
    with cf.use_backend("numpy"):
        model = Several()
        held = {name: value.copy() for name, value in model.state_dict().items()}
        wanted = model(Tensor(x))
        wanted.backward(start)
    here = Several()
    here.load_state_dict(held)
    here.to("cuda")
    got = here(Tensor(asarray(x)))
    got.backward(asarray(start))
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        statistics = getattr(here.norm, name)
        np.testing.assert_allclose(statistics.numpy(), getattr(model.norm, name), rtol=1e-5, atol=1e-6)
    gradients = dict(model.named_parameters())
    for name, p in here.named_parameters():
        exact = gradients[name].grad
        # The convolution before a batch normalisation has a bias whose gradient is what rounding leaves of 0.
        bound = 2e-5 * max(1, np.abs(exact).max())
        np.testing.assert_allclose(p.grad.numpy(), exact, rtol=0, atol=bound, err_msg=name)


def test_a_step_of_training(shim: Any, rng: np.random.Generator) -> None:
    """Forward, backward with batch statistics, and the step of an optimiser, as on the host."""
    x = rng.standard_normal((4, 7, 9, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 4])
    host, here = Residual(), Residual()
    host.initialize(3)
    here.initialize(3)
    here.to("cuda")
    losses = []
    for model, given in ((host, x), (here, asarray(x))):
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses.append([])
        for _ in range(3):
            loss = cf.losses.cross_entropy(model(Tensor(given)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.numpy()))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert all(type(p.data) is DeviceArray for p in here.parameters())
    for (name, a), b in zip(here.state_dict().items(), host.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)


# --- mixed precision --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_gradients_in_16_bits(shim: Any, rng: np.random.Generator, dtype: str, error: float) -> None:
    """They reach the float32 parameters, as near to those of float32 as the type allows."""
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    start = asarray(rng.standard_normal((2, 7)).astype(np.float32))
    model = Several().initialize(1).to("cuda")
    found = []
    for kind in ("float32", dtype):
        model.zero_grad()
        with nn.mixed_precision(model, kind):
            y = model(Tensor(asarray(x).astype(kind)))
        assert str(y.dtype) == kind
        cf.ops.cast(y, "float32").backward(start)
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert all(str(p.data.dtype) == "float32" and isinstance(p, nn.Parameter) for p in model.parameters())
    assert str(model.norm.running_mean.dtype) == "float32"
    for name, exact in found[0].items():
        got, wanted = found[1][name], exact.numpy()
        assert str(got.dtype) == "float32"
        bound = error * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=bound, err_msg=name)


def test_parameters_come_back_after_an_error(shim: Any) -> None:
    model = nn.Linear(3, 2)
    with (
        pytest.raises(DTypeError, match="cast: expected an array on a device to become float16"),
        nn.mixed_precision(model, "float16"),
    ):
        pass
    model.to("cuda")
    weight = model.weight
    with pytest.raises(cf.errors.ShapeError), nn.mixed_precision(model, "float16"):
        model(Tensor(asarray(np.ones((2, 5), np.float32), "float16")))
    assert model.weight is weight


def test_a_parameter_of_two_modules_is_cast_once(shim: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to("cuda")
    model[1].weight = model[0].weight
    with nn.mixed_precision(model, "bfloat16"):
        assert model[1].weight is model[0].weight


# --- the trainer ------------------------------------------------------------------------------------


def fitted(dtype: str, *, calls: int | None = None, **options: Any) -> tuple[Any, ...]:
    """Weights, averages, history and scale of a run; one with ``calls`` stops after so many batches."""
    model = network()
    chosen = {**settings(model), "dtype": dtype, **options}
    chosen["loss"], chosen["metrics"] = stopping_loss(10**9 if calls is None else calls), "accuracy"
    if dtype == "float16":
        # So large that the first step is left out.
        chosen["scaler"] = optim.GradScaler(2.0**20, growth_interval=2)
    history = train.fit(model, loader(batch=11), epochs=2, device="cuda", **chosen)
    assert all(str(p.data.dtype) == "float32" for p in model.parameters())
    averages = [a.tobytes() for a in chosen["ema"].state_dict()["averages"]]
    scaler = chosen.get("scaler")
    return state(model), averages, numbers(history), scaler and scaler.state_dict()


def test_the_trainer_does_what_it_does_on_the_host(shim: Any) -> None:
    """With validation, averages, clipping, dropout and a schedule."""
    held, found = patterns(12, seed=1), []
    for place in ("cpu", "cuda"):
        model = network()
        chosen = settings(model)
        history = train.fit(model, loader(batch=22), epochs=2, validation=held, device=place, **chosen)
        with chosen["ema"].averaged():
            measured = train.evaluate(model, held)
        found.append((numbers(history), measured, model.state_dict()))
        assert all((type(p.data) is DeviceArray) == (place == "cuda") for p in model.parameters())
    for host, here in zip(*[[*rows, measured] for rows, measured, _ in found], strict=True):
        assert list(here) == list(host)
        np.testing.assert_allclose(list(here.values()), list(host.values()), rtol=1e-3)
    for name, array in found[0][2].items():
        np.testing.assert_allclose(found[1][2][name], array, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(("dtype", "accumulate"), [("float32", 1), ("float16", 2)])
def test_resuming_gives_the_same_bits(shim: Any, tmp_path: Path, dtype: str, accumulate: int) -> None:
    expected = fitted(dtype, accumulate=accumulate)
    options = {
        "checkpoint": tmp_path / "run.safetensors",
        "checkpoint_every": 1,
        "resume": True,
        "accumulate": accumulate,
    }
    for calls in (3, 2):  # in the middle of an epoch, and at its end
        with pytest.raises(Stop):
            fitted(dtype, calls=calls, **options)
    assert fitted(dtype, **options) == expected
    held = load_checkpoint(options["checkpoint"])
    if dtype == "float16":
        assert held["scaler"]["state"] == expected[3]
        assert 0 < held["optimizer"]["state"]["state"][0]["step"] < held["step"]
    else:
        assert held["scaler"] is None


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_the_trainer_in_16_bits(shim: Any, dtype: str, error: float) -> None:
    losses = []
    for kind in ("float32", dtype):
        model = network()
        history = train.fit(
            model, loader(batch=22), epochs=2, optimizer=optim.Momentum(model.parameters(), 0.05),
            device="cuda", dtype=kind, progress=False,
        )  # fmt: skip
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=error)
    assert losses[1] != losses[0]


def test_a_step_that_overflows_is_left_out(shim: Any) -> None:
    model = network()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    optimizer, scaler = optim.Adam(model.parameters()), optim.GradScaler(2.0**40)
    average = optim.ExponentialMovingAverage(model.parameters())
    train.fit(
        model, loader(batch=22), epochs=1, optimizer=optimizer, scaler=scaler, ema=average,
        device="cuda", dtype="float16", clip_norm=1.0, progress=False,
    )  # fmt: skip
    assert scaler.get_scale() == 2.0**38
    assert average.updates == 0
    assert optimizer.state_dict()["state"] == {}
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), before[name])


def test_what_cannot_be(shim: Any) -> None:
    with pytest.raises(DTypeError, match="fit: device 'cpu' computes in float32, got bfloat16"):
        train.fit(network(), loader(), epochs=1, dtype="bfloat16")
    with pytest.raises(DTypeError, match="fit: device 'cuda' computes in float32, bfloat16 or float16"):
        train.fit(network(), loader(), epochs=1, device="cuda", dtype="int64")
    model = network()
    with pytest.raises(ValueError, match="of single steps with a scaler, got LBFGS"):
        train.fit(
            model,
            loader(),
            epochs=1,
            optimizer=optim.LBFGS(model.parameters()),
            device="cuda",
            dtype="float16",
        )
    with pytest.raises(cf.errors.BackendError, match="LBFGS: expected parameters in host memory"):
        train.fit(
            model,
            loader(),
            epochs=1,
            optimizer=optim.LBFGS(model.parameters()),
            device="cuda",
            progress=False,
        )


def test_statistics_and_losses_on_a_device(shim: Any, rng: np.random.Generator) -> None:
    """What else takes batches of the host."""
    pictures = rng.standard_normal((6, 8, 8, 1)).astype(np.float32)
    targets = rng.uniform(0, 1, (6, 4)).astype(np.float32)
    found = []
    for place in ("cpu", "cuda"):
        model = network().to(place)
        train.update_batch_norm(model, (pictures, targets), batch_size=3)
        values = [model[1].running_mean, model[1].running_var]
        x = model[:5].eval()(pictures if place == "cpu" else asarray(pictures))
        x = Tensor(x[:, :4] if place == "cpu" else cf.ops.take(x, np.s_[:, :4]))
        for loss in (cf.losses.mse, cf.losses.l1, cf.losses.cross_entropy):
            values.append(loss(x, targets))
        values.append(cf.losses.cross_entropy(x, np.arange(6) % 4, weight=[1, 2, 3, 4]))
        found.append([v if isinstance(v, np.ndarray) else v.numpy() for v in values])
    for host, here in zip(*found, strict=True):
        np.testing.assert_allclose(here, host, rtol=1e-4, atol=1e-5)
