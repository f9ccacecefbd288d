"""The documentation is complete: public names have a place, files that it names are there, every column is described."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import torchprof
from torchprof.advice.registry import all_rules
from torchprof.reporting.step_figures import FIGURES
from torchprof.tables.columns import COLUMNS, LEFT_OUT_FIRST
from torchprof.trace.schema import LAYOUTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("**/*.md"))]
LISTS = ("operands", "dims", "op_stacks", "call_stacks", "allocation_stacks")
"""Tables whose rows are plain numbers."""


def with_columns(page: str) -> str:
    """The text of a page with its tables of columns, as mkdocs gets it."""
    hook = runpy.run_path(str(DOCS / "hooks" / "columns.py"))["on_page_markdown"]
    return str(hook(text_of(page)))


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_readme_is_what_a_newcomer_needs() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_tutorial_shows_the_network_that_is_tested() -> None:
    assert '\n--8<-- "examples/my_network.py"\n' in text_of("docs/tutorial/first-network.md")


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^::: torchprof\.(\w+)$", reference, re.MULTILINE))
    assert named == {name for name in torchprof.__all__ if not name.startswith("_")}


def test_every_page_is_in_the_navigation() -> None:
    navigation = text_of("mkdocs.yml").partition("\nnav:")[2]
    pages = {str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", navigation))


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:torchprof|csrc|tests|benchmarks|examples|docs|\.ci)/[\w./]+)`", text)
    if page.parent == ROOT:
        named += [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    missing = [
        name for name in named if not (ROOT / name).exists() and not list((ROOT / name).parent.glob(f"{Path(name).name}.*"))
    ]
    assert not missing


def test_contributing_lists_every_room() -> None:
    text = text_of("CONTRIBUTING.md")
    rooms = [path.parent.relative_to(ROOT) for path in (ROOT / "torchprof").glob("*/__init__.py")]
    rooms += [path.relative_to(ROOT) for path in (ROOT / "csrc").iterdir() if path.is_dir()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def test_every_rule_of_advice_is_described() -> None:
    page = text_of("docs/guides/what-could-be-better.md")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == [rule.name for rule in all_rules()]


def test_every_table_of_a_trace_is_described_with_every_column() -> None:
    page = text_of("docs/file-format.md")
    assert re.findall(r"^<!-- columns of (\w+) -->$", page, re.MULTILINE) != []
    made = with_columns("docs/file-format.md")
    for table, layout in LAYOUTS.items():
        if table in LISTS:
            assert f"`{table}`" in page
            continue
        section = made.partition(f"\n### {table}\n")[2].partition("\n### ")[0]
        described = dict(re.findall(r"^\| `(\w+)` \| [\w\[\]]+ \| (.*) \|$", section, re.MULTILINE))
        assert tuple(described) == layout.names
        assert all(described.values()), f"{table}: say what each column means in rows.h"


def test_every_printed_column_is_described() -> None:
    made = with_columns("docs/reference/columns.md")
    assert all(f"| `{name}` |" in made for name in COLUMNS)


def test_every_figure_is_described() -> None:
    made = with_columns("docs/reference/trackers.md")
    assert re.findall(r"^\| `(\w+)` \|", made, re.MULTILINE) == list(FIGURES)


def test_the_guide_tells_which_columns_are_left_out_first() -> None:
    order = text_of("docs/guides/layers-and-shapes.md").partition("columns are left out: ")[2].partition(", then")[0]
    assert re.findall(r"`(\w+)`", order) == list(LEFT_OUT_FIRST)


def test_every_memory_category_is_described() -> None:
    guide = text_of("docs/guides/what-holds-the-memory.md")
    assert [category for category in torchprof.CATEGORIES if f"`{category}`" not in guide] == []


def test_the_page_of_the_format_tells_the_version_that_is_written() -> None:
    from torchprof.trace.file import FORMAT

    assert f"This is format {FORMAT}." in text_of("docs/file-format.md")


def test_every_subcommand_and_option_is_described() -> None:
    hook = runpy.run_path(str(DOCS / "hooks" / "command_line.py"))
    page = hook["on_page_markdown"](text_of("docs/reference/command-line.md"))
    sections = dict(re.findall(r"\n### (\S+)\n(.*?)(?=\n##|\Z)", page, re.DOTALL))
    subcommands = hook["subcommands"]()
    assert list(sections) != []
    assert set(sections) == set(subcommands)
    for name, parser in subcommands.items():
        options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        assert options <= set(re.findall(r"`(--?[\w-]+)", sections[name])), name
