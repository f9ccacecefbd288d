"""The figures that limits hold, on traces written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from goldens import Golden
from handwritten import gpu_trace

from torchprof import Trace
from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.explain import explanation
from torchprof.integrations.pytest_plugin.figures import Figure, Figures
from torchprof.integrations.pytest_plugin.graph_breaks import GraphBreaks
from torchprof.integrations.pytest_plugin.limits import Limit
from torchprof.integrations.pytest_plugin.result import result_of
from torchprof.integrations.pytest_plugin.verdict import broken_limits

ONE_PASS = 2 * 512 * 1024 * 1024
"""FLOPs of the product in `handwritten.gpu_trace`, once in forward and once in backward."""


def one_recording() -> Trace:
    """The trace of two GPUs, as one recording without steps."""
    trace = gpu_trace()
    return replace(trace, steps=trace.steps[:0])


def test_kernels_are_counted_with_copies_and_fills_and_by_the_module_that_launched_them() -> None:
    figures = Figures(one_recording())
    assert figures.of("kernels") == Figure(len(figures.trace.kernels))
    assert figures.of("kernels", "fc") == Figure(3 * 2)
    assert figures.of("kernels", "act") == Figure(3)


def test_waits_are_calls_that_return_when_the_device_is_done() -> None:
    figures = Figures(one_recording())
    assert figures.of("syncs") == Figure(3)
    assert figures.of("syncs", "fc") == Figure(0)


def test_flops_and_ops_are_those_of_the_tables() -> None:
    figures = Figures(one_recording())
    assert figures.of("flops") == Figure(3 * 2 * ONE_PASS)
    assert figures.of("flops", "fc") == Figure(3 * 2 * ONE_PASS)
    assert figures.of("flops", "act") == Figure(0)
    assert figures.of("ops") == Figure(len(figures.trace.ops))
    assert figures.of("ops", "act") == Figure(3)


def test_parameters_are_those_of_the_models_that_were_called() -> None:
    figures = Figures(one_recording())
    assert figures.of("params") == figures.of("params", "fc") == Figure(1024 * 1024 + 1024)
    assert figures.of("params", "act") == Figure(0)
    nameless = Figures(replace(one_recording(), model=None))
    assert nameless.of("params") == Figure(None, "no module with parameters was called in the test")


@pytest.mark.parametrize("figure", ["kernels", "syncs"])
def test_what_only_a_gpu_has_is_unknown_without_one(figure: str) -> None:
    trace = one_recording()
    without = replace(trace, kernels=trace.kernels[:0], runtime_calls=trace.runtime_calls[:0], facts={"gpu": "off"})
    found = Figures(without, "PyTorch finds no NVIDIA GPU here").of(figure)
    assert found.value is None
    assert found.unknown.startswith("no GPU was recorded (PyTorch finds no NVIDIA GPU here): skip the test there, or give ")
    events = replace(trace, facts={**trace.facts, "gpu": "events"})
    assert "recorded with events, which count neither" in Figures(events).of(figure).unknown


def test_a_gpu_that_did_nothing_ran_no_kernels() -> None:
    trace = one_recording()
    idle = replace(trace, kernels=trace.kernels[:0], runtime_calls=trace.runtime_calls[:0])
    assert Figures(idle).of("kernels") == Figures(idle).of("syncs") == Figure(0)


def test_nothing_is_known_of_a_recording_that_lost_rows() -> None:
    lost = Figures(gpu_trace(losses={"ops": 7}))
    for figure in ("peak", "saved", "flops", "ops", "kernels", "syncs", "params"):
        assert lost.of(figure) == Figure(
            None, "7 ops did not fit the 1,024.0 MiB that a recording may take: run less in the test"
        )


def test_flops_of_which_some_are_unknown_are_a_lower_bound() -> None:
    trace = one_recording()
    flops = trace.signature_flops.copy()
    name = trace.strings.index("aten::relu")
    flops[trace.signatures["name"] == name] = -2
    found = Figures(replace(trace, signature_flops=flops)).of("flops")
    assert found.value == 3 * 2 * ONE_PASS
    assert found.unknown.startswith("those of aten::relu are unknown")
    assert Figures(replace(trace, signature_flops=flops)).of("flops", "fc").unknown == ""


def verdicts(trace: Trace, *limits: Limit) -> list[str]:
    return list(broken_limits(limits, Figures(trace), "", GraphBreaks(), None))


def test_a_lower_bound_over_the_limit_fails_and_one_below_it_cannot_be_told() -> None:
    trace = one_recording()
    flops = trace.signature_flops.copy()
    flops[trace.signatures["name"] == trace.strings.index("aten::relu")] = -2
    trace = replace(trace, signature_flops=flops)
    (over,) = verdicts(trace, Limit("flops", 1e9, "1 G"))
    assert over.startswith("FLOPs: at least 6.44 G (6,442,450,944), and the limit is 1 G")
    (untold,) = verdicts(trace, Limit("flops", 1e12, "1 T"))
    assert untold.startswith("FLOPs: it cannot be told that the limit of 1 T is kept: those of aten::relu are unknown")


def test_a_limit_is_kept_up_to_the_figure_itself() -> None:
    assert verdicts(one_recording(), Limit("syncs", 3, 3), Limit("params", 1024 * 1025, "x")) == []
    assert verdicts(one_recording(), Limit("syncs", 2, 2)) != []


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("acts", "module='acts' is none that was found; is it 'act'?"),
        ("decoder", "module='decoder' is none that was found: the models are Net"),
    ],
)
def test_a_module_that_is_not_there_is_told(module: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said.replace("?", r"\?")):
        Figures(one_recording()).of("ops", module)


def test_a_module_that_was_not_called_has_no_figures_but_parameters() -> None:
    trace = one_recording()
    called = replace(trace, module_calls=trace.module_calls[:0], modules=trace.modules[:0])
    ops = trace.ops.copy()
    ops["module_call"] = -1
    figures = Figures(replace(called, ops=ops))
    with pytest.raises(ArgumentError, match="module='fc' was not called in the test"):
        figures.of("flops", "fc")
    assert figures.of("params", "fc") == Figure(1024 * 1024 + 1024)


def test_where_no_module_was_called_it_is_said() -> None:
    with pytest.raises(ArgumentError, match="module='fc': no module was called in the test"):
        Figures(Trace.empty()).of("ops", "fc")


def test_a_test_that_ran_nothing_ran_no_ops() -> None:
    figures = Figures(Trace.empty())
    assert figures.of("ops") == figures.of("flops") == Figure(0)


def test_what_is_over_its_limit_is_explained(golden: Golden) -> None:
    figures = Figures(one_recording())
    names = ("flops", "ops", "kernels", "syncs", "params")
    golden("\n\n".join(f"{name}\n{explanation(figures, name, None, '')}" for name in names), "limits_explained.txt")
    of_module = "\n\n".join(f"{name}\n{explanation(figures, name, 'fc', '')}" for name in names)
    golden(of_module, "limits_explained_of_a_module.txt")


def test_a_result_is_plain_data() -> None:
    import json

    result = result_of(Figures(one_recording()))
    assert json.loads(json.dumps(result)) == result
    assert result["kernels"] == len(one_recording().kernels)
    assert result["by_op"]["aten::addmm"] == [3, 3 * ONE_PASS]
