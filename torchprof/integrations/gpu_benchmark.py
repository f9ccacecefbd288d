"""The fixture ``gpu_benchmark`` for pytest: pytest-benchmark, of what a GPU does and not of what it is told to do.

A pytest plugin. Another one registers it with ``pytest_plugins = ["torchprof.integrations.gpu_benchmark"]``. Where no test asks
for the fixture, nothing is imported and nothing is printed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from torchprof.benchmarking.benchmark import Models
    from torchprof.benchmarking.benchmarked import Benchmark
    from torchprof.benchmarking.call import Call
    from torchprof.trace.ceilings import Ceilings

__all__ = ["GpuBenchmark", "gpu_benchmark"]

DEVICE: Final = " (device)"
"""Behind the name of a test: the benchmark whose times are those of its kernels."""
NOT_INSTALLED: Final = 'is not installed: pip install "torchprof-recorder[pytest]", or pytest-benchmark'
SWITCHED_OFF: Final = "is switched off: run pytest without -p no:benchmark"


class GpuBenchmark:
    """What a test asks for as ``gpu_benchmark``. It is called as ``benchmark`` of pytest-benchmark is.

    Every timed call ends when the devices in use have done all that it launched; none is recorded. What a call does is recorded
    in ``1 + recorded`` calls afterwards, of which the first is left out. The figures are in ``extra_info`` of the benchmark:
    see `torchprof.Benchmark.extra_info`. Where kernels were recorded, a benchmark of its own, named as the test with
    ``(device)`` behind it, has their time in every recorded call, so that tables, comparisons and histograms show it.

    Where benchmarks are disabled, also by pytest-xdist, the function runs once and nothing is recorded.

    Attributes:
        benchmark: the fixture of pytest-benchmark: its ``group``, its ``extra_info``, its ``stats``.
        model, warmup, recorded, ceilings, gpu: as for `torchprof.benchmark`; to set before the call.
        result: the `torchprof.Benchmark`, after the call; None where benchmarks are disabled.

    Example:
        >>> def test_training_step(gpu_benchmark):
        ...     gpu_benchmark.model = model
        ...     gpu_benchmark.ceilings = torchprof.ceilings("cuda", torch.bfloat16)
        ...     gpu_benchmark(train_step, batch)
        ...     assert gpu_benchmark.result.idle_share < 0.2
    """

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark
        self.model: Models | None = None
        self.warmup = 3
        self.recorded = 3
        self.ceilings: Ceilings | None = None
        self.gpu = "auto"
        self.result: Benchmark | None = None

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time calls of the function with these arguments, and record some more.

        Returns:
            What the function returns.

        Raises:
            ArgumentError, ModuleTypeError, RecordingError, ExtensionError: as for `torchprof.benchmark`.
        """
        if self.benchmark.disabled:
            return self.benchmark(function, *args, **kwargs)
        from torchprof.benchmarking.call import Call

        call = Call(function, args, kwargs)
        return self._measure(call, self.warmup, lambda timed, _: self.benchmark(timed, *args, **kwargs))

    def pedantic(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], Any] | None = None,
        teardown: Callable[..., object] | None = None,
        rounds: int = 1,
        warmup_rounds: int | None = None,
        iterations: int = 1,
    ) -> Any:
        """The same in so many rounds, as ``benchmark.pedantic``. Recorded calls have their ``setup`` and ``teardown`` too.

        Args:
            warmup_rounds: by default ``warmup``; at least 1.

        Returns:
            What the function returns.

        Raises:
            ArgumentError, ModuleTypeError, RecordingError, ExtensionError: as for `torchprof.benchmark`.
        """
        options: dict[str, Any] = {"args": args, "kwargs": kwargs, "teardown": teardown}
        options |= {"rounds": rounds, "iterations": iterations}
        if self.benchmark.disabled:
            return self.benchmark.pedantic(target, setup=setup, **options)
        from torchprof.benchmarking.call import Call

        call = Call(target, args, kwargs or {}, setup, teardown)
        warmup = self.warmup if warmup_rounds is None else warmup_rounds
        return self._measure(call, warmup, lambda timed, setup: self.benchmark.pedantic(timed, setup=setup, **options))

    def _measure(self, call: Call, warmup: int, time: Callable[[Callable[..., Any], Callable[[], Any] | None], Any]) -> Any:
        """Warm up, have pytest-benchmark time calls that wait for the devices, and record further ones."""
        from torchprof.benchmarking.benchmark import check_settings, model_of
        from torchprof.benchmarking.benchmarked import Benchmark
        from torchprof.benchmarking.call import record, warm_up
        from torchprof.benchmarking.devices import synchronize
        from torchprof.record.profile import profile

        check_settings(call.function, warmup, self.recorded, self.ceilings)
        model = self.model if self.model is not None else model_of(call.function)
        recording = profile(model, gpu=self.gpu, progress=False)
        devices = warm_up(call, warmup)

        @wraps(call.function)
        def until_done(*args: Any, **kwargs: Any) -> Any:
            result = call.function(*args, **kwargs)
            synchronize(devices)
            return result

        def set_up() -> Any:
            given = call.setup() if call.setup is not None else None
            synchronize(devices)
            return given

        result = time(until_done, set_up if call.setup is not None else None)
        try:
            traces = record(call, recording, self.recorded, devices)
        except BaseException:
            self.benchmark.has_error = True  # times without figures are not kept
            raise
        seconds = self.benchmark.stats.stats.data
        times = tuple(round(each * 1e9) for each in seconds)
        self.result = Benchmark(self.benchmark.name, times, traces, tuple(map(str, devices)), self.ceilings)
        self.benchmark.extra_info.update(self.result.extra_info)
        self._add_device_times(self.result)
        return result

    def _add_device_times(self, result: Benchmark) -> None:
        """A benchmark whose rounds are the recorded calls, and whose times are those of their kernels."""
        if not result.figures.device_time:
            return
        of_device = copy.copy(self.benchmark)
        of_device.name += DEVICE
        of_device.fullname += DEVICE
        of_device.extra_info = {"recorded_by": result.figures.backend, "devices": list(result.figures.devices)}
        stats = of_device._make_stats(1)
        for time in result.figures.device_times:
            stats.update(time / 1e9)


@pytest.fixture
def gpu_benchmark(request: pytest.FixtureRequest, benchmark: Any) -> GpuBenchmark:
    """pytest-benchmark of work on a GPU, with the figures that torchprof records: see `GpuBenchmark`."""
    made = GpuBenchmark(benchmark)
    request.config.stash.setdefault(FIXTURES, []).append(made)
    return made


class WithoutPytestBenchmark:
    """The fixture where pytest-benchmark is missing: it says what to install."""

    def __init__(self, why: str) -> None:
        self.why = why

    @pytest.fixture
    def gpu_benchmark(self) -> None:
        pytest.fail(f"gpu_benchmark needs pytest-benchmark, which {self.why}", pytrace=False)


FIXTURES: Final = pytest.StashKey[list[GpuBenchmark]]()
SAVED: Final = pytest.StashKey[list[Mapping[str, Any]]]()


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        why = SWITCHED_OFF if config.pluginmanager.is_blocked("benchmark") else NOT_INSTALLED
        config.pluginmanager.register(WithoutPytestBenchmark(why))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(config: pytest.Config, compared_benchmark: Mapping[str, Any]) -> None:
    """Keep what ``--benchmark-compare`` has loaded."""
    config.stash.setdefault(SAVED, []).append(compared_benchmark)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The figures of every test that asked for the fixture, below those that a comparison has of it."""
    measured = [each for each in config.stash.get(FIXTURES, []) if each.result is not None and not each.benchmark.has_error]
    if not measured or config.getoption("benchmark_quiet", False):
        return
    from torchprof.benchmarking.benchmarked_table import benchmark_table

    results = {each.benchmark.fullname: each.result for each in measured if each.result is not None}
    terminalreporter.section("gpu_benchmark: what a call did, as recorded")
    saved: list[Mapping[str, Any]] = config.stash.get(SAVED, [])
    for line in benchmark_table(results, saved).lines():
        terminalreporter.write_line(line.text)
