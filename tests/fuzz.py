"""Damages traces and looks at what is left of them: ``python tests/fuzz.py SECONDS [SEED]``.

A damaged file is refused with `TraceFileError`, or whatever is made of it ends: in figures, or in an `ArgumentError` that says
what it does not have. Anything else is a fault: another exception, a table that takes for ever, gigabytes of memory.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from everything import printed

import torchprof
from torchprof.trace.schema import LAYOUTS

__all__ = ["Fuzzer", "Outcome"]

NUMBERS: Final = (*range(8), 127, 128, 255, 256, 65535, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**62, 2**63 - 1)
VALUES: Final = (
    *("null", "true", "-1", "0", "1.5", "NaN", "Infinity", "1e30", str(2**31), str(2**63), str(10**30)),
    *("[]", "[[]]", "{}", '{"": null}', '""', json.dumps("\x1b[2J\n")),
)
LONGEST: Final = 20
"""Seconds that all tables and exports of a small trace may take."""
MOST_MEMORY: Final = 2 * 2**30
"""Bytes more than the process takes when it begins."""

Outcome = str
"""``"refused"``, ``"whole"``, or what went wrong, with where."""


class Slow(BaseException):
    """It takes too long. No ``except Exception`` catches it."""


@contextmanager
def bounded() -> Iterator[None]:
    """Time and memory are limited inside."""

    def stop(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY, limits[1]))
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


class Fuzzer:
    """Damages files of a corpus, one after the other, and counts what comes of it.

    Attributes:
        outcomes: how often each came.
        first: of each that is a fault, the file of the first.
    """

    def __init__(self, corpus: list[Path], folder: Path, seed: int) -> None:
        self._corpus = corpus
        self._folder = folder
        self._random = random.Random(seed)
        self.outcomes: Counter[Outcome] = Counter()
        self.first: dict[Outcome, Path] = {}

    def one(self) -> None:
        """Damage one file and look at it."""
        source = self._random.choice(self._corpus)
        path = self._folder / f"{sum(self.outcomes.values())}-{source.name}"
        path.write_bytes(self._damaged(source))
        outcome = self._look_at(path)
        self.outcomes[outcome] += 1
        if outcome in ("refused", "whole"):
            path.unlink()
        else:
            self.first.setdefault(outcome, path)

    def _look_at(self, path: Path) -> Outcome:
        try:
            with bounded(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if ".snapshot" in path.name:
                    str(torchprof.memory(path))
                    str(torchprof.explain_oom(path))
                    return "whole"
                trace = torchprof.load(path)
                for _, make in printed(trace, self._folder):
                    with _expected():
                        str(make())
        except torchprof.TraceFileError:
            return "refused"
        except torchprof.ArgumentError:
            return "refused"
        except (Exception, Slow) as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in where if "/torchprof/" in frame.filename]
            last = (ours or where)[-1]
            return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno} {last.name}: {str(error)[:80]}"
        return "whole"

    def _damaged(self, path: Path) -> bytes:
        data = path.read_bytes()
        if path.suffix == ".snapshot":
            return pickle.dumps(self._of_json(pickle.loads(data)))
        if data[:2] == b"PK":
            return self._of_trace(data)
        if data[:2] == b"\x1f\x8b":
            return gzip.compress(self._of_bytes(gzip.decompress(data)), 1)
        if data[:1] in b"{[":
            document = json.loads(data)
            for _ in range(self._random.randint(1, 3)):
                document = self._of_json(document)
            return json.dumps(document).encode()
        return self._of_bytes(data)

    def _of_bytes(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.randint(1, 4)):
            changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed[: self._random.randrange(len(changed))]) if self._random.random() < 0.1 else bytes(changed)

    def _of_trace(self, data: bytes) -> bytes:
        """A trace with other numbers in some rows, or other facts: its checksums are right."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
        tables = [name for name in (*LAYOUTS, "signature_flops") if name in members and len(members[name])]
        for _ in range(self._random.randint(1, 3)):
            if not tables or self._random.random() < 0.15:
                document = self._of_json(json.loads(members["document"].tobytes()))
                members["document"] = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)
            else:
                self._of_table(members[self._random.choice(tables)])
        buffer = io.BytesIO()
        np.savez(buffer, **members)
        return buffer.getvalue()

    def _of_table(self, rows: Any) -> None:
        column = rows[self._random.choice(rows.dtype.names)] if rows.dtype.names else rows
        row = self._random.randrange(len(rows))
        number = self._random.choice(NUMBERS) * self._random.choice((1, 1, -1))
        kind = column.dtype
        column[row] = number if kind.kind == "f" else np.int64(max(-(2**63), min(number, 2**63 - 1))).astype(kind)
        if self._random.random() < 0.1:
            column[:] = column[row]

    def _of_json(self, document: Any) -> Any:
        """The document with another value somewhere."""
        if self._random.random() < 0.15 or not isinstance(document, dict | list) or not document:
            return json.loads(self._random.choice(VALUES))
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key: Any = self._random.choice(keys)
        if isinstance(document, dict) and self._random.random() < 0.1:
            return {name: value for name, value in document.items() if name != key}
        document[key] = self._of_json(document[key])
        return document


@contextmanager
def _expected() -> Iterator[None]:
    """What a trace does not have is said in one way."""
    try:
        yield
    except torchprof.ArgumentError:
        pass
    except AssertionError as error:  # a table of the model, where the trace has none
        last = traceback.extract_tb(error.__traceback__)[-1]
        if "everything.py" not in last.filename and "model is not None" not in (last.line or ""):
            raise


def main(seconds: float, seed: int, corpus: Callable[[Path], list[Path]]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(corpus(Path(folder)), Path(folder), seed)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fuzzer.one()
        for outcome, count in fuzzer.outcomes.most_common():
            print(f"{count:8,}  {outcome}")
        for outcome, path in fuzzer.first.items():
            kept = Path(tempfile.gettempdir()) / f"torchprof-fuzz-{path.name}"
            kept.write_bytes(path.read_bytes())
            print(f"\n{outcome}\n  {kept}")
    return 1 if fuzzer.first else 0


if __name__ == "__main__":
    from corpus import corpus_in  # records, for which PyTorch is needed

    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()), corpus_in))
