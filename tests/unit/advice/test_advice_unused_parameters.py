"""`unused_parameters`: what is to be trained, and gets no gradient."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import module, parameter, trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.unused_parameters import unused_parameters
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase, Use

KIB = 1024


def trained(
    *,
    head_gets_one: bool = False,
    head_is_called: bool = True,
    trainable: bool = True,
    strings: tuple[str, ...] = (),
    **facts: Any,
) -> torchprof.Trace:
    """``Net(body, head)`` of 1 and 3 KiB. Backward allocates a gradient of the body."""
    model = Model(
        (
            module("", "Net", -1, 100),
            module("body", "Linear", 0, 101, parameters=(parameter("weight", 256),)),
            module("head", "Linear", 0, 102, parameters=(parameter("weight", 768, trainable=trainable),)),
        )
    )
    held = [{"start": -1, "bytes": size, "module": row, "uses": int(Use.PARAMETER)} for row, size in ((0, KIB), (1, 3 * KIB))]
    gradients = [{"start": 10, "bytes": KIB, "module": 0, "op": 0, "uses": int(Use.GRADIENT)}]
    if head_gets_one:
        gradients.append({"start": 11, "bytes": 3 * KIB, "module": 1, "op": 0, "uses": int(Use.GRADIENT)})
    return trace(
        model=model,
        strings=["MmBackward0", "Linear", *strings],
        modules=[{"address": 101, "type": 1}, {"address": 102, "type": 1}],
        module_calls=[{"start": 1, "end": 2, "module": row} for row in range(1 + head_is_called)],
        ops=[{"name": 0, "start": 5, "end": 20, "flags": int(Phase.BACKWARD) << 4}],
        allocations=held + gradients,
        facts=facts,
    )


def test_a_head_without_a_gradient() -> None:
    (found,) = unused_parameters(trained(unread_modules=[2]))
    assert found.module == "head"
    assert found.details == ("head: 3.0 KiB, which no op reads",)
    assert found.worth is not None
    assert (found.worth.high, found.worth.whole) == (3 * KIB, 5 * KIB)
    assert "find_unused_parameters" not in found.advice


def test_one_whose_parameters_are_read_and_detached() -> None:
    (found,) = unused_parameters(trained(unread_modules=[]))
    assert found.details == ("head: 3.0 KiB",)


def test_ranks_wait_for_such_gradients() -> None:
    (found,) = unused_parameters(trained(strings=("c10d::allreduce_",)))
    assert "find_unused_parameters=True" in found.advice


def test_where_all_get_one() -> None:
    assert list(unused_parameters(trained(head_gets_one=True))) == []


def test_what_is_read_by_another_and_never_called_is_not_known() -> None:
    """As the output projection of ``nn.MultiheadAttention``."""
    assert list(unused_parameters(trained(head_is_called=False))) == []
    assert [found.module for found in unused_parameters(trained(head_is_called=False, unread_modules=[2]))] == ["head"]


def test_frozen_parameters_want_none() -> None:
    assert list(unused_parameters(trained(trainable=False))) == []


def test_where_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="no model"):
        list(unused_parameters(trace()))
    with pytest.raises(NotTold, match="no backward pass"):
        list(unused_parameters(trace(model=Model((module("", "Net", -1, 100),)))))
    with pytest.raises(NotTold, match="shapes"):
        list(unused_parameters(trained(shapes=False)))
    with pytest.raises(NotTold, match="which gradients"):
        list(unused_parameters(trained(compiled=True)))
    with pytest.raises(NotTold, match="which gradients"):
        list(unused_parameters(trained(compiled_outside_calls=1)))
