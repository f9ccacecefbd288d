"""What a wheel must have, on wheels that are written by hand. `dev.py wheel` builds real ones and installs them."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages
from wheels import ROOT, files_of_the_package, problems, project

FOLDER = "torchprof_recorder-1.0+torch2.13.0.dist-info"
NAME = "torchprof_recorder-1.0+torch2.13.0-cp311-cp311-linux_x86_64.whl"


def requirements(torch: str) -> list[str]:
    others = [each for each in project()["dependencies"] if not each.startswith("torch")]
    extras = project()["optional-dependencies"]
    of_extras = [f'{each}; extra == "{extra}"' for extra, needed in extras.items() for each in needed]
    return [torch, *others, *of_extras]


def whole() -> dict[str, str]:
    """The files of a wheel to which nothing is missing."""
    points = {"console_scripts": project()["scripts"], **project().get("entry-points", {})}
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in found.items())]) for group, found in points.items()
    )
    metadata = ["Version: 1.0+torch2.13.0", *(f"Requires-Dist: {each}" for each in requirements("torch==2.13.0"))]
    metadata += [f"Provides-Extra: {extra}" for extra in project()["optional-dependencies"]]
    return {
        **dict.fromkeys(files_of_the_package(), ""),
        "torchprof/_C.cpython-311-x86_64-linux-gnu.so": "",
        "torchprof/_built_for.py": 'TORCH_VERSION = "2.13.0+cpu"\n',
        f"{FOLDER}/METADATA": "\n".join(metadata) + "\n\n",
        f"{FOLDER}/entry_points.txt": "\n\n".join(groups) + "\n",
        f"{FOLDER}/RECORD": "",
    }


def wheel(folder: Path, files: dict[str, str], name: str = NAME) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return folder / name


def test_nothing_is_wrong_with_a_whole_wheel(tmp_path: Path) -> None:
    assert problems(wheel(tmp_path, whole())) == []


@pytest.mark.parametrize(
    "missing",
    ["torchprof/py.typed", "torchprof/_C.pyi", "torchprof/reporting/templates/page.css", "torchprof/advice/rules/leaks.py"],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    files = whole()
    del files[missing]
    assert problems(wheel(tmp_path, files)) == [f"{missing} is missing"]


def test_what_is_not_built_is_named(tmp_path: Path) -> None:
    files = {name: text for name, text in whole().items() if not name.endswith(".so")}
    assert problems(wheel(tmp_path, files)) == ["torchprof/_C.*.so is missing: it was not built"]


@pytest.mark.parametrize("stray", ["csrc/trace/rows.h", "tests/conftest.py", "torchprof/left_over.py", "setup.py"])
def test_what_does_not_belong_into_a_wheel_is_named(tmp_path: Path, stray: str) -> None:
    assert problems(wheel(tmp_path, {**whole(), stray: ""})) == [f"{stray} does not belong there"]


def test_a_wheel_requires_the_torch_that_it_is_built_for(tmp_path: Path) -> None:
    files = whole()
    metadata = files[f"{FOLDER}/METADATA"]
    files[f"{FOLDER}/METADATA"] = metadata.replace("torch==2.13.0", "torch>=2.11").replace("1.0+torch2.13.0", "1.0")
    found = problems(wheel(tmp_path, files))
    assert re.search(r"it requires .*'torch>=2.11'.*, not .*'torch==2.13.0'", found[0])
    assert found[1:] == ["its version 1.0 does not end with +torch2.13.0, which it is built for"]


def test_a_package_more_that_the_core_requires_is_named(tmp_path: Path) -> None:
    files = whole()
    files[f"{FOLDER}/METADATA"] = f"Requires-Dist: pandas>=2\n{files[f'{FOLDER}/METADATA']}"
    (found,) = problems(wheel(tmp_path, files))
    assert "'pandas>=2'" in found


def test_a_lost_entry_point_and_a_lost_extra_are_named(tmp_path: Path) -> None:
    files = whole()
    files[f"{FOLDER}/entry_points.txt"] = ""
    files[f"{FOLDER}/METADATA"] = files[f"{FOLDER}/METADATA"].replace("Provides-Extra: report\n", "")
    extras, points = problems(wheel(tmp_path, files))
    assert extras.startswith("its extras are")
    assert points.startswith("its entry points are {}, not")


def test_a_wheel_for_every_python_is_none(tmp_path: Path) -> None:
    name = NAME.replace("cp311-cp311", "py3-none")
    assert problems(wheel(tmp_path, whole(), name)) == [f"{name} does not say which Python it is for"]


def test_the_core_needs_torch_numpy_and_rich_alone() -> None:
    assert sorted(re.split(r"[<>=]", each)[0] for each in project()["dependencies"]) == ["numpy", "rich", "torch"]


def test_all_is_every_other_extra() -> None:
    extras = project()["optional-dependencies"]
    (named,) = re.findall(r"torchprof-recorder\[(.*)\]", *extras["all"])
    assert sorted(named.split(",")) == sorted(extras.keys() - {"all"})
    assert {"report", "pytest", "lightning", "trackers"} <= extras.keys()


def test_setuptools_finds_every_package_and_every_other_file() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set(find_packages(str(ROOT), **tool["packages"]["find"]))
    files = {Path(name) for name in files_of_the_package()}
    assert {".".join(path.parent.parts) for path in files if path.suffix == ".py"} == found
    data = {path for pattern in tool["package-data"]["torchprof"] for path in (ROOT / "torchprof").glob(pattern)}
    assert {ROOT / path for path in files if path.suffix != ".py"} == data
