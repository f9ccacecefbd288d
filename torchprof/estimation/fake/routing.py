"""Which experts a router chooses where tensors have no values: as many tokens go to each.

What is chosen is known then, as numbers; and with it all that is computed from it alone, for real: how many tokens an expert
gets, where they are, and what other ranks are told of that. It is integers and masks, so a program need not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from torchprof.errors import ArgumentError
from torchprof.estimation.sharding.exchanged import COLLECTIVES, received
from torchprof.estimation.torch_private import ESTIMATE
from torchprof.record.nested import find_tensors
from torchprof.wording import shown

__all__ = ["CHOOSES", "Routing", "chosen_evenly", "factor_of"]

FakeTensor = ESTIMATE.FakeTensor

CHOOSES: Final = ("aten::topk", "aten::argmax", "aten::max", "aten::multinomial")
"""The ops by which routers choose."""
MADE: Final = "_torchprof_made"
"""An attribute of fake tensors that the program makes of plain numbers: a function that makes the real one."""
FOLLOWS: Final = "_torchprof_follows"
"""An attribute of fake tensors whose values follow from what a router chooses."""
LARGEST_INDEX: Final = 1 << 20
"""Elements up to which such tensors of integers are made for real because the program looks at a part of them."""
UNDEFINED: Final = frozenset({"aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided"})
"""Ops whose results have whatever values were there."""
INDEXES: Final = frozenset(
    {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index_put"}
)
"""Ops that are given a mask, or where it selects."""
INDEX: Final = torch.ops.aten.index.Tensor
SELECT: Final = torch.ops.aten.masked_select.default
READS: Final = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
"""What ops are tagged with whose results depend on values."""
FILLED: Final[dict[str, int]] = {
    **dict.fromkeys(("aten::zeros", "aten::zeros_like", "aten::new_zeros"), 0),
    **dict.fromkeys(("aten::ones", "aten::ones_like", "aten::new_ones"), 1),
}
FULL: Final = {"aten::full": 1, "aten::full_like": 1, "aten::new_full": 2}
"""Ops that fill with a number, and at which place they are given it."""


def factor_of(routing: Any, world_size: int | None) -> float | None:
    """How much more than its share a rank is sent; None: nothing is assumed of routers.

    Args:
        routing: as for `torchprof.estimate`.
        world_size: how many ranks there are; None: one alone.

    Raises:
        ArgumentError: it is nothing of the kind.
    """
    if routing is None:
        return None
    if routing == "balanced" and isinstance(routing, str):
        return 1.0
    if isinstance(routing, bool) or not isinstance(routing, int | float) or not 1 <= routing < math.inf:
        raise ArgumentError(
            f"routing={shown(routing)} must be 'balanced', a number of at least 1 such as 1.25, for a rank whose experts are "
            "sent as much more than their share; or None, for routers whose choice is not read"
        )
    if world_size is None and routing > 1:
        raise ArgumentError(
            f"routing={routing} is how much more than its share a rank of many is sent: give world_size=, or routing='balanced'"
        )
    return float(routing)


def chosen_evenly(rows: int, count: int, options: int) -> torch.Tensor:
    """What each row chooses of some options, ``[rows, count]``: none twice, and each option as often as any other.

    Where that does not divide, those that are chosen once more are spread over all options.

    Example:
        >>> chosen_evenly(4, 2, 4).tolist()
        [[0, 2], [0, 2], [1, 3], [1, 3]]
    """
    places = torch.arange(rows * count).view(count, rows).t()
    return torch.div((places + 1) * options - 1, max(rows * count, 1), rounding_mode="floor").contiguous()


class Routing:
    """What is assumed of the routers of a program.

    Args:
        factor: how much more than its share this rank is sent; None: nothing is assumed.

    Attributes:
        chosen: the ops that have chosen.
        read: whether the program has read what follows from it.
        exceeded: whether the rank was told that it is sent more than its share.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self.chosen: set[str] = set()
        self.read = False
        self.exceeded = False

    def __bool__(self) -> bool:
        return self._factor is not None

    def is_kept(self, real: torch.Tensor) -> bool:
        """Whether the values of a tensor that is computed from known ones are kept."""
        return bool(self) and type(real) is torch.Tensor and real.device.type == "cpu"

    def prepare(self, mode: Any, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The op that is to run, and its arguments, so that it finds the values that are known."""
        fakes = [tensor for tensor in find_tensors((args, kwargs)) if isinstance(tensor, FakeTensor)]
        self._make(mode, func, fakes)
        known = [tensor for tensor in fakes if tensor.constant is not None]
        if not known:
            return func, args, kwargs
        if func is SELECT and args[1].constant is not None and args[0].shape == args[1].shape:
            func, args = INDEX, (args[0], [args[1]])
        if func._schema.name in INDEXES:
            self.read |= any(tensor.dtype is torch.bool and FOLLOWS in vars(tensor) for tensor in known)
            places = [place for each in args[1] for place in _places(mode, each)]
            return func, (args[0], places, *args[2:]), kwargs
        self.read |= _follows(known) and not READS.isdisjoint(getattr(func, "tags", ()))
        return func, args, kwargs

    def know(self, mode: Any, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        """What an op returned, with the values that are known."""
        returned = self._with_values(mode, func, args, kwargs, returned)
        if _follows(find_tensors((args, kwargs))):
            self._follow(find_tensors(returned))
        return returned

    @staticmethod
    def _follow(tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, FakeTensor) and tensor.constant is not None:
                setattr(tensor, FOLLOWS, True)

    def _with_values(self, mode: Any, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        name = func._schema.name
        if name in CHOOSES:
            return self._choose(mode, func, args, kwargs, returned)
        if func.namespace in COLLECTIVES:
            for fake, real in received(func, args, kwargs, returned, self._factor or 1.0):
                if real is not None and isinstance(fake, FakeTensor):
                    _set(mode, fake, real)
                    self._follow([fake])
                    self.exceeded |= self._factor != 1.0
                elif isinstance(fake, FakeTensor):
                    fake.constant = None
            return returned
        if not isinstance(returned, FakeTensor):
            return returned
        if name in UNDEFINED:
            returned.constant = None
        elif returned.constant is None and (make := _maker(func, name, args, kwargs, returned)) is not None:
            setattr(returned, MADE, make)
        elif returned.constant is not None and args and returned is not args[0] and _writes(func):
            return args[0]
        return returned

    def _choose(self, mode: Any, func: Any, args: Any, kwargs: Any, returned: Any) -> Any:
        """The same with an even choice in place of one that depends on values."""
        name = func._schema.name
        parts = list(returned) if isinstance(returned, tuple) else [returned]
        chosen, options = parts[-1], args[0]
        if (name == "aten::max" and len(parts) == 1) or not isinstance(chosen, FakeTensor) or chosen.constant is not None:
            return returned
        dim = _dim(func, args, kwargs)
        if dim is None or not options.dim():
            return returned
        count = chosen.shape[dim] if chosen.dim() == options.dim() else 1
        of = options.shape[dim]
        rows = options.numel() // of if of else 0
        if not rows or count > of:
            return returned
        self.chosen.add(name)
        with ESTIMATE.disable_modes():
            shape = [size for place, size in enumerate(options.shape) if place != dim % options.dim()]
            even = chosen_evenly(rows, count, of).view(*shape, count).movedim(-1, dim)
            real = torch.empty_strided(chosen.shape, chosen.stride(), dtype=torch.long).copy_(even.reshape(chosen.shape))
            parts[-1] = mode.fake_tensor_converter.from_real_tensor(mode, real, make_constant=True)
        setattr(parts[-1], FOLLOWS, True)
        return type(returned)(parts) if isinstance(returned, tuple) else parts[0]

    def _make(self, mode: Any, func: Any, fakes: list[Any]) -> None:
        """Make tensors of plain numbers for real, where all that the op is given is known then."""
        made = [tensor for tensor in fakes if tensor.constant is None and MADE in vars(tensor)]
        if not made:
            return
        all_known = len(made) < len(fakes) and all(tensor.constant is not None or MADE in vars(tensor) for tensor in fakes)
        aliases = any(each.alias_info is not None for each in func._schema.arguments)
        for tensor in made:
            is_index = not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= LARGEST_INDEX
            if all_known or (aliases and is_index and not func._schema.is_mutable):
                with ESTIMATE.disable_modes():
                    _set(mode, tensor, vars(tensor)[MADE]())
            if all_known or aliases:
                vars(tensor).pop(MADE, None)

    def numpy(self) -> _Numpy:
        """Fake tensors whose values are known turn into numpy arrays of these, until the block ends."""
        return _Numpy(self)

    def assumed(self) -> Iterator[str]:
        """What is assumed, in words, of what the program has read."""
        if not self.read:
            return
        names = ", ".join(sorted(self.chosen))
        yield (
            f"routing is balanced: what {names} chooses among is chosen equally often, so that each expert gets as many "
            "tokens. It is not measured, and real routers send some experts more"
        )
        if self._factor != 1.0:
            yield (
                f"the experts of this rank are sent {self._factor:g} times their share"
                if self.exceeded
                else f"routing={self._factor:g} changes nothing: no rank is told how many tokens others send it"
            )


class _Numpy(TorchFunctionMode):
    def __init__(self, routing: Routing) -> None:
        super().__init__()
        self._routing = routing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and self._routing:
            known = getattr(args[0], "constant", None)
            if isinstance(known, torch.Tensor):
                self._routing.read |= FOLLOWS in vars(args[0])
                with ESTIMATE.disable_modes(), ESTIMATE.DisableTorchFunction():
                    array = known.clone().numpy()
                    return array.astype(args[1]) if args[1:] else array
        return func(*args, **(kwargs or {}))


def _follows(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether one of these has values that follow from what a router chooses."""
    return any(isinstance(tensor, FakeTensor) and tensor.constant is not None and FOLLOWS in vars(tensor) for tensor in tensors)


def _set(mode: Any, fake: Any, real: torch.Tensor) -> None:
    fake.constant = real
    mode.fake_tensor_converter.add_constant_storage_mapping(fake)


def _dim(func: Any, args: Any, kwargs: Any) -> int | None:
    """Along which dimension an op chooses; None: among all elements."""
    for place, declared in enumerate(func._schema.arguments):
        if declared.name == "dim":
            return args[place] if place < len(args) else kwargs.get("dim", declared.default_value)  # type: ignore[no-any-return]
    return -1


def _places(mode: Any, index: Any) -> Iterable[Any]:
    """The index of an op; for a mask that is known, where it selects."""
    if not isinstance(index, FakeTensor) or index.constant is None or index.dtype not in (torch.bool, torch.uint8):
        return (index,)
    with ESTIMATE.disable_modes():
        found = index.constant.nonzero(as_tuple=True)
        return [mode.fake_tensor_converter.from_real_tensor(mode, each.contiguous(), make_constant=True) for each in found]


def _maker(func: Any, name: str, args: Any, kwargs: Any, returned: Any) -> Callable[[], torch.Tensor] | None:
    """Makes the real tensor that an op makes of plain numbers; None where it is another op."""
    shape, dtype = returned.shape, returned.dtype
    if name == "aten::arange":
        plain = {key: value for key, value in kwargs.items() if key in ("start", "end", "step")}
        return lambda: func(*args, **plain, dtype=dtype)
    value = FILLED.get(name)
    if name in FULL:
        value = args[FULL[name]] if len(args) > FULL[name] else kwargs.get("fill_value")
    if not isinstance(value, bool | int | float):
        return None
    return lambda: torch.full(shape, value, dtype=dtype)


def _writes(func: Any) -> bool:
    """Whether an op returns its first argument, to which it has written."""
    first = func._schema.arguments[0].alias_info if func._schema.arguments else None
    return first is not None and first.is_write
