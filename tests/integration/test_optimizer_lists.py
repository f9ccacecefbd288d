"""Ops on lists that run nothing inside, as on a GPU: to whom what is in the lists belongs. Events are written by hand."""

from __future__ import annotations

from typing import Any

from test_collator import Event, collator

from torchprof.trace.schema import LAYOUTS, SCOPE_BACKWARD, SCOPE_USER

WEIGHTS, GRADIENTS, STATES, MORE_STATES, MADE = 1000, 2000, 3000, 4000, 5000
"""Tensor i of a list is at the address of the list + 100 i."""

Place = tuple[int, int]
"""An address, and the size: shapes have one dimension."""


class Step:
    """A forward and backward pass of modules with one weight each, and then an optimizer."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.events: list[Event] = []
        self.clock = 0
        for module in range(len(sizes)):
            self.events.append(("call", self.tick(), 10 + module, "M"))
            self.op("aten::mm", [], sequence=module)
            self.events.append(("return", self.tick()))
        for module, gradient in enumerate(self.all(GRADIENTS)):
            self.op("MmBackward0", [], [gradient], sequence=module, scope=SCOPE_BACKWARD)
            self.op("torch::autograd::AccumulateGrad", [gradient], scope=SCOPE_BACKWARD)
        self.op("Optimizer.step#SGD.step", [], scope=SCOPE_USER, ends=False)

    def all(self, address: int) -> list[Place]:
        return [(address + 100 * at, size) for at, size in enumerate(self.sizes)]

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def op(
        self,
        name: str,
        inputs: list[Place],
        outputs: list[Place] | None = None,
        *,
        sequence: int = -1,
        scope: int = 0,
        ends: bool = True,
    ) -> None:
        key = self.tick()
        thread = 1 if sequence >= 0 and scope == SCOPE_BACKWARD else 0
        self.events.append(("op", key, key, name, sequence, thread, scope))
        self.events += [("tensor", [size], address) for address, size in inputs]
        if ends:
            self.events.append(("end", key, self.tick(), [("tensor", [size], address) for address, size in outputs or []]))

    def owners(self) -> dict[int, int | None]:
        """The number of the module of every block, by its address; None: it is known of none."""
        held = [(address, 4 * size, 10 + at) for at, (address, size) in enumerate(self.all(WEIGHTS))]
        end = ("end", next(event[1] for event in self.events if event[3:4] == ("Optimizer.step#SGD.step",)), self.tick())
        raw = collator().collate_events([[*self.events, end]], 2**30, parameters=held)[0]
        tables: dict[str, Any] = {name: rows.view(LAYOUTS[name]) for name, rows in raw.items()}
        return {
            int(row["address"]): int(tables["modules"]["address"][row["module"]]) - 10 if row["module"] >= 0 else None
            for row in tables["allocations"]
        }

    def of(self, address: int) -> list[int | None]:
        owners = self.owners()
        return [owners[place] for place, _ in self.all(address)]


def test_two_lists_of_which_one_is_gradients() -> None:
    step = Step([8, 8, 8, 8])
    step.op("aten::_foreach_mul_", step.all(STATES))
    step.op("aten::_foreach_add_", step.all(STATES) + step.all(GRADIENTS))
    step.op("aten::_foreach_add_", step.all(WEIGHTS) + step.all(STATES))
    assert step.of(STATES) == [0, 1, 2, 3]


def test_three_lists() -> None:
    step = Step([8, 8, 6])
    step.op("aten::_foreach_lerp_", step.all(STATES) + step.all(GRADIENTS))
    step.op("aten::_foreach_mul_", step.all(MORE_STATES))
    step.op("aten::_foreach_addcmul_", step.all(MORE_STATES) + 2 * step.all(GRADIENTS))
    step.op("aten::_foreach_sqrt", step.all(MORE_STATES), step.all(MADE))
    step.op("aten::_foreach_addcdiv_", step.all(WEIGHTS) + step.all(STATES) + step.all(MADE))
    assert step.of(STATES) == step.of(MORE_STATES) == [0, 1, 2]


def test_two_lists_of_state_are_as_long_as_in_other_ops() -> None:
    step = Step([8, 8])
    step.op("aten::_foreach_maximum_", step.all(MORE_STATES) + step.all(STATES))
    step.op("aten::_foreach_addcmul_", step.all(STATES) + 2 * step.all(GRADIENTS))
    assert step.of(MORE_STATES) == [0, 1]


def test_fused_lists_with_numbers_behind_them() -> None:
    step = Step([8, 8, 8])
    lists = step.all(WEIGHTS) + step.all(GRADIENTS) + step.all(STATES)
    step.op("aten::_fused_sgd_", [*lists, (9000, 1), (9100, 1)])
    assert step.of(STATES) == [0, 1, 2]


def test_one_list_is_not_taken_for_two() -> None:
    """Half of the weights are not of the model."""
    step = Step([8, 8])

    def twice(address: int) -> list[Place]:
        return [*step.all(address), *[(place + 200, size) for place, size in step.all(address)]]

    step.op("aten::_foreach_mul_", twice(WEIGHTS))
    step.op("aten::_foreach_addcmul_", twice(STATES) + 2 * twice(GRADIENTS))
    step.op("aten::_foreach_addcdiv_", twice(WEIGHTS) + twice(STATES) + twice(GRADIENTS))
    owners = step.owners()
    assert [owners[place] for place, _ in twice(WEIGHTS)] == [0, 1, None, None]
    assert [owners[place] for place, _ in twice(STATES)] == [0, 1, None, None]


def test_a_list_that_is_only_scaled_belongs_to_nobody() -> None:
    step = Step([8, 8, 8, 8])
    step.op("aten::_foreach_mul_", step.all(STATES))
    assert step.of(STATES) == [None] * 4


def test_an_address_that_is_used_again_is_another_tensor() -> None:
    """What is made of a weight is freed, and what is made of the other is at its address."""
    step = Step([8, 8])
    for weight, state in zip(step.all(WEIGHTS), step.all(STATES), strict=True):
        step.events.append(("memory", step.tick(), MADE, 32))
        step.op("aten::neg", [weight], [(MADE, 8)])
        step.op("aten::add_", [state, (MADE, 8)])
        step.events.append(("memory", step.tick(), MADE, -32))
    assert step.of(STATES) == [0, 1]
