"""What a machine can do, measured and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import torchprof
from torchprof import ArgumentError, Ceilings
from torchprof.cli.ceilings import read_ceilings
from torchprof.record import ceilings as roofline
from torchprof.trace.ceilings import PUBLISHED

MACHINE = Ceilings("made up", "float32", 1, flops=100.0, bytes=10.0)


def test_little_work_per_byte_is_bound_by_bytes_and_much_by_flops() -> None:
    assert MACHINE.attainable(2) == 20
    assert MACHINE.attainable(50) == 100


def test_what_is_reached_is_a_share_of_what_is_attainable() -> None:
    assert MACHINE.reached(10, 5, 2) == 0.5
    assert MACHINE.reached(None, 5, None) == 0.5
    assert MACHINE.reached(None, None, None) is None


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = torchprof.ceilings()
    assert measured.flops > 1e8
    assert measured.bytes > 1e8
    assert measured.threads == torch.get_num_threads()
    assert torchprof.ceilings() == measured
    monkeypatch.setattr(roofline, "_copy", lambda device: 1.0)
    assert torchprof.ceilings() == measured
    assert torchprof.ceilings(refresh=True).bytes == 1.0


@pytest.mark.parametrize("cached", ["not json", "[]", '{"KEY": 3}', '{"KEY": {"flops": 1}}', '{"KEY": ENTRY}'])
def test_a_damaged_cache_is_measured_anew(cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "_matmul", lambda device, dtype: 2.0)
    monkeypatch.setattr(roofline, "_copy", lambda device: 1.0)
    torchprof.ceilings()
    file = tmp_path / "torchprof" / "ceilings.json"
    (key, entry), *_ = json.loads(file.read_text()).items()
    file.write_text(cached.replace('"KEY"', json.dumps(key)).replace("ENTRY", json.dumps({**entry, "flops": "fast"})))
    monkeypatch.setattr(roofline, "_matmul", lambda device, dtype: 3.0)
    assert torchprof.ceilings().flops == 3.0


def test_a_dtype_by_its_name_is_refused_also_where_its_rates_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "_matmul", lambda device, dtype: 2.0)
    monkeypatch.setattr(roofline, "_copy", lambda device: 1.0)
    torchprof.ceilings()
    with pytest.raises(ArgumentError, match=r"dtype='float32' must be a torch\.dtype, such as torch\.float32"):
        torchprof.ceilings(dtype="float32")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_is_measured_in_the_dtype_and_precision_that_it_computes_in(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, torch.dtype]] = []

    def matmul(device: torch.device, dtype: torch.dtype) -> float:
        measured.append((str(device), dtype))
        return float(len(measured))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "made up")
    monkeypatch.setattr(roofline, "_matmul", matmul)
    monkeypatch.setattr(roofline, "_copy", lambda device: 1.0)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        found = []
        for precision in ("ieee", "tf32", "ieee"):
            torch.backends.cuda.matmul.fp32_precision = precision
            found.append(torchprof.ceilings("cuda", dtype))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert measured[0] == ("cuda", dtype)
    assert [each.flops for each in found] == ([1.0, 2.0, 1.0] if dtype == torch.float32 else [1.0, 1.0, 1.0])
    assert all((each.device, each.threads) == ("made up", 0) for each in found), "no CPU's: see tables.check_ceilings"


def test_work_of_a_device_is_timed_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: happened.append("done"))
    assert roofline._best(lambda: happened.append("launched"), torch.device("cuda")) > 0
    assert happened == ["launched", "done"] * 9, "once to warm up"


@pytest.mark.parametrize(("device", "dtype"), [("nowhere", torch.float32), ("cpu", torch.bool), ("cuda:99", torch.float32)])
def test_what_cannot_be_measured_is_named(
    device: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ArgumentError, match=f"device='{device}'"):
        torchprof.ceilings(device, dtype)


def test_published_rates_are_those_of_a_gpu_and_a_dtype() -> None:
    of_half = Ceilings.published("H100-80GB", "bfloat16")
    assert (of_half.flops, of_half.bytes, of_half.dtype, of_half.threads) == (989e12, 3.35e12, "bfloat16", 0)
    assert "published" in of_half.device
    assert Ceilings.published("A100-80GB").flops == 19.5e12
    with pytest.raises(ArgumentError, match="gpu='H100' is none whose rates are known here: did you mean 'H100-80GB'"):
        Ceilings.published("H100")
    with pytest.raises(ArgumentError, match="dtype='bfloat16' has no published rate on T4"):
        Ceilings.published("T4", "bfloat16")


def test_published_rates_are_of_known_gpus_and_grow_as_precision_falls() -> None:
    assert PUBLISHED.keys() <= torchprof.GPUS.keys()
    for _, rates in PUBLISHED.values():
        assert rates["float32"] <= rates.get("tf32", rates["float32"]) <= rates["float16"]
        assert rates.get("bfloat16", rates["float16"]) == rates["float16"]
        assert rates.get("float8", rates["float16"]) >= rates["float16"]


@pytest.mark.parametrize(
    ("text", "flops", "bytes"),
    [
        ("989TFLOPS,3350GB", 989e12, 3.35e12),
        ("1.5P, 8TB/s", 1.5e15, 8e12),
        ("67 TFLOP/s,900G", 67e12, 9e11),
        ("T4", 8.1e12, 3.2e11),
        ("H100-80GB:fp8", 1.979e15, 3.35e12),
    ],
)
def test_ceilings_are_written_in_a_shell(text: str, flops: float, bytes: float) -> None:
    found = read_ceilings(text)
    assert isinstance(found, Ceilings)
    assert (found.flops, found.bytes) == (flops, bytes)


def test_ceilings_of_this_machine_are_measured_when_they_are_needed() -> None:
    assert (read_ceilings("here"), read_ceilings("here:bf16")) == ("float32", "bfloat16")
