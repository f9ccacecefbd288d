"""Files as torch.profiler writes them, written by hand: events as dicts, in microseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torchprof
from torchprof.analysis.python_frames import Frame

MAIN, AUTOGRAD, PROCESS = 100, 101, 100
"""Threads of the host, and their process; the main thread has the number of the process."""

Event = dict[str, Any]


def event(category: str | None, name: str, ts: Any, dur: Any, *, tid: Any = MAIN, pid: Any = PROCESS, **args: Any) -> Event:
    """A complete event. Arguments with blanks in their names are given in a dict, ``args``."""
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": args.pop("args", args),
    }


def op(name: str, ts: Any, dur: Any, *, tid: Any = MAIN, category: str = "cpu_op", **known: Any) -> Event:
    """An op; known are ``id``, ``seq``, ``fwd``, ``dims``, ``types`` and ``values``."""
    keys = {
        "id": "External id",
        "seq": "Sequence number",
        "fwd": "Fwd thread id",
        "dims": "Input Dims",
        "types": "Input type",
        "values": "Concrete Inputs",
    }
    return event(category, name, ts, dur, tid=tid, args={keys.get(name, name): value for name, value in known.items()})


def user_range(name: str, ts: Any, dur: Any, *, tid: Any = MAIN) -> Event:
    return op(name, ts, dur, tid=tid, category="user_annotation")


def step(number: int, ts: Any, dur: Any) -> Event:
    return user_range(f"ProfilerStep#{number}", ts, dur)


def module(name: str, ts: Any, dur: Any, *, tid: Any = MAIN) -> Event:
    return event("python_function", f"nn.Module: {name}", ts, dur, tid=tid, args={"Python id": 1, "Python module id": 0})


def function(name: str, ts: Any, dur: Any, *, tid: Any = MAIN, pid: Any = PROCESS) -> Event:
    """A function of Python, such as ``net.py(12): forward``."""
    return event("python_function", name, ts, dur, tid=tid, pid=pid, args={"Python id": 1, "Python parent id": None})


def launch(ts: Any, dur: Any, correlation: int, name: str = "cudaLaunchKernel", *, tid: Any = MAIN, **args: Any) -> Event:
    return event("cuda_runtime", name, ts, dur, tid=tid, args={"correlation": correlation, **args})


def kernel(name: str, ts: Any, dur: Any, correlation: int, *, stream: int = 7, device: int = 0, **args: Any) -> Event:
    """A kernel; further arguments as the file names them."""
    given = {"device": device, "stream": stream, "correlation": correlation, **args}
    return event("kernel", name, ts, dur, pid=device, tid=stream, args=given)


def copy(name: str, ts: Any, dur: Any, correlation: int, **args: Any) -> Event:
    return {**kernel(name, ts, dur, correlation, **args), "cat": "gpu_memcpy"}


def allocation(ts: Any, address: int, count: int, *, device: int = 1, total: int = -1, reserved: int = -1) -> Event:
    """A ``[memory]`` event; a free where the count is negative. Device type 1 is CUDA's, 0 the CPU."""
    args = {"Addr": address, "Bytes": count, "Device Type": device, "Device Id": 0 if device else -1}
    args |= {"Total Allocated": total, "Total Reserved": reserved} if total >= 0 else {}
    return {
        "ph": "i",
        "cat": "cpu_instant_event",
        "s": "t",
        "name": "[memory]",
        "pid": PROCESS,
        "tid": MAIN,
        "ts": ts,
        "args": args,
    }


def document(events: list[Event], **rest: Any) -> str:
    return json.dumps({"schemaVersion": 1, "traceEvents": events, "traceName": "trace.json", **rest})


def read(folder: Path, *events: Event, **rest: Any) -> torchprof.Trace:
    """The trace of a file with these events."""
    path = folder / "trace.json"
    path.write_text(document(list(events), **rest))
    return torchprof.load(path)


def names(trace: torchprof.Trace) -> list[str]:
    """The name of every op."""
    return [trace.strings[name] for name in trace.op_names]


def function_name(frame: Frame) -> str:
    """As torch.profiler writes it: ``train.py(12): step``, with the line where the function begins."""
    return frame.name if frame.file is None else f"{frame.file}({frame.first_line}): {frame.name}"
