"""Whether events record a device, and what is said where they cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from needs_events import CANNOT_TELL, TELLS_CAPTURE

import torchprof


def test_a_device_that_fails_at_the_beginning_is_an_error_or_is_not_watched(fake: Any) -> None:
    fake.fail("synchronize")
    reason = "fake device: synchronize failed" if TELLS_CAPTURE else CANNOT_TELL
    with pytest.raises(torchprof.RecordingError, match=f"gpu='events' is not possible: {reason}"):
        torchprof.profile(gpu="events").__enter__()
    with torchprof.profile(gpu="auto") as prof:
        torch.ones(2, device="fake")
    assert prof.trace.facts["gpu"] == "off"
    assert f"events refused: {reason}" in prof.trace.facts["gpu_note"]
    assert len(prof.trace.ops) > 0


def test_a_device_in_use_is_watched_by_itself(fake: Any) -> None:
    with torchprof.profile() as prof:
        torch.ones(2, device="fake")
    trace = prof.trace
    if TELLS_CAPTURE:
        assert trace.facts["gpu"] == "events"
        assert [trace.strings[name] for name in trace.kernels["name"]] == ["aten::fill_"]
    else:
        assert trace.facts["gpu"] == "off"
        assert f"events refused: {CANNOT_TELL}" in trace.facts["gpu_note"]
