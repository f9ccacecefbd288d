"""Records training steps on a GPU and compares what the allocator reserved with what its simulation says.

    python benchmarks/record_snapshot.py [FOLDER]

Needs CUDA. Every pair of model and settings runs in a process of its own, as the
settings count from the first allocation on. With a folder, each snapshot is kept there as NAME.json.gz, without stack traces:
`torchprof.replay_snapshot(json.load(gzip.open(path)))` replays it anywhere.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchprof import AllocatorSettings, replay_snapshot

SETTINGS = {
    "default": "",
    "expandable": "expandable_segments:True",
    "max-split": "max_split_size_mb:64",
    "rounded": "roundup_power2_divisions:4",
}


def convolutions() -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    layers = [nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for width in (3, 6, 12, 24)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10)), lambda step: torch.randn(16 + 8 * step, 3, 128, 128)


def transformer() -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.TransformerEncoder(layer, 6), lambda step: torch.randn(8, 128 + 64 * step, 512)


def perceptron() -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    layers = [nn.Sequential(nn.Linear(2048, 2048), nn.GELU()) for _ in range(8)]
    return nn.Sequential(*layers), lambda step: torch.randn(512 + 300 * step, 2048)


MODELS = {"convolutions": convolutions, "transformer": transformer, "perceptron": perceptron}


def record(name: str, settings: str, folder: Path | None) -> None:
    """Three steps, each with a larger batch, with the history from the first allocation on."""
    torch.cuda.memory._record_memory_history(context=None)
    model, batch = MODELS[name]()
    model(batch(0))  # lazy layers
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(3):
        model(batch(step).cuda()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    snapshot = torch.cuda.memory._snapshot()
    measured = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    kept = without_frames(snapshot)
    if folder is not None:
        with gzip.open(folder / f"{name}-{settings}.json.gz", "wt") as file:
            json.dump(kept, file, separators=(",", ":"))
    found = replay_snapshot(kept)
    # The same history as if nothing were known of it but what was allocated and freed.
    alone = replay_snapshot(kept, AllocatorSettings.parse(SETTINGS[settings]))
    print(
        f"{name:14} {settings:11} reserved {measured[0]:>14,}  followed {found.max_reserved:>14,}  alone "
        f"{alone.max_reserved:>14,}  allocated {measured[1]:>14,}  followed {found.max_allocated:>14,}  "
        f"misplaced {found.misplaced}{'' if found.complete else '  (history incomplete)'}",
        flush=True,
    )


def without_frames(snapshot: dict[str, Any]) -> dict[str, Any]:
    entries = ("action", "addr", "size", "stream", "pool_id", "device_free")
    segments = ("device", "address", "total_size", "stream", "segment_type", "segment_pool_id", "is_expandable")
    blocks = ("address", "size", "requested_size", "state")
    return {
        "device_traces": [[pick(entry, entries) for entry in trace] for trace in snapshot["device_traces"]],
        "segments": [
            {**pick(segment, segments), "blocks": [pick(block, blocks) for block in segment["blocks"]]}
            for segment in snapshot["segments"]
        ],
        "allocator_settings": snapshot.get("allocator_settings", {}),
    }


def pick(source: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: source[name] for name in names if name in source}


def main(arguments: list[str]) -> int:
    if not torch.cuda.is_available():
        print("record_snapshot.py needs a CUDA device, and there is none here")
        return 1
    if arguments[:1] == ["--one"]:
        name, settings, *rest = arguments[1:]
        record(name, settings, Path(rest[0]) if rest else None)
        return 0
    for folder in arguments:
        Path(folder).mkdir(parents=True, exist_ok=True)
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    failed = 0
    for name in MODELS:
        for settings, text in SETTINGS.items():
            environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": text}
            if not text:
                del environment["PYTORCH_CUDA_ALLOC_CONF"]
            failed += subprocess.run(
                [sys.executable, __file__, "--one", name, settings, *arguments], env=environment
            ).returncode
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
