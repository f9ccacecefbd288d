"""What every test may rely on: it starts clean, and it leaves nothing behind."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn


def _left_behind() -> dict[str, object]:
    """What a recording installs, and the state that observing must not change."""
    from torchprof import _C

    hooks = torch.nn.modules.module
    return {
        **_C.installed(nn.Module),
        "global_hooks": (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)),
        "module_call": nn.Module.__call__,
        "grad_mode": torch.is_grad_enabled(),
        "default_dtype": torch.get_default_dtype(),
        "rng": torch.get_rng_state().sum().item(),
        "python_rng": hash(random.getstate()),
    }


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a callback, a swapped class slot, a profiler slot, an allocator or a hook behind."""
    if "unit" in request.path.parts:  # these run without the extension
        yield
        return
    torch.manual_seed(0)
    before = _left_behind()
    yield
    after = _left_behind()
    ignored = () if request.node.get_closest_marker("keeps_rng") else ("rng", "python_rng")
    assert {k: v for k, v in after.items() if k not in ignored} == {k: v for k, v in before.items() if k not in ignored}
