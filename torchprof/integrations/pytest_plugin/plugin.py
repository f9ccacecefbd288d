"""The hooks. Whatever needs PyTorch, or takes its time to import, is imported where a test asks for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

from torchprof.errors import TorchprofError
from torchprof.integrations.pytest_plugin.reporting import BASELINE, Reporting
from torchprof.integrations.pytest_plugin.settings import SETTINGS, Settings, add_options

if TYPE_CHECKING:
    from torchprof.integrations.pytest_plugin.limits import Limit
    from torchprof.integrations.pytest_plugin.timing import Timing

__all__ = ["torchprof_fixture"]

pytest_plugins = ("torchprof.integrations.gpu_benchmark",)
MARKER: Final = (
    "limit(peak=None, saved=None, flops=None, ops=None, kernels=None, syncs=None, params=None, graph_breaks=None, "
    "time_ratio=None, module=None): the most that the call of a test, or a module in it, may take (torchprof)"
)
LIMITS = pytest.StashKey[list["Limit"]]()
TIMING = pytest.StashKey["Timing"]()
RESULT = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    settings = config.stash[SETTINGS] = Settings.of(config)
    config.stash[BASELINE] = _baseline(config, settings)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporting(config), "torchprof_reporting")


def _baseline(config: pytest.Config, settings: Settings) -> dict[str, dict[str, Any]] | None:
    """What is compared with: of a worker of xdist, what its controller has read."""
    if hasattr(config, "workerinput"):
        found: dict[str, dict[str, Any]] | None = config.workerinput.get("torchprof_baseline")
        return found
    if not settings.baseline:
        return None
    from torchprof.integrations.pytest_plugin.baseline import read

    try:
        found = read(settings.baseline)
    except TorchprofError as error:
        raise pytest.UsageError(str(error)) from None
    return None if settings.update else found


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of xdist begins."""
    node.workerinput["torchprof_baseline"] = node.config.stash[BASELINE]


@pytest.fixture(name="torchprof")
def torchprof_fixture(request: pytest.FixtureRequest) -> Timing:
    """Times a block against another of the same test: ``with torchprof.reference():`` and ``with torchprof.measured():``."""
    from torchprof.integrations.pytest_plugin.timing import Timing

    timing = request.node.stash[TIMING] = Timing()
    return timing


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Read the limits of the test, before anything of it runs: what is wrong with them is an error, no failure."""
    if item.get_closest_marker("limit") is None:
        return
    from torchprof.integrations.pytest_plugin.limits import limits_of

    try:
        limits, said = limits_of(item), ""
    except TorchprofError as error:
        limits, said = [], str(error)
    if any(limit.figure == "time_ratio" for limit in limits) and "torchprof" not in getattr(item, "fixturenames", ()):
        said = (
            "@pytest.mark.limit(time_ratio=...) needs the fixture torchprof, which times a reference: add it to the arguments "
            "of the test, and enter torchprof.reference() and torchprof.measured() in turns"
        )
    if said:
        pytest.fail(said, pytrace=False)
    item.stash[LIMITS] = limits


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure the call of the test: inside of what other plugins do around it."""
    settings, limits = item.config.stash[SETTINGS], item.stash.get(LIMITS, [])
    if not (limits or settings.records_all):
        return (yield)
    from torchprof.integrations.pytest_plugin.measured_call import MeasuredCall
    from torchprof.integrations.pytest_plugin.result import properties_of

    timing, function = item.stash.get(TIMING, None), getattr(item, "obj", None)
    call = MeasuredCall(item.nodeid, limits, settings, timing, item.config.stash[BASELINE], function)
    call.begin()
    try:
        returned = yield
    finally:
        call.end()
        result = item.stash[RESULT] = call.result()
        kept = [each for each in item.user_properties if not each[0].startswith("torchprof_")]  # of a run before this one
        item.user_properties[:] = [*kept, *properties_of(result)]
    if not getattr(item, "_excinfo", None) and (said := call.wrong()):  # a TestCase that failed does not raise
        pytest.fail(said, pytrace=False)
    return returned


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call" and RESULT in item.stash:
        report.torchprof = item.stash[RESULT]
    return report
