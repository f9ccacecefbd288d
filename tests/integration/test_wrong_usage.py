"""Every option of every subcommand with a value that it does not take: one line in the words of the shell, and exit code 2."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from pathlib import Path
from typing import Final

import pytest
from handwritten import gpu_trace
from stacked import training

from torchprof.cli.main import main, parser

WRONG: Final = {
    "run": {
        "output": ["-o . s.py", "-o no/such/folder s.py"],
        "steps": ["--steps 8:3 s.py", "--steps many s.py"],
        "steps_by": ["--steps-by epochs s.py", "--steps-by range: s.py"],
        "seconds": ["--seconds 0 s.py", "--seconds nan s.py", "--seconds inf s.py", "--seconds soon s.py"],
        "budget": ["--budget 0 s.py", "--budget much s.py"],
        "module": ["-m"],
        "program": ["", "--", "tarin.py", "-- no-such-command", "--stpes 3 s.py"],
    },
    "stragglers": {"width": ["FILE --width 0", "FILE --width wide"]},
    "show": {
        "by": ["FILE --by modul", "FILE --by rank"],
        "sort": ["FILE --sort tme", "FILE --sort"],
        "columns": ["FILE --columns calls,Time", "FILE --columns=", "FILE --columns a,,b"],
        "head": ["FILE --head -1", "FILE --head x"],
        "depth": ["FILE --depth 1.5", "FILE --by op --depth 1"],
        "phase": ["FILE --phase back", "FILE --phase forward"],
        "dimension": ["FILE --by op --dimension dp"],
        "ceilings": ["FILE --by op --ceilings RTX", "FILE --ceilings T4"],
        "module": ["FILE --by op --module nope", "FILE --by kernel --module nope", "FILE --by step --module fc"],
        "width": ["FILE --width 3"],
    },
    "annotate": {
        "what": ["LINES", "LINES Net.foward", "LINES net.py:nothing", "LINES no/such.py:f"],
        "columns": ["LINES Net.forward --columns tiem"],
        "head": ["LINES Net.forward --head -1"],
        "width": ["LINES Net.forward --width 0"],
    },
    "memory": {
        "device": ["FILE --device nonsense", "SNAPSHOT --device cuda:7", "SNAPSHOT --device nonsense"],
        "snapshot": ["FILE --snapshot"],
        "width": ["FILE --width x"],
    },
    "gpu": {
        "ceilings": ["FILE --ceilings H100", "FILE --ceilings T4:int8", "FILE --ceilings 0T,1G", "FILE --ceilings here:int8"],
        "width": ["FILE --width 1"],
    },
    "findings": {"width": ["FILE --width 1"]},
    "explain-oom": {
        "device": ["SNAPSHOT --device cuda:7", "SNAPSHOT --device nonsense"],
        "capacity": ["SNAPSHOT --capacity H100-80G", "SNAPSHOT --capacity 0", "SNAPSHOT --capacity 9999999TB"],
        "width": ["SNAPSHOT --width 1"],
    },
    "info": {"width": ["FILE --width 1"]},
    "diff": {
        "by": ["FILE FILE --by modul", "SNAPSHOT SNAPSHOT --by op"],
        "fail_if": ["FILE FILE --fail-if fast", "FILE FILE --fail-if", "FILE FILE --fail-if nothing:time>+5%"],
        "html": ["FILE FILE --html FILE"],
        "width": ["FILE FILE --width 1"],
    },
    "report": {
        "output": ["FILE -o FILE"],
        "title": ["FILE --title"],
        "ceilings": ["FILE --ceilings T4:bf16", "SNAPSHOT --ceilings T4"],
        "device": ["FILE --device cuda:0", "SNAPSHOT --device cuda:7"],
    },
    "export": {
        "to": ["FILE", "FILE --to svg"],
        "output": ["FILE --to folded -o FILE"],
        "by": ["FILE --to folded --by tmie", "FILE --to chrome --by time"],
        "device": ["FILE --to folded --device cpu", "FILE --to folded --by peak --device x", "FILE --to chrome --device x"],
    },
    "summary": {
        "model": ["nets", "nets:Nat", "nots:Net", "no.py:Net", "nets:nothing"],
        "arg": ["nets:Net --arg width", "nets:model --arg width=3"],
        "input": ["nets:Net --input 4,x", "nets:Net --input x=4 --input 5", "nets:Net --input float31:4"],
        "batch": ["nets:Net --batch 3", "nets:Net --input 4 --batch 0"],
        "device": ["nets:Net --device coda", "nets:Net --device cuda:99"],
        "depth": ["nets:Net --depth -2"],
        "columns": ["nets:Net --columns parms", "nets:Net --columns="],
        "warmup": ["nets:Net --warmup few"],
        "width": ["nets:Net --width 1"],
    },
    "estimate": {
        "model": ["nets --input 4", "nets:Nat --input 4"],
        "arg": ["nets:Net --input 4 --arg width"],
        "input": ["nets:Net", "nets:Net --input x", "nets:Net --input float31:4", "nets:Net --input 99999999999999999999,4"],
        "batch": ["nets:Net --input 4 --batch many"],
        "optimizer": ["nets:Net --input 4 --optimizer Adamw", "nets:Net --input 4 --optimizer nets:nothing"],
        "optimizer_arg": ["nets:Net --input 4 --optimizer-arg lr=1", "nets:Net --input 4 --optimizer SGD --optimizer-arg lr=x"],
        "loss": ["nets:Net --input 4 --loss nets:squere", "nets:Net --input 4 --loss nets:nothing"],
        "gpu": ["nets:Net --input 4 --gpu RTX", "nets:Net --input 4 --gpu 9999999TB", "nets:Net --input 4 --max-batch"],
        "amp": ["nets:Net --input 4 --amp bf17", "nets:Net --input 4 --amp int64"],
        "device": ["nets:Net --input 4 --device tpu"],
        "allocator": ["nets:Net --input 4 --allocator nonsense:1", "nets:Net --input 4 --allocator max_split_size_mb:x"],
        "routing": ["nets:Net --input 4 --routing even"],
        "steps": ["nets:Net --input 4 --steps 0", "nets:Net --input 4 --steps 1.5"],
        "width": ["nets:Net --input 4 --width 1"],
    },
    "plan": {
        "build_with": ["--sequence 8", "--sequence 8 --model LamaConfig", "--sequence 8 --model nets.py"],
        "arg": ["--sequence 8 --model LlamaConfig --arg width", "--model LlamaConfig --sequence 8 --arg hidden_size=many"],
        "gpus": ["--gpus 0", "--gpus 64..8", "--gpus many", "--gpus 8,,16"],
        "gpu": ["--gpu RTX", "--gpu 9999999TB"],
        "sequence": ["--model LlamaConfig", "--sequence 0", "--model LlamaConfig --sequence 999999"],
        "batch": ["--batch 0", "--batch 1,x"],
        "tokens_per_step": ["--tokens-per-step much", "--model LlamaConfig --sequence 8 --tokens-per-step 7"],
        "over": ["--over tp", "--model LlamaConfig --sequence 8 --over tpp=1", "--model LlamaConfig --sequence 8 --over tp=two",
                 "--model LlamaConfig --sequence 8 --over checkpointing=most", "--model LlamaConfig --sequence 8 --over tp=3"],
        "optimizer": ["--model LlamaConfig --sequence 8 --optimizer Adamw"],
        "processes": ["--processes 0"],
        "width": ["--width 1"],
    },
    "completion": {"shell": ["", "tcsh"]},
}  # fmt: skip
"""Command lines by subcommand and by the argument that is wrong. One that is not here fails a test."""
TAKES_ALL: Final = ("file", "a", "b", "help")
"""Arguments whose wrong values are files that cannot be read, which is no wrong usage."""
PYTHON: Final = re.compile(r"torchprof\.[a-z_]+\(|(?<![\w-])[a-z_]+=(?!\d)")
NETS: Final = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, width=4):
        super().__init__(4, width)

model, nothing = Net(), None
"""
BLOCK: Final = {"size": 2**21, "state": "inactive"}
SNAPSHOT: Final = {
    "segments": [{"device": 0, "address": 4096, "total_size": 2**21, "segment_type": "small", "blocks": [BLOCK]}],
    "device_traces": [[{"action": "oom", "size": 2**40, "device_free": 0, "stream": 0, "frames": []}]],
    "allocator_settings": {},
}


def lines() -> list[tuple[str, str]]:
    return [(name, line) for name, of_options in WRONG.items() for each in of_options.values() for line in each]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    return dict(next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)).choices)


def test_every_option_that_takes_a_value_is_tried() -> None:
    for name, made in subcommands().items():
        values = {action.dest for action in made._actions if action.nargs != 0 and action.dest not in TAKES_ALL}
        assert values == set(WRONG[name]), name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("s.py").touch()
    Path("nets.py").write_text(NETS)
    gpu_trace().save("gpu.torchprof")
    training().trace().with_source().save("lines.torchprof")
    Path("snapshot.pickle").write_bytes(pickle.dumps(SNAPSHOT))
    return tmp_path


@pytest.mark.parametrize(("subcommand", "line"), lines(), ids=lambda text: text)
@pytest.mark.usefixtures("here")
def test_wrong_usage_is_one_line_in_the_words_of_the_shell(
    subcommand: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.delattr("os.execve")  # nothing of this runs a program
    files = {"FILE": "gpu.torchprof", "LINES": "lines.torchprof", "SNAPSHOT": "snapshot.pickle"}
    with pytest.raises(SystemExit) as exit:
        main([subcommand, *(files.get(each, each) for each in line.split())])
    said = capsys.readouterr()
    assert (exit.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"torchprof {subcommand}: ")
    assert said.err.endswith(f" See torchprof {subcommand} --help\n")
    assert PYTHON.search(re.sub(r"'[^']*'|--[a-z-]+ [a-z]+=|NAME=VALUE|\[NAME=\]|ids=", "", said.err)) is None, said.err
