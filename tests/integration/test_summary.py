"""The summary is right where such tables tend to be wrong."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import networks
import pytest
import torch
from torch import Tensor, nn

import torchprof
from torchprof import Summary
from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.summary import rows_and_totals

MIB = 2**20


def row(summary: Summary, path: str) -> Row:
    return next(each for each in summary.rows if each.path == path)


def test_with_a_batch_size_the_input_size_has_no_batch_dimension() -> None:
    model = nn.Sequential(nn.Linear(3, 5))
    with_batch = torchprof.summary(model, input_size=(3,), batch_size=4, verbose=0)
    without = torchprof.summary(model, input_size=(4, 3), verbose=0)
    assert row(with_batch, "0").input_shapes == row(without, "0").input_shapes == ((4, 3),)
    assert row(with_batch, "0").output_shapes == ((4, 5),)


def test_several_inputs_are_given_as_a_list_of_sizes_or_as_data() -> None:
    model = networks.TwoInputs()
    by_size = torchprof.summary(model, [(1, 16, 16), (1, 8, 8)], batch_size=2, verbose=0)
    by_data = torchprof.summary(model, input_data=(torch.ones(2, 1, 16, 16), torch.ones(2, 1, 8, 8)), verbose=0)
    by_name = torchprof.summary(model, input_data={"b": torch.ones(2, 1, 8, 8), "a": torch.ones(2, 1, 16, 16)}, verbose=0)
    for summary in (by_size, by_data, by_name):
        assert row(summary, "right").input_shapes == ((2, 1, 8, 8),)
        assert summary.totals.input_bytes == 2 * (256 + 64) * 4


def test_with_no_input_only_parameters_are_shown_and_nothing_runs() -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def forward(self) -> None:
            raise AssertionError

    summary = torchprof.summary(Explodes(), verbose=0)
    assert (summary.totals.params, summary.totals.forward) == (9, 0)
    assert "Forward" not in str(summary)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 32, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        out, (h, _) = self.lstm(self.embed(tokens))
        return {"out": out, "h": h}


def test_integer_inputs_tuples_of_an_lstm_dicts_and_bare_parameters() -> None:
    summary = torchprof.summary(Recurrent(), input_size=(4, 10), dtypes=torch.long, verbose=0)
    assert row(summary, "lstm").output_shapes == ((4, 10, 32), (2, 4, 32), (2, 4, 32))
    assert row(summary, "").output_shapes == ((4, 10, 32), (2, 4, 32))
    assert row(summary, "").params == 7
    assert summary.totals.params == sum(p.numel() for p in Recurrent().parameters())
    assert row(summary, "lstm").output_bytes == (4 * 10 * 32 + 2 * 2 * 4 * 32) * 4


def test_dataclass_outputs_and_modules_kept_in_plain_lists() -> None:
    @dataclass
    class Out:
        y: Tensor
        rest: list[Tensor]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.hidden = [nn.Linear(3, 2)]

        def forward(self, x: Tensor) -> Out:
            return Out(self.hidden[0](self.fc(x)), [x])

    summary = torchprof.summary(Net(), input_size=(2, 3), verbose=0)
    assert row(summary, "").output_shapes == ((2, 2), (2, 3))
    assert summary.rows[-1].name == "<Linear>"
    assert "not registered" in summary.rows[-1].note


def test_shared_modules_and_tied_weights_are_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.b = nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.again = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.b(self.a(x)))

    summary = torchprof.summary(Tied(), input_size=(2, 8), verbose=0)
    assert summary.totals.params == 8 * 8 + 8 + 8
    assert (row(summary, "a").calls, row(summary, "b").params) == (2, 8)
    assert row(summary, "again").note == "same module as a"
    assert row(summary, "b").note == "weight shared with a"


def test_a_module_that_is_never_called_says_so() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    summary = torchprof.summary(Net(), input_size=(1, 2), verbose=0)
    assert row(summary, "unused").note == "not called"
    assert "not called" in str(summary)


@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_summarised_on_its_fast_path_and_off_it(fast: bool) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).train(not fast)
    with torch.set_grad_enabled(not fast):
        summary = torchprof.summary(model, input_size=(2, 5, 32), verbose=0)
    assert row(summary, "layers.1").output_shapes == ((2, 5, 32),)
    assert (row(summary, "layers.0.linear1").calls > 0) is not fast
    assert summary.totals.params == sum(p.numel() for p in model.parameters())


def test_multihead_attention_returns_a_tuple() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    assert row(torchprof.summary(Net(), (2, 5, 8), verbose=0), "attention").output_shapes == ((2, 5, 8), (2, 5, 5))


def test_a_lazy_model_is_summarised_and_stays_lazy() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(5))
    summary = torchprof.summary(model, input_size=(2, 3, 8, 8), verbose=0)
    assert summary.totals.params == 8 * 3 * 9 + 8 + 8 * 36 * 5 + 5
    assert isinstance(model[0], nn.LazyConv2d)
    assert model[2].has_uninitialized_params()
    assert torchprof.summary(model, verbose=0).totals.params == 0


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2), (torch.bfloat16, 2), (torch.float64, 8), (torch.complex64, 8)])
def test_sizes_follow_the_real_dtype(dtype: torch.dtype, size: int) -> None:
    model = nn.Linear(4, 6).to(dtype)
    summary = torchprof.summary(model, (2, 4), dtypes=dtype, verbose=0)
    name = str(dtype).removeprefix("torch.")
    assert summary.totals.param_bytes_by_dtype == {name: 30 * size}
    assert (summary.totals.input_bytes, row(summary, "").output_bytes) == (8 * size, 12 * size)


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_show_their_packed_parameters() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(64, 32)), {nn.Linear}, dtype=torch.qint8)
    summary = torchprof.summary(model, input_size=(2, 64), verbose=0)
    assert summary.totals.param_bytes_by_dtype["qint8"] == 64 * 32


def test_parameters_on_several_devices_are_told_apart() -> None:
    summary = torchprof.summary(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta")), verbose=0)
    assert summary.totals.param_bytes_by_device == {"cpu": 80, "meta": 80}
    assert "80 B on cpu, 80 B on meta" in str(summary)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_says_that_its_inside_cannot_be_seen() -> None:
    summary = torchprof.summary(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), input_size=(2, 4), verbose=0)
    assert summary.totals.params == 20
    assert summary.rows[0].output_shapes == ((2, 4),)
    assert any("TorchScript" in each.note for each in summary.rows)


def test_a_compiled_model_is_summarised() -> None:
    summary = torchprof.summary(torch.compile(nn.Sequential(nn.Linear(4, 4)), backend="eager"), input_size=(2, 4), verbose=0)
    assert summary.totals.params == 20
    assert summary.rows[0].output_shapes == ((2, 4),)
    torch._dynamo.reset()


class Repeated(nn.Module):
    def __init__(self, width: int, times: int, device: str) -> None:
        super().__init__()
        self.fc, self.times = nn.Linear(width, width, device=device), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.fc(x)
        return x


def test_a_layer_applied_a_hundred_times_shows_what_it_really_keeps() -> None:
    """The case that peers report as 84 MB: 100 inputs of 40 MB each are kept for backward."""
    summary = torchprof.summary(Repeated(1024, 100, "meta"), input_data=torch.empty(10240, 1024, device="meta"), verbose=0)
    assert summary.totals.saved == 100 * 10240 * 1024 * 4 == 4000 * MIB
    assert "Saved for backward: 4,000.0 MiB" in str(summary)
    assert row(summary, "fc").output_bytes == 4000 * MIB


def test_what_is_kept_for_backward_is_measured_on_real_memory_as_it_is_counted_on_meta() -> None:
    real = torchprof.summary(Repeated(64, 10, "cpu"), input_size=(128, 64), verbose=0).totals
    meta = torchprof.summary(Repeated(64, 10, "meta"), input_size=(128, 64), verbose=0).totals
    assert real.saved == meta.saved == 10 * 128 * 64 * 4
    assert (real.memory, meta.memory) == ("measured", "meta")


def test_a_layer_on_meta_takes_no_memory_and_shows_what_it_would() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, device="meta"), nn.Flatten())
    summary = torchprof.summary(model, input_size=(1000, 3, 224, 224), verbose=0)
    assert summary.totals.allocated == 1000 * 64 * 222 * 222 * 4
    assert "nothing was allocated" in str(summary)


def test_saved_for_backward_is_what_saved_tensor_hooks_count() -> None:
    model = networks.Nested()
    x = torch.rand(2, 3, 32, 32)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    expected = sum(saved.values())
    measured = torchprof.summary(model, input_data=x, verbose=0).totals.saved
    del y
    # hooks see tensors; the graph also keeps scalars and masks that are no saved tensors
    assert expected <= measured <= expected * 1.02


def test_peak_and_allocated_are_those_of_the_forward_pass() -> None:
    class Spike(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            big = torch.empty(MIB)
            del big
            return torch.empty(MIB // 4)

    totals = torchprof.summary(Spike(), input_size=(1,), verbose=0).totals
    assert (totals.allocated, totals.peak, totals.saved) == (5 * MIB, 4 * MIB, 0)


def test_backward_time_adds_up_and_no_gradient_is_left() -> None:
    model = networks.Nested()
    summary = torchprof.summary(model, input_size=(2, 3, 32, 32), backward=True, verbose=0)
    own = sum(each.backward_self for each in summary.rows)
    assert own == summary.rows[0].backward
    assert own + summary.totals.backward_unattributed == pytest.approx(summary.totals.backward, rel=0.02)
    assert all(p.grad is None for p in model.parameters())
    assert "Backward" in str(summary)
    assert summary.totals.peak_with_backward >= summary.totals.peak


def test_self_times_of_everything_below_a_module_add_up_to_its_total() -> None:
    summary = torchprof.summary(networks.Nested(), input_size=(2, 3, 32, 32), verbose=0)
    assert sum(each.forward_self for each in summary.rows) == summary.rows[0].forward == summary.totals.forward


def test_depth_keeps_the_sums() -> None:
    whole = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, verbose=0)
    flat = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, depth=1, verbose=0)
    assert {each.depth for each in flat.rows} == {0, 1}
    assert sum(each.params for each in flat.rows) == sum(each.params for each in whole.rows)


def test_identical_blocks_fold_on_request() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(24)])
    summary = torchprof.summary(model, (1, 4), fold=True, verbose=0)
    assert [(each.name, each.copies) for each in summary.rows] == [("Sequential", 1), ("0..23", 24), ("0", 1), ("1", 1)]
    assert summary.rows[1].params_total == 24 * 20
    assert "x24" in str(summary)


def test_columns_are_chosen_by_name() -> None:
    text = str(torchprof.summary(nn.Linear(2, 2), (1, 2), columns=["output", "param_bytes"], verbose=0))
    header = text.splitlines()[1]
    assert header.split() == ["Layer", "(type)", "Output", "Param", "size"]


def test_ten_thousand_rows_and_long_names_stay_readable() -> None:
    model = nn.Sequential(*[nn.Identity() for _ in range(10_000)])
    model.add_module("a_very_long_name_" * 20, nn.Identity())
    lines = str(torchprof.summary(model, (1,), verbose=0)).splitlines()
    assert len(lines) > 10_000
    assert max(map(len, lines)) < 160


def test_every_parameter_is_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    torchprof.summary(model, verbose=2)
    out = capsys.readouterr().out
    assert ". weight [3, 2] float32" in out
    assert "frozen" in out


def test_it_prints_in_scripts_unless_told_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    summary = torchprof.summary(nn.Linear(2, 2), (1, 2))
    assert capsys.readouterr().out == f"{summary}\n"
    torchprof.summary(nn.Linear(2, 2), (1, 2), verbose=0)
    assert capsys.readouterr().out == ""


def test_it_prints_where_the_encoding_knows_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    torchprof.summary(nn.Sequential(nn.Linear(2, 2)), (1, 2))
    out.flush()
    assert b"(Linear)" in out.buffer.getvalue()  # type: ignore[attr-defined]


def test_rows_are_data_too() -> None:
    summary = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, verbose=0)
    data = summary.to_dict()
    assert len(data["rows"]) == len(summary.rows)
    assert data["totals"]["params"] == summary.totals.params
    frame = summary.to_pandas()
    assert frame["params"].sum() == summary.totals.params


def test_a_summary_is_sorted_selected_and_exported_as_any_table_is(tmp_path: Path) -> None:
    summary = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, verbose=0)
    assert str(summary.table) == str(summary)
    times = [each["forward"] for each in summary.sort("forward").head(3).rows]
    assert times == sorted((each.forward for each in summary.rows), reverse=True)[:3]
    assert f"{len(summary.rows) - 3:,} more rows" in str(summary.head(3))
    assert str(summary.select("params", "calls")).splitlines()[1].split() == ["Layer", "(type)", "Params", "Calls"]
    assert summary.with_columns("calls").columns == (*summary.columns, "calls")
    assert "share" not in summary.without_columns("share").columns
    assert summary.to_csv(tmp_path / "rows.csv") == (tmp_path / "rows.csv").read_text()
    assert [each["path"] for each in json.loads(summary.to_json())] == [each.path for each in summary.rows]
    for each, row in zip(summary.to_dict()["rows"], summary.rows, strict=True):
        assert {name: each[name] for name in Row._fields if name != "tensors"} == {
            name: value for name, value in row._asdict().items() if name != "tensors"
        }


def test_a_saved_trace_gives_the_same_rows(tmp_path: Path) -> None:
    summary = torchprof.summary(networks.Nested(), (3, 32, 32), batch_size=2, backward=True, verbose=0)
    summary.trace.save(tmp_path / "nested.torchprof")
    assert rows_and_totals(torchprof.load(tmp_path / "nested.torchprof")) == (summary.rows, summary.totals)


def test_a_function_that_builds_a_model_is_summarised_on_meta() -> None:
    summary = torchprof.summary(lambda: nn.Linear(2**17, 2**17), (4, 2**17), verbose=0)
    assert summary.totals.params == 2**34 + 2**17
    assert (summary.totals.memory, summary.rows[0].output_shapes) == ("meta", ((4, 2**17),))
