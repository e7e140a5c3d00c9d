"""When the CUDA module is loaded, and what is said where it cannot be used."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import cnnfast as cf
from cnnfast import config
from cnnfast.cuda import loading


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts something in the place of the compiled module."""
    before = loading.use(None)

    def put(module: Any) -> None:
        monkeypatch.setitem(sys.modules, "cnnfast._cuda", module)
        loading.use(None)

    yield put
    loading.use(before)


def _module(reason: str) -> types.ModuleType:
    module = types.ModuleType("cnnfast._cuda")
    module.why_unavailable = lambda: reason  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    "reason",
    [
        "no NVIDIA driver was found",
        "the NVIDIA driver is too old: it is for CUDA 12.2, expected 13.0",
        "no CUDA device was found",
    ],
)
def test_reasons(found: Any, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    found(_module(reason))
    assert not cf.cuda.is_available()
    assert cf.cuda.why_unavailable() == reason
    for call in (
        lambda: cf.use_backend("cuda"),
        lambda: cf.compile(cf.nn.ReLU(), device="cuda"),
        lambda: cf.cuda.empty((3,)),
        cf.cuda.synchronize,
    ):
        with pytest.raises(cf.errors.BackendError, match=f"'cuda' cannot be used: {reason}"):
            call()
    assert cf.show_config()["cuda"] == {"available": False, "reason": reason}
    assert f"cuda: no: {reason}" in capsys.readouterr().out


def test_no_module(found: Any) -> None:
    found(None)
    assert cf.cuda.why_unavailable() == "this build of cnnfast has no CUDA module"


def test_a_device(shim: Any) -> None:
    assert cf.cuda.is_available()
    assert cf.cuda.device_name() == "host stand-in"
    assert config.cuda_text(config.config()["cuda"]).startswith("yes; host stand-in, compute capability 9.0")


def test_the_import_loads_no_cuda_module() -> None:
    code = "import sys, cnnfast; cnnfast.ops.relu([1.0]); assert 'cnnfast._cuda' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code.replace("[1.0]", "__import__('numpy').ones(3, 'f')")], check=True
    )
