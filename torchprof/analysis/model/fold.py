"""Fewer rows: a limit on depth, and runs of identical siblings as one row. Figures stay sums of what they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from torchprof.analysis.model.rows import Row

__all__ = ["fold_siblings", "limit_depth"]

_SUMMED = (
    "calls output_bytes params trainable params_total param_bytes buffer_bytes forward forward_self recompute backward "
    "backward_self device_forward device_recompute device_backward params_local"
).split()
_FLOPS = ("flops", "flops_backward")
"""A sum of these with something unknown in it is a lower bound, and not unknown itself."""


def limit_depth(rows: Sequence[Row], depth: int) -> list[Row]:
    """Rows down to ``depth``; those at the limit count the parameters, bytes and self times of everything below them."""
    kept: list[Row] = []
    for row in rows:
        if row.depth <= depth:
            kept.append(row)
        else:
            last = kept[-1]
            kept[-1] = last._replace(
                params=last.params + row.params,
                params_local=last.params_local + row.params_local,
                trainable=last.trainable + row.trainable,
                param_bytes=last.param_bytes + row.param_bytes,
                buffer_bytes=last.buffer_bytes + row.buffer_bytes,
                forward_self=last.forward_self + row.forward_self,
                backward_self=last.backward_self + row.backward_self,
                failed=last.failed or row.failed,
                note=row.note if row.failed else last.note,
            )
    return kept


def fold_siblings(rows: Sequence[Row]) -> list[Row]:
    """Consecutive numbered siblings whose subtrees are alike in classes, shapes and parameters become one row.

    Numbered: as ``nn.Sequential`` and ``nn.ModuleList`` name their members. Names that were given on purpose stay.
    """
    return [row for subtree in _fold_level(_subtrees(rows)) for row in subtree]


def _subtrees(rows: Sequence[Row]) -> list[list[Row]]:
    """Split rows of one level and everything below it at the rows of the level."""
    subtrees: list[list[Row]] = []
    for row in rows:
        if not subtrees or row.depth <= subtrees[0][0].depth:
            subtrees.append([])
        subtrees[-1].append(row)
    return subtrees


def _fold_level(subtrees: list[list[Row]]) -> list[list[Row]]:
    folded: list[list[Row]] = []
    group: list[list[Row]] = []

    def close() -> None:
        if group:
            folded.append(_merge(group))
            group.clear()

    for subtree in subtrees:
        children = _fold_level(_subtrees(subtree[1:]))
        subtree = [subtree[0], *(row for child in children for row in child)]
        numbered = subtree[0].name.isdecimal()
        if group and not (numbered and group[0][0].name.isdecimal() and _signature(group[0]) == _signature(subtree)):
            close()
        group.append(subtree)
    close()
    return folded


def _signature(subtree: list[Row]) -> tuple[object, ...]:
    top = subtree[0].depth
    return tuple(
        (
            row.depth - top,
            row.type if row is subtree[0] else (row.name, row.type),
            row.calls,
            row.input_shapes[: len(row.input_shapes) - row.inputs_in_objects],  # a cache grows from sibling to sibling
            row.output_shapes,
            row.further_inputs,
            row.further_outputs,
            row.output_dtypes,
            row.training,
            row.kernel_size,
            row.defined,
            row.params,
            row.trainable,
            row.note,
            row.copies,
            tuple((name, shard.placements, shard.shape) for name, shard in row.shards.items()),
        )
        for row in subtree
    )


def _merge(group: list[list[Row]]) -> list[Row]:
    if len(group) == 1:
        return group[0]
    merged = []
    for same in zip(*group, strict=True):
        figures: dict[str, object] = {name: _sum([getattr(row, name) for row in same]) for name in _SUMMED}
        for name in _FLOPS:
            unknown = tuple(sorted({op for row in same for op in getattr(row, f"{name}_unknown")}))
            known = [count for row in same if (count := getattr(row, name)) is not None]
            figures |= {name: (sum(known) or None) if unknown or not known else sum(known), f"{name}_unknown": unknown}
        merged.append(same[0]._replace(**figures))
    first, last = group[0][0], group[-1][0]
    merged[0] = merged[0]._replace(name=f"{first.name}..{last.name}", copies=len(group))
    return merged


def _sum(values: list[int | None]) -> int | None:
    """The sum, which is unknown where a value is."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
