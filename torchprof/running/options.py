"""What ``torchprof run`` was told, and how the program's process hears of it: by an environment variable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["FIRST_STEPS", "VARIABLE", "WARMUP_OF", "RunOptions"]

VARIABLE: Final = "TORCHPROF_RUN"
FIRST_STEPS: Final = 50
"""Steps that are recorded where nothing else is said."""
WARMUP_OF: Final = 3
"""Steps of which the first of the program is left out of tables: it includes what runs once, as compiling does."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of ``torchprof run``.

    Attributes:
        output: absolute path of the file; each rank adds its own number.
        shown: the same as the user would write it.
        steps_by: ``"auto"``, ``"optimizer"``, ``"forward"``, ``"batches"``, or ``"range:NAME"``.
        first, last: numbers of the steps to record, the last one excluded; None: no last one.
        seconds: how long to record; None: as long as the steps last.
        is_command: whether the program is one that some command starts, and not the process itself.
        spawned: which of the processes of ``torch.multiprocessing.spawn`` this is; None: none of them.
        pythonpath: of the program; None: it has none.
        aggregate, memory, stacks, budget: as `torchprof.profile` takes them.
        quiet: whether to say nothing at the end.
        reports: the folder in which processes of a command say what came of them; None: nobody asks.
    """

    output: str
    shown: str
    steps_by: str = "auto"
    first: int = 0
    last: int | None = FIRST_STEPS
    seconds: float | None = None
    is_command: bool = False
    spawned: int | None = None
    pythonpath: str | None = None
    aggregate: bool = False
    memory: bool = True
    stacks: bool = True
    budget: int = 2**30
    quiet: bool = False
    reports: str | None = None

    @property
    def are_several(self) -> bool:
        """Whether so many steps are recorded that the first of the program can be left out of tables."""
        return self.last is None or self.last - self.first >= WARMUP_OF

    def to_text(self) -> str:
        """As the value of the variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> RunOptions:
        """What `to_text` returned."""
        return cls(**json.loads(text))
