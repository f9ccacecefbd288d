"""The options of the plugin: what is asked for on the command line of pytest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import pytest

from torchprof.integrations.pytest_plugin.tolerance import Tolerances

__all__ = ["BUDGET", "SETTINGS", "Settings", "add_options"]

BUDGET: Final = 2**30
"""Bytes that the recording of a test may take."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    Attributes:
        table: whether figures of every test are printed.
        save: the folder that traces are kept in; empty: none are.
        baseline: the file of the baseline; empty: there is none.
        update: whether the baseline is written anew, and not compared with.
        tolerances: how far figures may be from those of the baseline.
    """

    table: bool
    save: str
    baseline: str
    update: bool
    tolerances: Tolerances

    @property
    def records_all(self) -> bool:
        """Whether every test is recorded, or only those with limits."""
        return self.table or bool(self.save or self.baseline)

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        """What the options say. Paths are made absolute, which workers of xdist then get.

        Raises:
            pytest.UsageError: they contradict each other, or one cannot be read.
        """
        option = config.option
        for name in ("torchprof_save", "torchprof_baseline"):
            if path := getattr(option, name):
                setattr(option, name, os.path.join(config.invocation_params.dir, os.path.expanduser(path)))
        if option.torchprof_update_baseline and not option.torchprof_baseline:
            raise pytest.UsageError("--torchprof-update-baseline needs the file: give --torchprof-baseline FILE too")
        if option.torchprof_tolerance and not option.torchprof_baseline:
            raise pytest.UsageError("--torchprof-tolerance is of a baseline: give --torchprof-baseline FILE too")
        if option.torchprof_save and os.path.exists(option.torchprof_save) and not os.path.isdir(option.torchprof_save):
            raise pytest.UsageError(f"--torchprof-save {option.torchprof_save} is a file: name a folder")
        if option.torchprof_baseline and (option.torchprof_update_baseline or not os.path.exists(option.torchprof_baseline)):
            _check_place(option.torchprof_baseline)
        return cls(
            bool(option.torchprof),
            option.torchprof_save,
            option.torchprof_baseline,
            bool(option.torchprof_update_baseline),
            Tolerances.parse(option.torchprof_tolerance),
        )


def _check_place(path: str) -> None:
    """Say before the first test, and not after the last, that the baseline cannot be written.

    Raises:
        pytest.UsageError: it cannot.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise pytest.UsageError(f"--torchprof-baseline {path} cannot be written: there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK) or (os.path.exists(path) and not os.access(path, os.W_OK)):
        raise pytest.UsageError(f"--torchprof-baseline {path} cannot be written: permission denied; name another place")


SETTINGS = pytest.StashKey[Settings]()


def add_options(parser: pytest.Parser) -> None:
    """Add the options to pytest's."""
    group = parser.getgroup("torchprof", "torchprof: time, memory and FLOPs of tests that run PyTorch")
    texts: dict[str, Any] = {"default": "", "metavar": "FILE"}
    group.addoption(
        "--torchprof",
        action="store_true",
        help="print the peak, FLOPs, ops, kernels and time of every test at the end",
    )
    group.addoption("--torchprof-save", **{**texts, "metavar": "DIR"}, help="keep a trace of every test in this folder")
    group.addoption(
        "--torchprof-baseline",
        **texts,
        help="compare every test with this file and fail where a figure differs; written where it does not exist",
    )
    group.addoption(
        "--torchprof-update-baseline",
        action="store_true",
        help="write the figures of this run into the baseline, and compare nothing",
    )
    group.addoption(
        "--torchprof-tolerance",
        action="append",
        default=[],
        metavar="[FIGURE=]PERCENT",
        help="how far figures, or this one, may be from the baseline: '2%%' or 'peak=2%%', as often as needed; by default 0%%",
    )
