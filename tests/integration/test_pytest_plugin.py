"""The plugin for pytest on tests that run: what keeps its limits passes, and what does not fails and says why."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from goldens import Golden
from masking import masked
from pytest_runs import failures, run, summary, text

import torchprof

pytest_plugins = ("pytester",)

NET = """
import pytest, torch, unittest
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU())
        self.head = nn.Linear(256, 4)

    def forward(self, x):
        return self.head(self.encoder(x))

def step():
    Net()(torch.ones(32, 64)).sum().backward()

def add(size=256):
    return torch.ones(size).neg()
"""
PARAMETERS = 64 * 256 + 256 + 256 * 4 + 4


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """The outcome of each test, by its name."""
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) test_it\.py::(\S+)", text(result), re.M)
    return {test.rpartition("::")[2]: outcome for outcome, test in found}


def test_limits_that_are_kept_pass_and_figures_are_exact(pytester: pytest.Pytester) -> None:
    flops = 2 * 32 * (64 * 256 * 2 + 256 * 4 * 3)  # the first layer needs no gradient of its input
    source = f"""{NET}
@pytest.mark.limit(params={PARAMETERS}, flops={flops}, saved="32 KiB", peak="178.1 KiB", ops=1000)
@pytest.mark.limit(module="encoder", params={64 * 256 + 256}, flops={2 * 32 * 64 * 256 * 2}, saved=32768)
@pytest.mark.limit(module="encoder.0", peak={2 * 4 * (64 * 256 + 256) + 4 * 32 * 256})
def test_kept(): step()

@pytest.mark.limit(params={PARAMETERS - 1}, flops={flops - 1}, saved=32767)
@pytest.mark.limit(module="encoder", params={64 * 256 + 255}, flops={2 * 32 * 64 * 256 * 2 - 1}, saved=32767)
def test_one_less(): step()

@pytest.mark.limit(peak=4 * 256 * 2, ops=4)
def test_bytes(): add()

@pytest.mark.limit(peak=4 * 256 * 2 - 1)
def test_a_byte_less(): add()
"""
    result = run(pytester, source, "-rA")
    assert outcomes(result) == {
        "test_kept": "PASSED",
        "test_one_less": "FAILED",
        "test_bytes": "PASSED",
        "test_a_byte_less": "FAILED",
    }, text(result)
    said = failures(result)
    for noun in ("parameters", "FLOPs", "bytes saved for backward"):
        assert re.search(rf"^{noun}( on cpu)?: ", said, re.M)
        assert re.search(rf"^{noun} of encoder( on cpu)?: ", said, re.M)


def test_a_failure_shows_the_table_that_explains_it(pytester: pytest.Pytester, golden: Golden) -> None:
    source = f"""{NET}
class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(256))
    def forward(self, x):
        y = (x * self.scale).exp()
        return y * self.scale

@pytest.mark.limit(peak="4 KiB", saved="1 KiB", flops=0, params=100)
@pytest.mark.limit(module="", saved="1 KiB")
def test_keeps():
    model = Keeps()
    model(torch.ones(8, 256))
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    golden(masked(failures(result)), "limit_failures.txt")


def test_where_a_marker_stands_and_how_a_test_ends(pytester: pytest.Pytester) -> None:
    source = f"""{NET}
@pytest.mark.limit(ops=1)
class TestClass:
    def test_of_class(self): add()
    @pytest.mark.limit(ops=100)
    def test_of_function(self): add()
    @pytest.mark.limit(ops=None)
    def test_without(self): add()

@pytest.mark.parametrize("n", [4, pytest.param(5, marks=pytest.mark.limit(ops=100))])
@pytest.mark.limit(ops=1)
def test_of_set(n): add(n)

@pytest.mark.anyio
@pytest.mark.limit(ops=1)
async def test_async(anyio_backend): add()

class Case(unittest.TestCase):
    @pytest.mark.limit(ops=1)
    def test_case(self): add()
    @pytest.mark.limit(ops=1)
    def test_case_fails(self): add(); self.assertEqual("its own", "failure")
    @pytest.mark.limit(ops=1)
    def test_case_skips(self): add(); self.skipTest("its own skip")

@pytest.mark.limit(ops=1)
def test_skips(): add(); pytest.skip("its own skip")
@pytest.mark.xfail
@pytest.mark.limit(ops=1)
def test_expected(): add()
@pytest.mark.limit(ops=1)
def test_raises(): add(); raise ValueError("its own error")
@pytest.fixture
def setup():
    add()
    yield
    add()
@pytest.mark.limit(ops=0, peak=0, flops=0)
def test_setup_is_not_counted(setup): pass
@pytest.fixture
def anyio_backend(): return "asyncio"
"""
    result = run(pytester, source, "-rA", "-p", "anyio")
    assert outcomes(result) == {
        **{"test_of_class": "FAILED", "test_of_function": "PASSED", "test_without": "PASSED"},
        **{"test_of_set[4]": "FAILED", "test_of_set[5]": "PASSED", "test_async": "FAILED"},
        **{"test_case": "FAILED", "test_case_fails": "FAILED"},
        **{"test_expected": "XFAIL", "test_raises": "FAILED", "test_setup_is_not_counted": "PASSED"},
    }, text(result)
    result.assert_outcomes(passed=4, failed=6, skipped=2, xfailed=1)
    said = failures(result)
    assert said.count("ops: 4, and the limit is 1") == 4
    assert "its own error" in said
    assert "AssertionError: 'its own' != 'failure'" in said


def test_what_could_not_be_measured_fails_and_says_why(pytester: pytest.Pytester) -> None:
    source = f"""{NET}
import torchprof as tp

@pytest.mark.limit(peak="1 GiB")
def test_own_recording():
    with tp.profile() as prof: add()
    assert len(prof.trace.ops) == 4
@pytest.mark.limit(peak="1 GiB")
def test_own_summary():
    tp.summary(Net(), input_size=(64,), batch_size=2)
@pytest.mark.limit(kernels=1, syncs=0)
@pytest.mark.skipif(torch.cuda.is_available(), reason="they are known")
def test_no_gpu(): add()
@pytest.mark.limit(kernels=None, syncs=None, ops=100)
def test_no_limit(): add()
@pytest.mark.limit(params=1)
def test_no_model(): add()
@pytest.mark.limit(module="encoder.7", ops=1)
def test_no_module(): step()
@pytest.mark.limit(graph_breaks=0)
def test_nothing_compiled(): add()
@pytest.fixture
def outer():
    with tp.profile() as prof: yield
@pytest.mark.limit(ops=100)
def test_inside_a_recording(outer): add()
"""
    result = run(pytester, source, "-rA", "-W", "ignore")
    found = outcomes(result)
    assert found.pop("test_no_limit") == "PASSED"
    assert set(found.values()) <= {"FAILED", "SKIPPED"}, text(result)
    said = failures(result)
    start = "it cannot be told that the limit of"
    assert said.count("the test records itself with torchprof, which comes first: assert on what it recorded") == 2
    assert f"parameters: {start} 1 is kept: no module with parameters was called in the test" in said
    assert f"ops of encoder.7: {start} 1 is kept: module='encoder.7' is none that was found; is it 'encoder.1'?" in said
    assert f"graph breaks: {start} 0 is kept: nothing was compiled while the test ran" in said
    assert f"ops: {start} 100 is kept: torchprof is already recording" in said
    assert torchprof.profile  # and the suite itself records on


def test_models_are_found_by_what_is_called(pytester: pytest.Pytester) -> None:
    source = f"""{NET}
@pytest.mark.limit(module="Net.encoder", params={64 * 256 + 256})
@pytest.mark.limit(module="Linear", params=6)
@pytest.mark.limit(module="encoder", params={64 * 256 + 256})
@pytest.mark.limit(params={PARAMETERS + 6})
def test_two_models():
    net, other = Net(), nn.Linear(2, 2)
    net(torch.ones(1, 64)), other(torch.ones(1, 2))
@pytest.mark.limit(module="encoder.0", params={64 * 256 + 256}, ops=100)
@pytest.mark.limit(params={PARAMETERS})
def test_a_part_of_one():
    net = Net()
    net.encoder(torch.ones(1, 64))
class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
    def forward(self, x): return self.second(self.first(x))
@pytest.mark.limit(module="second", params=20, flops=2 * 2 * 4 * 4)
def test_in_two_places():
    model = Twice()
    with torch.no_grad(): model(torch.ones(1, 4))
@pytest.mark.limit(module="head", ops=100)
def test_not_called():
    net = Net()
    net.encoder(torch.ones(1, 64))
"""
    result = run(pytester, source, "-rA")
    assert outcomes(result) == {
        **{"test_two_models": "PASSED", "test_a_part_of_one": "PASSED", "test_in_two_places": "PASSED"},
        **{"test_not_called": "FAILED"},
    }, text(result)
    assert "module='head' was not called in the test" in failures(result)


def test_a_model_that_the_test_made_and_let_go_is_gone_when_it_lets_go(pytester: pytest.Pytester) -> None:
    source = f"""{NET}
import gc, weakref
made = []
@pytest.mark.limit(peak="1 MiB")
def test_makes_one():
    net = Net()
    made.append(weakref.ref(net))
    net(torch.ones(1, 64))
def test_it_is_gone(): assert made[0]() is None
@pytest.mark.limit(peak={4 * (PARAMETERS + 64 + 256 + 256 + 4) + 64})
def test_lets_go():
    for _ in range(5):
        net = None
        net = Net()
        made.append(weakref.ref(net))
        with torch.no_grad(): net(torch.ones(1, 64))
        del net
        assert made[-1]() is None
"""
    run(pytester, source).assert_outcomes(passed=3)


def test_every_test_has_a_row_at_the_end(pytester: pytest.Pytester, golden: Golden) -> None:
    source = f"""{NET}
import torchprof as tp
def test_adds(): add()
def test_nothing(): pass
def test_multiplies(): torch.ones(4, 4) @ torch.ones(4, 4)
def test_raises(): add(); raise ValueError
def test_skips(): add(); pytest.skip()
def test_records():
    with tp.profile(): add()
@pytest.mark.limit(ops=3)
def test_over(): add()
@pytest.mark.limit(peek=3)
def test_error(): add()
"""
    result = run(pytester, source, "--torchprof")
    result.assert_outcomes(passed=4, failed=2, skipped=1, errors=1)
    printed = summary(result)
    assert re.search(r"^test_it.py::test_nothing +- +- +0 +\d", printed, re.M)
    golden(masked(printed), "figures_of_tests.txt")


def test_without_an_option_nothing_is_said(pytester: pytest.Pytester) -> None:
    result = run(pytester, f"{NET}\n@pytest.mark.limit(ops=100)\ndef test_adds(): add()\ndef test_plain(): add()")
    result.assert_outcomes(passed=2)
    assert "torchprof" not in text(result)


def test_traces_are_kept_also_of_tests_that_fail(pytester: pytest.Pytester) -> None:
    source = f"{NET}\n@pytest.mark.limit(ops=1)\n@pytest.mark.parametrize('n', ['a/b', '..'])\ndef test_adds(n): step()"
    result = run(pytester, source, "--torchprof-save", "traces")
    files = sorted(Path(pytester.path, "traces").iterdir())
    assert [re.sub("-[0-9a-f]{8}", "", file.name) for file in files] == [
        "test_it.test_adds.torchprof",
        "test_it.test_adds_a.b.torchprof",
    ]
    trace = torchprof.load(files[0])
    assert len(trace.ops) > 100
    assert trace.model is not None
    assert f"Trace: {files[0]}" in text(result)
    assert f"2 traces in {pytester.path / 'traces'}" in summary(result)


def test_a_baseline_is_written_compared_and_updated(pytester: pytest.Pytester) -> None:
    before = f"{NET}\ndef test_adds(): add()\ndef test_multiplies(): torch.ones(4, 4) @ torch.ones(4, 4)"
    result = run(pytester, before, "--torchprof-baseline", "base.json")
    result.assert_outcomes(passed=2)
    assert "written, with 2 tests of this run" in summary(result)

    result = run(pytester, before, "--torchprof-baseline", "base.json")
    result.assert_outcomes(passed=2)
    assert "2 tests compared, 0 not as it says" in summary(result)

    after = before.replace("add()\n", "add(512).exp()\n").replace(
        "def test_multiplies", "def test_new(): add()\ndef test_multiplies"
    )
    result = run(pytester, after, "--torchprof-baseline", "base.json")
    result.assert_outcomes(passed=2, failed=1)
    said = failures(result)
    assert "if that is meant, run with --torchprof-update-baseline" in said
    assert "peak: 2.0 KiB (2,048 B) in the baseline, and 4.0 KiB (4,096 B) now, +100.0%" in said
    assert re.search(r"^aten::exp +- +1 +- +- +new$", said, re.M)
    assert "1 test is not in it, and not compared: --torchprof-update-baseline adds them" in summary(result)

    result = run(pytester, after, "--torchprof-baseline", "base.json", "--torchprof-tolerance", "100%")
    result.assert_outcomes(passed=3)
    result = run(pytester, after, "--torchprof-baseline", "base.json", "--torchprof-update-baseline", "-k", "adds or new")
    result.assert_outcomes(passed=2, deselected=1)
    result = run(pytester, after, "--torchprof-baseline", "base.json")
    result.assert_outcomes(passed=3)
    assert "3 tests compared, 0 not as it says" in summary(result)


def test_a_test_that_fails_is_in_no_baseline(pytester: pytest.Pytester) -> None:
    source = f"{NET}\ndef test_adds(): add()\ndef test_raises(): add(); raise ValueError"
    result = run(pytester, source, "--torchprof-baseline", "base.json")
    assert "written, with 1 test of this run" in summary(result)
    assert "1 test is not in it, which failed or could not be recorded" in summary(result)


def test_workers_of_xdist_send_their_figures_and_are_told_the_baseline(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    source = f"{NET}\n@pytest.mark.parametrize('n', range(4))\ndef test_adds(n): add(n + 1)"
    options = ("--torchprof", "--torchprof-save", "traces", "--torchprof-baseline", "base.json")
    run(pytester, source, *options).assert_outcomes(passed=4)
    result = run(pytester, source.replace("n + 1", "max(n, 1) + 1"), *options, "-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    for n in range(4):
        assert re.search(rf"^test_it.py::test_adds\[{n}\] +{8 * (max(n, 1) + 1)} B +- +4 ", summary(result), re.M), text(result)
    assert len(list(Path(pytester.path, "traces").iterdir())) == 4
    assert "4 tests compared, 1 not as it says" in summary(result)
    assert "peak: 8 B in the baseline, and 16 B now, +100.0%" in failures(result)


def test_files_of_junit_have_the_figures(pytester: pytest.Pytester) -> None:
    result = run(pytester, f"{NET}\ndef test_adds(): add()", "--torchprof", "--junit-xml=out.xml")
    result.assert_outcomes(passed=1)
    assert '<property name="torchprof_peak" value="2048"' in Path(pytester.path, "out.xml").read_text()


def test_kernels_and_waits_of_a_gpu_are_held(pytester: pytest.Pytester, gpu: object) -> None:
    source = f"""{NET}
from fake_gpu import SYNCHRONIZE, FakeGpu
def work():
    gpu = FakeGpu()
    gpu.launch("one"), gpu.launch("two")
    gpu.call(SYNCHRONIZE, 10)
@pytest.mark.limit(kernels=2, syncs=1)
def test_kept(): work()
@pytest.mark.limit(kernels=1, syncs=0)
def test_over(): work()
@pytest.mark.limit(kernels=0, syncs=0)
def test_idle(): add()
"""
    result = run(pytester, source, "-rA", "--torchprof")
    assert outcomes(result) == {"test_kept": "PASSED", "test_over": "FAILED", "test_idle": "PASSED"}, text(result)
    said = failures(result)
    assert "kernels: 2, and the limit is 1" in said
    assert "waits for the GPU: 1, and the limit is 0" in said
    assert re.search(r"^test_it.py::test_kept +- +- +0 +2 ", summary(result), re.M), summary(result)


def test_programs_of_all_kinds_are_recorded_and_not_disturbed(pytester: pytest.Pytester) -> None:
    source = f"""{NET}
import os, threading
from torch.utils.data import DataLoader

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def forward(self, x): return self.fc(x)
    def modules(self): raise RuntimeError("not these")
    def named_modules(self, *args, **kwargs): raise RuntimeError("nor these")
    def parameters(self, *args): raise RuntimeError("nor those")

pytestmark = pytest.mark.limit(peak="1 MiB", ops=1000)

def test_a_model_that_cannot_be_read():
    model = Broken()
    assert model(torch.ones(1, 4)).shape == (1, 4)
def test_a_fork():
    model = nn.Linear(4, 4)
    if not (child := os.fork()): os._exit(0 if model(torch.ones(1, 4)).shape == (1, 4) else 1)
    assert os.waitpid(child, 0)[1] == 0
@pytest.mark.limit(params=20)
def test_a_thread():
    model = nn.Linear(4, 4)
    thread = threading.Thread(target=model, args=(torch.ones(1, 4),))
    thread.start(), thread.join()
def test_another_profiler():
    with torch.profiler.profile() as prof: add()
    assert any(event.name == "aten::neg" for event in prof.events())
def test_workers(): assert len(list(DataLoader(torch.ones(4, 2), num_workers=1))) == 4
@pytest.mark.limit(params=20)
def test_a_lazy_module():
    model = nn.LazyLinear(4)
    model(torch.ones(1, 4))
def test_meta():
    with torch.device("meta"):
        model = nn.Linear(4, 4)
        model(torch.ones(1, 4))
class Case(unittest.TestCase):
    def setUp(self): self.model = nn.Linear(4, 4)
    @pytest.mark.limit(params=20)
    def test_of_a_case(self): self.model(torch.ones(1, 4))
"""
    run(pytester, source, "--torchprof", apart=True).assert_outcomes(passed=8)


def test_a_run_that_is_broken_off_writes_no_baseline(pytester: pytest.Pytester) -> None:
    source = f"{NET}\ndef test_adds(): add()\ndef test_raises(): raise ValueError\ndef test_after(): add()"
    result = run(pytester, source, "--torchprof-baseline", "base.json", "-x")
    assert "base.json: not written, because the run was broken off" in summary(result)
    assert not Path(pytester.path, "base.json").exists()
    result = run(pytester, source, "--torchprof-baseline", "base.json", "-k", "raises")
    assert "not written, because no test that was measured passed" in summary(result)
    run(pytester, source, "--torchprof-baseline", "base.json", "--collect-only")
    assert not Path(pytester.path, "base.json").exists()


def test_a_folder_that_cannot_be_written_fails_no_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, f"{NET}\ndef test_adds(): add()", "--torchprof-save", "test_it.py/traces")
    result.assert_outcomes(passed=1)
    assert "1 trace NOT kept: " in summary(result)


def test_a_baseline_that_cannot_be_written_is_told_before_the_first_test(pytester: pytest.Pytester) -> None:
    source = "def test_adds():\n    print('it ran')\n"
    result = run(pytester, source, "--torchprof-baseline", "nodir/b.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--torchprof-baseline" in result.stderr.str()
    assert "there is no folder" in result.stderr.str()
    assert "it ran" not in result.stdout.str()
    result = run(pytester, source, "--torchprof-baseline", "nodir/b.json", "--torchprof-update-baseline")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_baseline_in_a_folder_of_others_is_told_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for root all is allowed
    result = run(pytester, "def test_adds(): pass", "--torchprof-baseline", "b.json")
    assert (result.ret, "permission denied" in result.stderr.str()) == (pytest.ExitCode.USAGE_ERROR, True)
