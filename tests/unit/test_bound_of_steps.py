"""What a step computes, by dtype and by what it is for, and the bound that this is; on traces written by hand."""

from __future__ import annotations

from typing import Any, Final

import pytest
from goldens import Golden
from handwritten import trace

from torchprof import ArgumentError, Bound, Ceilings, ModuleTypeError
from torchprof.estimation.bounds.bound_of import bound_of
from torchprof.estimation.bounds.peaks import Peaks
from torchprof.estimation.bounds.step_flops import FLOAT32_PRODUCTS, step_flops
from torchprof.estimation.sharding.communication import Sent
from torchprof.trace.schema import OP_NESTED, Phase
from torchprof.trace.trace import Trace

INT8, HALF, SINGLE = 1, 5, 6
FREE, UNKNOWN = -1, -2
GIGA: Final = 10**9

Op = tuple[str, int, int, Phase]
"""A name, FLOPs, a dtype, and a phase."""


def of_ops(*ops: Op, parents: list[int] | None = None, facts: dict[str, Any] | None = None) -> Trace:
    """A trace of a step with these ops; before it, one that multiplies a million times."""
    parents = parents or [-1] * len(ops)
    rows = [("aten::mm", 10**6 * GIGA, HALF, Phase.FORWARD), *ops]
    return trace(
        strings=[name for name, *_ in rows],
        tensors=[{"dtype": dtype} for _, _, dtype, _ in rows],
        operands=list(range(len(rows))),
        signatures=[{"name": row, "inputs": row, "n_inputs": 1, "flops": each[1]} for row, each in enumerate(rows)],
        ops=[
            {
                "signature": row,
                "start": 10 * row,
                "end": 10 * row + 5,
                "parent": parents[row - 1] + 1 if row and parents[row - 1] >= 0 else -1,
                "flags": (int(each[3]) << 4) | (OP_NESTED if row and parents[row - 1] >= 0 else 0),
            }
            for row, each in enumerate(rows)
        ],
        steps=[{"start": 0, "end": 10}, {"start": 10, "end": 1000, "number": 1}],
        facts=facts,
    )


def mm(flops: int, dtype: int = HALF, phase: Phase = Phase.FORWARD) -> Op:
    return "aten::mm", flops, dtype, phase


def bound(of: Trace, gpu: Any = "H100-80GB", sent: tuple[Sent, ...] = (), links: Any = None) -> Bound:
    return bound_of(of, sent, "cuda", None, gpu, links)


def test_flops_of_the_last_step_are_told_apart_by_what_they_are_for() -> None:
    found = step_flops(
        of_ops(
            mm(4), mm(1, SINGLE), mm(2, phase=Phase.RECOMPUTATION), mm(8, phase=Phase.BACKWARD), mm(3, phase=Phase.OPTIMIZER)
        )
    )
    assert found.model == {"float16": 12, "float32": 1}
    assert found.recomputed == {"float16": 2}
    assert found.optimizer == {"float16": 3}
    assert found.all == {"float16": 17, "float32": 1}


def test_what_is_computed_in_is_what_the_innermost_op_is_given() -> None:
    cast = ("aten::to", FREE, SINGLE, Phase.FORWARD)
    outer, inner = ("aten::conv2d", 6, SINGLE, Phase.FORWARD), ("aten::conv2d", 6, HALF, Phase.FORWARD)
    innermost = ("aten::convolution", 6, HALF, Phase.FORWARD)
    assert step_flops(of_ops(outer, cast, inner, innermost, parents=[-1, 0, 0, 2])).all == {"float16": 6}


def test_products_of_float32_are_in_tf32_where_the_program_says_so_and_others_may_be() -> None:
    products, convolution = (
        [mm(2, SINGLE), ("aten::addmm_", 3, SINGLE, Phase.BACKWARD)],
        ("aten::convolution", 4, SINGLE, Phase.FORWARD),
    )
    assert step_flops(of_ops(*products, convolution)).all == {"float32": 5, "tf32": 4}
    assert step_flops(of_ops(*products, convolution, facts={FLOAT32_PRODUCTS: "ieee"})).all == {"float32": 5, "tf32": 4}
    assert step_flops(of_ops(*products, convolution, facts={FLOAT32_PRODUCTS: "tf32"})).all == {"tf32": 9}


def test_attention_in_one_kernel_may_take_half() -> None:
    name = "aten::_scaled_dot_product_flash_attention"
    found = step_flops(of_ops(mm(10), (name, 8, HALF, Phase.FORWARD), (f"{name}_backward", 20, HALF, Phase.BACKWARD)))
    assert found.all == {"float16": 38}
    assert found.least == {"float16": 24}
    assert step_flops(of_ops(("flash_attn::_flash_attn_forward", 8, HALF, Phase.FORWARD))).least == {"float16": 4}


def test_a_trace_without_ops_computes_nothing() -> None:
    assert step_flops(trace()).all == {}
    found = bound(trace())
    assert (found.compute, found.communication, found.step, found.mfu, found.unknown) == (0.0, 0.0, 0.0, None, ())


def test_every_dtype_has_its_peak_and_what_is_recomputed_is_no_use() -> None:
    of = of_ops(mm(989 * GIGA), mm(989 * GIGA, phase=Phase.RECOMPUTATION), mm(67 * GIGA, SINGLE, Phase.BACKWARD))
    found = bound(of)
    assert found.compute == found.step == pytest.approx(3e-3)
    assert found.mfu == pytest.approx(2 / 3)
    assert found.flops == {"float16": 2 * 989 * GIGA, "float32": 67 * GIGA}
    assert found.recomputed == 989 * GIGA
    assert found.unknown == ()


def test_the_optimizer_computes_nothing_of_the_models() -> None:
    found = bound(of_ops(mm(989 * GIGA), mm(989 * GIGA, phase=Phase.OPTIMIZER)))
    assert (found.compute, found.mfu) == pytest.approx((2e-3, 1 / 2))


def test_attention_is_bound_by_half_of_its_flops_and_no_share_is_above_all() -> None:
    found = bound(of_ops(("aten::_scaled_dot_product_cudnn_attention", 989 * GIGA, HALF, Phase.FORWARD)))
    assert found.compute == pytest.approx(0.5e-3)
    assert found.mfu == 1
    assert found.assumed == (
        "attention in one kernel takes half its FLOPs, as if all of it were causal: which mask or window it has is not known",
    )


def test_what_has_no_formula_is_said_and_the_share_is_then_unknown() -> None:
    lacking = ("mylib::attention", UNKNOWN, HALF, Phase.FORWARD)
    found = bound(of_ops(mm(989 * GIGA), lacking))
    assert (found.compute, found.step, found.mfu) == pytest.approx((1e-3, 1e-3, None))
    assert found.unknown == ("the FLOPs of mylib::attention: nobody knows how many",)
    nothing_else = bound(of_ops(lacking))
    assert (nothing_else.compute, nothing_else.step) == (None, None)


def test_a_dtype_without_a_rate_is_said() -> None:
    found = bound(of_ops(mm(989 * GIGA), mm(5, INT8)))
    assert (found.compute, found.mfu) == pytest.approx((1e-3, None))
    assert found.unknown == (
        "what is computed in int8: no rate of it is known of H100-80GB, as published; torchprof.Ceilings may have your own",
    )
    assert bound(of_ops(mm(5, INT8))).compute is None


def test_where_a_gpu_has_no_tf32_convolutions_are_in_float32() -> None:
    of = of_ops(("aten::convolution", 81 * GIGA, SINGLE, Phase.FORWARD))
    assert bound(of, "T4").compute == pytest.approx(1e-2)
    assert bound(of, "H200").compute == pytest.approx(81e9 / 494.5e12)


def test_every_format_of_eight_bits_has_the_rate_of_float8_where_the_gpu_has_one() -> None:
    assert [Peaks.of_gpu("H100-80GB").rate(each) for each in ("float8_e4m3fn", "float8_e5m2")] == [1979e12] * 2
    assert Peaks.of_gpu("A100-80GB").rate("float8_e4m3fn") is None


def test_rates_of_ones_own_are_of_their_dtype() -> None:
    of = of_ops(mm(6 * GIGA), mm(2 * GIGA, SINGLE))
    halves = bound(of, Ceilings("mine", "float16", 0, 2e12, 1e12))
    assert (halves.compute, halves.mfu, halves.peaks) == pytest.approx((3e-3, None, "mine"))
    everything = bound(of, Ceilings("a device of these rates", "any dtype", 0, 2e12, 1e12))
    assert (everything.compute, everything.mfu) == pytest.approx((4e-3, 1))
    measured = Peaks.of_gpu(Ceilings("NVIDIA H100 80GB HBM3", "float32, tf32", 0, 4e14, 2e12))
    assert (measured.rate("tf32"), measured.rate("float32")) == (4e14, None)


@pytest.mark.parametrize(
    ("gpu", "error", "said"),
    [
        ("H100", ArgumentError, "gpu='H100' is none whose rates are known here: did you mean 'H100-80GB'"),
        (80, ModuleTypeError, "gpu must be the name of a GPU, such as 'H100-80GB', or torchprof.Ceilings, not 80"),
        (Ceilings("mine", "float16", 0, 0.0, 1.0), ArgumentError, "has flops=0.0: they must be FLOPs per second, more than 0"),
        (Ceilings("mine", "float16", 0, float("nan"), 1.0), ArgumentError, "has flops=nan"),
    ],
)
def test_what_is_no_gpu_is_named(gpu: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        bound(of_ops(mm(1)), gpu)


MESH: Final[dict[str, Any]] = {
    "meshes": [{"dimensions": ["replicate", "shard"], "shape": [2, 8], "coordinate": [0, 0]}],
    "process_groups": [
        {"name": "1", "description": "mesh_replicate", "backend": "fake", "ranks": [0, 8]},
        {"name": "2", "description": "mesh_shard", "backend": "fake", "ranks": list(range(8))},
    ],
}
SENT = (
    Sent("all-gather", "shard", 8, 2, 600 * 10**6, "2"),
    Sent("reduce-scatter", "shard", 8, 1, 300 * 10**6, "2"),
    Sent("all-reduce", "replicate", 2, 1, 75 * 10**6, "1"),
)


def test_dimensions_have_the_links_of_the_gpu_within_hosts_and_between_them() -> None:
    found = bound(of_ops(mm(989 * GIGA), facts=MESH), sent=SENT)
    shard, replicate = found.dimensions
    assert (shard.dimension, shard.ranks, shard.bytes, shard.link) == ("shard", 8, 900 * 10**6, "NVLink 4")
    assert shard.seconds == pytest.approx(7 / 8 * 0.9e9 / 450e9)
    assert (replicate.link, replicate.seconds) == pytest.approx(("InfiniBand NDR", 75e6 / 50e9))
    assert found.communication == found.step == pytest.approx(1.75e-3)
    assert found.mfu == pytest.approx(1 / 1.75)
    assert found.assumed == (
        "shard is NVLink 4: its ranks are on one host of 8",
        "replicate is InfiniBand NDR: each of its ranks is on another host of 8, with a port for each GPU",
    )


def test_what_computes_longer_than_it_sends_is_bound_by_that() -> None:
    found = bound(of_ops(mm(9890 * GIGA), facts=MESH), sent=SENT)
    assert (found.step, found.communication, found.mfu) == pytest.approx((1e-2, 1.75e-3, 1))


def test_a_link_that_is_given_is_no_assumption() -> None:
    of = of_ops(mm(1), facts=MESH)
    found = bound(of, sent=SENT, links={"shard": "NVLink 5", "replicate": 25e9})
    assert [each.link for each in found.dimensions] == ["NVLink 5", "23.3 GiB/s"]
    assert found.communication == pytest.approx(75e6 / 25e9)
    assert found.assumed == ()


def test_a_network_that_is_given_for_ranks_of_several_hosts_is_beside_the_link_within_them() -> None:
    groups = [{"name": "0", "description": "default_pg", "backend": "fake", "ranks": list(range(16))}]
    of = of_ops(mm(1), facts={"process_groups": groups})
    sent = (Sent("all-gather", "world", 16, 1, GIGA, "0"),)
    assert bound(of, sent=sent, links={"world": "400 GbE"}).communication == pytest.approx(15 / 16 * 1e9 / 500e9)
    assert bound(of, sent=sent, links={"world": "10 GbE"}).communication == pytest.approx(1 / 2 * 1e9 / (8 * 1.25e9))
    assert bound(of, sent=sent, links={"world": "NVLink 5"}).communication == pytest.approx(15 / 16 * 1e9 / 900e9)
    assert bound(of, sent=sent, links={"world": 400e9}).communication == pytest.approx(15 / 16 * 1e9 / 400e9)


def test_where_no_gpu_is_known_neither_are_times_and_the_way_out_is_said() -> None:
    found = bound(of_ops(mm(1), facts=MESH), None, SENT)
    assert (found.compute, found.communication, found.step, found.mfu, found.peaks) == (None, None, None, None, None)
    assert found.unknown == (
        "how fast it computes: no GPU is known: name one, as in bound('H100-80GB'), or give torchprof.Ceilings",
        "what is sent along shard: no GPU with links of its own is known: say what it goes over with "
        "links={'shard': 'NVLink 4'}",
        "what is sent along replicate: no GPU with links of its own is known: say what it goes over with "
        "links={'replicate': 'InfiniBand NDR'}",
    )


def test_where_one_dimension_has_no_link_the_step_is_unknown() -> None:
    found = bound(of_ops(mm(1), facts=MESH), "L40S", SENT)
    assert found.compute is not None
    assert (found.communication, found.step, found.mfu) == (None, None, None)
    assert [each.link for each in found.dimensions] == ["PCIe 4", None]
    assert found.unknown == (
        "what is sent along replicate: no network is known of L40S: say what it goes over with "
        "links={'replicate': 'InfiniBand NDR'}",
    )


def test_ranks_of_a_group_that_is_gone_are_unknown_unless_a_link_is_given() -> None:
    sent = (Sent("all-reduce", "tp", 4, 1, GIGA, "9"),)
    found = bound(of_ops(mm(1)), sent=sent)
    assert found.unknown == (
        "what is sent along tp: which ranks it has is not known: say what it goes over with links={'tp': 'NVLink 4'}",
    )
    assert bound(of_ops(mm(1)), sent=sent, links={"tp": "400 GbE"}).communication == pytest.approx(1.5 * 1e9 / 50e9)


def test_what_has_no_factor_is_not_taken_to_be_sent_at_once() -> None:
    sent = (Sent("send and receive", "pp", 8, 1, GIGA, "2"), Sent("barrier", "pp", 8, 1, 0, "2"))
    found = bound(of_ops(mm(1), facts=MESH), sent=sent)
    assert (found.communication, found.unknown) == (None, ("the time of send and receive",))


@pytest.mark.parametrize(
    ("links", "error", "said"),
    [
        ({"shrd": 1e9}, ArgumentError, "has 'shrd', which is no dimension of the mesh: did you mean 'shard'"),
        ({"x": 1e9}, ArgumentError, "has 'x', which is no dimension of the mesh: it has 'shard', 'replicate'"),
        ({7: 1e9}, ArgumentError, "has 7, which is no dimension of the mesh"),
        ("NVLink 4", ModuleTypeError, "links must be a dict of links by dimension of the mesh, such as {'tp': 'NVLink 4'}"),
        ({"shard": "NVLing"}, ArgumentError, "links.'shard'.='NVLing' is no link that is known here"),
    ],
)
def test_links_that_are_none_are_named(links: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        bound(of_ops(mm(1), facts=MESH), sent=SENT, links=links)


def test_a_dimension_that_nothing_is_sent_along_may_have_a_link() -> None:
    assert bound(of_ops(mm(1), facts=MESH), sent=SENT[:2], links={"replicate": 1e9}).communication == pytest.approx(1.75e-3)
    assert bound(of_ops(mm(1)), links={"tp": 1e9}).communication == 0


def test_a_bound_is_printed_with_all_that_it_rests_on(golden: Golden) -> None:
    attention = ("aten::_scaled_dot_product_flash_attention", 200 * GIGA, HALF, Phase.FORWARD)
    of = of_ops(mm(989 * GIGA), mm(400 * GIGA, phase=Phase.RECOMPUTATION), mm(3 * GIGA, SINGLE), attention, facts=MESH)
    golden(str(bound(of, sent=SENT)), "bound.txt")


def test_a_bound_that_is_unknown_says_why(golden: Golden) -> None:
    lacking = ("mylib::attention", UNKNOWN, HALF, Phase.FORWARD)
    golden(str(bound(of_ops(mm(989 * GIGA), lacking, facts=MESH), "L40S", SENT)), "bound_unknown.txt")


def test_a_bound_is_plain_data_and_says_what_it_is() -> None:
    found = bound(of_ops(mm(989 * GIGA), facts=MESH), sent=SENT)
    assert found.to_dict()["dimensions"][1] == {
        "dimension": "replicate",
        "ranks": 2,
        "bytes": 75 * 10**6,
        "link": "InfiniBand NDR",
        "seconds": 75e6 / 50e9,
    }
    assert repr(found) == "<Bound: at least 1.75 ms>"
    assert repr(bound(of_ops(mm(1)), None)) == "<Bound: unknown>"
