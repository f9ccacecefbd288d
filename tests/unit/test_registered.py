"""Where the modules that were called are registered in the model, on traces written by hand."""

import pytest
from handwritten import module, trace

import torchprof
from torchprof.analysis.model.registered import registered
from torchprof.trace.model import Model
from torchprof.trace.trace import Trace

MODEL = Model((module("", "Net", -1, 16), module("head", "Linear", 0, 32), module("again", "Linear", 0, 32, same_as=1)))


def of(*called: tuple[int, str]) -> Trace:
    """Each module, of an address and a class, is called once inside the first."""
    return trace(
        strings=[name for _, name in called],
        modules=[{"address": address, "type": row} for row, (address, _) in enumerate(called)],
        module_calls=[
            {"module": row, "start": row, "end": row + 1 if row else 99, "parent": 0 if row else -1}
            for row in range(len(called))
        ],
        model=MODEL,
    )


def test_a_module_is_found_by_its_address_at_the_first_of_its_places() -> None:
    assert registered(of((16, "Net"), (32, "Linear"), (48, "Linear"))) == [0, 1, -1]


def test_one_that_had_the_address_of_another_class_is_not_that() -> None:
    found = of((16, "Net"), (32, "Tanh"), (32, "Linear"))
    assert registered(found) == [0, -1, 1]
    rows = {row["path"]: row["calls"] for row in torchprof.by_module(found).rows}
    assert rows == {"": 1, "head": 1, "again": 0, "<Tanh>": 1}


@pytest.mark.parametrize("name", ["LazyLinear", "FSDPLinear", "ParametrizedLinear"])
def test_a_module_whose_class_changes_is_one(name: str) -> None:
    assert registered(of((16, "Net"), (32, name), (32, "Linear"))) == [0, 1, 1]


def test_without_a_model_none_is_registered() -> None:
    assert registered(trace(strings=["Net"], modules=[{"address": 16, "type": 0}])) == [-1]
