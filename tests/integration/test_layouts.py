"""The structs of csrc/trace/rows.h and the dtypes of torchprof/trace/schema.py are written twice, and agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchprof
from torchprof import _C
from torchprof.trace.schema import LAYOUTS


def test_every_table_has_the_layout_of_its_struct() -> None:
    owner = _C.Block()
    _C.start(
        owner,
        ops=True,
        shapes=True,
        memory=True,
        budget_bytes=2**20,
        module_class=None,
        flops=False,
        flop_outputs=False,
        aggregate=False,
        gpu="off",
        device_type=0,
        held=_C.HeldByModel(),
    )
    _C.stop(owner, _C.HeldByModel())
    assert owner.recorded is not None
    tables, _, _ = owner.recorded
    assert tables.keys() == LAYOUTS.keys()
    for name, layout in LAYOUTS.items():
        assert tables[name].dtype == layout, name


@pytest.mark.parametrize(
    "name",
    "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool bfloat16 float8_e5m2 "
    "float8_e4m3fn uint16 uint32 uint64".split(),
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_dtypes_are_numbered_as_pytorch_numbers_them(name: str) -> None:
    dtype = getattr(torch, name)
    with torchprof.profile() as prof:
        torch.empty(5, dtype=dtype)
    number = int(prof.trace.tensors["dtype"][0])
    assert prof.trace.dtypes[number] == (name, dtype.itemsize)
    assert prof.trace.tensors["storage_bytes"][0] == 5 * dtype.itemsize


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_recorded_with_their_own_dtype() -> None:
    with torchprof.profile() as prof:
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    assert "qint8" in {prof.trace.dtypes[number].name for number in prof.trace.tensors["dtype"]}


def test_devices_are_numbered_as_pytorch_numbers_them() -> None:
    with torchprof.profile() as prof:
        torch.empty(2)
        torch.empty(2, device="meta")
    assert [prof.trace.device_types[number] for number in prof.trace.tensors["device_type"]] == ["cpu", "meta"]


def test_every_dtype_of_pytorch_has_its_name_and_size() -> None:
    assert {
        (str(dtype).removeprefix("torch."), dtype.itemsize) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
    } <= {*_C.dtypes().values()}


def test_a_module_of_the_trace_is_named_by_its_class() -> None:
    model = nn.Sequential(nn.Tanh())
    with torchprof.profile(model) as prof:
        model(torch.empty(1))
    assert [prof.trace.strings[row] for row in prof.trace.modules["type"]] == ["Sequential", "Tanh"]
    assert prof.trace.modules["address"].tolist() == [id(model), id(model[0])]
