"""Which module of one run is which of another."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from torchprof.comparison.alignment.modules import align_modules
from torchprof.comparison.side import Row

Spec = tuple[str, str] | tuple[str, str, int]


def rows(*modules: Spec) -> list[Row]:
    """Rows of modules by path, class and number of parameters, parents first."""
    found = []
    for path, type, *size in modules:
        depth = path.count(".") + 1 if path else 0
        record = {"path": path, "name": path.rpartition(".")[2] or type, "type": type, "depth": depth}
        found.append(Row({**record, "params": size[0] if size else 0}, {}))
    return found


def aligned(a: Sequence[Row], b: Sequence[Row]) -> dict[str, str]:
    """How each row was found, by its path in B, or in A where that is removed; with what it was before."""
    return {
        pair.row.record["path"] or pair.row.record["name"]: pair.note or pair.how for pair in align_modules(list(a), list(b))
    }


NET: tuple[Spec, ...] = (("", "Net"), ("conv", "Conv2d", 9), ("act", "ReLU"), ("fc", "Linear", 20))


def test_modules_with_the_same_path_are_the_same() -> None:
    assert set(aligned(rows(*NET), rows(*NET)).values()) == {"same"}


def test_a_layer_that_has_another_name_in_the_same_place_is_renamed() -> None:
    other = (("", "Net"), ("conv", "Conv2d", 9), ("relu", "ReLU"), ("fc", "Linear", 20))
    assert aligned(rows(*NET), rows(*other))["relu"] == "renamed from act"


def test_what_is_in_a_renamed_module_is_renamed_with_it() -> None:
    a = (("", "Net"), ("body", "Block"), ("body.fc", "Linear", 6))
    b = (("", "Net"), ("trunk", "Block"), ("trunk.fc", "Linear", 6))
    assert aligned(rows(*a), rows(*b)) == {"Net": "same", "trunk": "renamed from body", "trunk.fc": "same"}


def test_a_layer_with_other_parameters_or_in_another_place_is_another_one() -> None:
    larger = (("", "Net"), ("conv", "Conv2d", 9), ("act", "ReLU"), ("head", "Linear", 40))
    assert aligned(rows(*NET), rows(*larger)) == {
        **{"Net": "same", "conv": "same", "act": "same"},
        **{"head": "added", "fc": "removed"},
    }
    elsewhere = (("", "Net"), ("head", "Linear", 20), ("conv", "Conv2d", 9), ("act", "ReLU"))
    assert aligned(rows(*NET), rows(*elsewhere))["head"] == "added"


def test_a_layer_of_another_class_under_the_same_name_says_what_it_was() -> None:
    other = (("", "Net"), ("conv", "Conv2d", 9), ("act", "GELU"), ("fc", "Linear", 20))
    assert aligned(rows(*NET), rows(*other))["act"] == "was ReLU"


def test_a_layer_that_is_inserted_in_a_list_moves_those_behind_it() -> None:
    a = rows(("", "Sequential"), ("0", "Linear", 6), ("1", "ReLU"), ("2", "Linear", 8))
    b = rows(("", "Sequential"), ("0", "Linear", 6), ("1", "Dropout"), ("2", "ReLU"), ("3", "Linear", 8))
    assert aligned(a, b) == {
        **{"Sequential": "same", "0": "same", "1": "added"},
        **{"2": "renamed from 1", "3": "renamed from 2"},
    }


def test_one_more_of_equal_blocks_is_the_last() -> None:
    def blocks(count: int) -> list[Row]:
        inner = [(("layers." + str(at), "Block"), (f"layers.{at}.fc", "Linear", 6)) for at in range(count)]
        return rows(("", "Net"), ("layers", "ModuleList"), *(each for block in inner for each in block))

    found = aligned(blocks(3), blocks(4))
    assert {path for path, how in found.items() if how != "same"} == {"layers.3", "layers.3.fc"}


def test_a_list_whose_layers_all_have_another_size_is_the_same_list() -> None:
    a = rows(("", "Sequential"), ("0", "Linear", 6), ("1", "Linear", 8))
    b = rows(("", "Sequential"), ("0", "Linear", 60), ("1", "Linear", 80))
    assert set(aligned(a, b).values()) == {"same"}


def test_wrappers_are_seen_through() -> None:
    plain = rows(("", "Net"), ("layer", "Block"), ("layer.fc", "Linear", 6))
    compiled = rows(
        ("", "OptimizedModule"), ("_orig_mod", "Net"), ("_orig_mod.layer", "Block"), ("_orig_mod.layer.fc", "Linear", 6)
    )
    assert aligned(plain, compiled) == {
        **{"OptimizedModule": "added", "_orig_mod": "same"},
        **{"_orig_mod.layer": "same", "_orig_mod.layer.fc": "same"},
    }
    distributed = rows(
        *(("", "DistributedDataParallel"), ("module", "Net"), ("module.layer", "CheckpointWrapper")),
        *(("module.layer._checkpoint_wrapped_module", "Block"), ("module.layer._checkpoint_wrapped_module.fc", "Linear", 6)),
    )
    found = aligned(compiled, distributed)
    assert found["module.layer._checkpoint_wrapped_module.fc"] == "same"
    assert found["OptimizedModule"] == "removed"
    assert found["DistributedDataParallel"] == "added"


def test_a_layer_that_is_called_module_is_no_wrapper() -> None:
    a = rows(("", "Net"), ("module", "Linear", 6))
    b = rows(("", "Net"), ("module", "Linear", 6), ("more", "Linear", 6))
    assert aligned(a, b) == {"Net": "same", "module": "same", "more": "added"}


@st.composite
def trees(draw: st.DrawFn) -> list[Row]:
    specs: list[Spec] = [("", "Net")]
    for name in draw(st.lists(st.sampled_from(["0", "1", "2", "a", "b", "_orig_mod", "module"]), unique=True)):
        specs.append((name, draw(st.sampled_from(["Linear", "ReLU", "Sequential"])), draw(st.integers(0, 2))))
        inside = draw(st.lists(st.sampled_from(["0", "1", "c"]), unique=True, max_size=2))
        specs += [(f"{name}.{child}", draw(st.sampled_from(["Linear", "ReLU"])), 1) for child in inside]
    return rows(*specs)


@given(trees(), trees())
def test_every_row_is_in_one_pair(a: list[Row], b: list[Row]) -> None:
    pairs = align_modules(a, b)
    assert sorted(id(pair.a) for pair in pairs if pair.a is not None) == sorted(map(id, a))
    assert sorted(id(pair.b) for pair in pairs if pair.b is not None) == sorted(map(id, b))


@given(trees())
def test_a_model_is_the_same_as_itself(a: list[Row]) -> None:
    assert {pair.how for pair in align_modules(a, a)} == {"same"}
