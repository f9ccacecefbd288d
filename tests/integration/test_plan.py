"""``torchprof.plan``: every configuration is what `estimate` says of it; what is known already is not estimated."""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded_blocks import sharded_blocks
from torch import nn
from transformers import (
    DeepseekV3Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PhiConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    T5Config,
)

import torchprof
from torchprof import ArgumentError, Configuration, EstimateError, ModuleTypeError, Plan
from torchprof.cli.main import main
from torchprof.estimation.planner import helper, running
from torchprof.estimation.planner.choice import Choice
from torchprof.estimation.planner.keys import key_of
from torchprof.estimation.planner.least import least_held
from torchprof.estimation.planner.one_choice import Asked
from torchprof.estimation.planner.transformers_models import ShardedTransformer
from torchprof.estimation.sharding.building import built_sharded
from torchprof.estimation.sharding.world import fake_world
from torchprof.estimation.training_step import TrainingStep

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
}
HOW = ("none", "selective", "full")
LLAMA = LlamaConfig(**SIZES)
WIDTH = 64


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def blocks(choice: Choice) -> nn.Module:
    return sharded_blocks(WIDTH, (choice.gpus,), "cuda")


def vectors(choice: Choice) -> tuple[int, int]:
    return choice.batch, WIDTH


def of_blocks(**options: Any) -> Plan:
    return torchprof.plan(blocks, vectors, **{"gpus": (2, 4), "gpu": "H100-80GB", "cache": False, **options})


def of_llama(**options: Any) -> Plan:
    given = {"gpus": 2, "gpu": "H100-80GB", "sequence": 64, "over": {"tp": 1}, "cache": False, **options}
    return torchprof.plan(LLAMA, **given)


def by_choice(plan: Plan) -> dict[str, Configuration]:
    return {str(row.choice): row for row in plan.rows}


def forbidden(*args: object) -> Any:
    raise AssertionError("it is estimated")


def test_a_row_is_what_an_estimate_says() -> None:
    found = by_choice(of_blocks(batch=(4, 8)))
    assert len(found) == 4
    row = found["2 GPUs, batch 8"]
    estimated = torchprof.estimate(
        partial(sharded_blocks, WIDTH, (2,), "cuda"),
        (8, WIDTH),
        optimizer=torch.optim.AdamW,
        capacity="H100-80GB",
        world_size=2,
    )
    assert row.needed == estimated.device_memory
    assert row.to_dict()["by_category"] == estimated.by_category
    assert row.sent == sum(each.bytes for each in estimated.communication)
    assert row.flops == estimated.flops
    assert row.bound == estimated.bound().step
    assert row.status == "fits"


def test_gradients_that_are_added_up_are_there_in_the_second_pass() -> None:
    once, twice, often = (of_blocks(gpus=2, batch=8, sequence=1, tokens_per_step=16 * passes).rows[0] for passes in (1, 2, 8))
    assert [row.choice.accumulation for row in (once, twice, often)] == [1, 2, 8]
    gradients = [row.to_dict()["by_category"].get("sharded gradients", 0) for row in (once, twice)]
    assert gradients[0] < gradients[1]
    assert often.needed == twice.needed
    assert once.flops is not None
    assert once.sent is not None
    assert (twice.flops, often.flops) == (2 * once.flops, 8 * once.flops)
    assert (twice.sent, often.sent) == (2 * once.sent, 8 * once.sent)


def test_further_passes_need_no_further_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    of_blocks(gpus=2, sequence=1, tokens_per_step=8, cache="blocks")
    monkeypatch.setattr(running, "found_of", forbidden)
    (row,) = of_blocks(gpus=2, sequence=1, tokens_per_step=64, cache="blocks").rows
    assert row.choice.accumulation == 32
    with pytest.raises(AssertionError, match="it is estimated"):
        of_blocks(gpus=2, sequence=1, tokens_per_step=2, cache="blocks")


def test_what_parameters_and_states_alone_are_too_large_for_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingStep, "run", forbidden)
    (row,) = of_blocks(gpus=2, gpu="100kB").rows
    assert row.status == "does not fit"
    assert row.needed == 4 * sum(parameter.numel() * 4 for parameter in sharded_blocks_whole()) // 2
    assert row.why == "parameters, gradients and optimizer state alone are more"


def sharded_blocks_whole() -> list[nn.Parameter]:
    from sharded_blocks import of_blocks

    return list(of_blocks(WIDTH).parameters())


def least_of(build: Any, optimizer: Any, *, own_step: bool) -> dict[str, int]:
    with fake_world(2, 0):
        return least_held(built_sharded(build), optimizer, own_step=own_step)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_no_step_holds_less_than_the_least(optimizer: Any) -> None:
    build = partial(sharded_blocks, WIDTH, (2,), "cuda")
    least = least_of(build, optimizer, own_step=False)
    found = torchprof.estimate(build, (8, WIDTH), optimizer=optimizer, world_size=2)
    held = found.memory.by_category
    assert least["parameters"] == held["sharded parameters"]
    assert sum(least.values()) <= found.max_allocated
    assert least.get("optimizer state", 0) <= held["optimizer state"]


def test_of_a_step_of_ones_own_only_parameters_are_known_beforehand() -> None:
    least = least_of(partial(sharded_blocks, WIDTH, (2,), "cuda"), torch.optim.AdamW, own_step=True)
    assert set(least) == {"parameters"}


def test_a_configuration_of_transformers_needs_no_code() -> None:
    rows = {row.choice.checkpointing: row for row in of_llama(over={"checkpointing": HOW}, sequence=256).rows}
    activations = [rows[how].to_dict()["by_category"]["activations"] for how in HOW]
    assert activations == sorted(activations, reverse=True)
    none, some, all_ = [rows[how].flops_recomputed or 0 for how in HOW]
    assert none == 0 < some < all_


def test_tensor_parallel_ranks_share_the_flops() -> None:
    alone, shared = of_llama(gpus=1).rows[0], of_llama(over={"tp": 2}).rows[0]
    assert alone.flops is not None
    assert shared.flops == pytest.approx(alone.flops / 2, rel=0.05)


def test_precision_is_what_is_computed_in_and_what_is_kept() -> None:
    found = by_choice(of_llama(over={"precision": ("fp32", "bf16", "bf16-true")}))
    held = {row.choice.precision: row.to_dict()["by_category"] for row in found.values()}
    assert held["fp32"]["sharded parameters"] == held["bf16"]["sharded parameters"]
    assert held["bf16"]["sharded parameters"] == pytest.approx(2 * held["bf16-true"]["sharded parameters"], rel=0.01)
    bounds = {row.choice.precision: row.limit for row in found.values()}
    assert bounds["bf16"] is not None
    assert bounds["fp32"] is not None
    assert bounds["bf16"].compute < bounds["fp32"].compute  # type: ignore[operator]


def test_shards_are_replicated_over_the_ranks_that_are_left() -> None:
    (row,) = of_llama(gpus=4, over={"fsdp": 2}).rows
    assert {"replicate", "fsdp"} <= set(row.sent_by_dimension)
    assert row.choice.data_ranks == 4


@pytest.mark.parametrize(
    ("config", "over", "said"),
    [
        (LLAMA, {"tp": (1, 8)}, "tp 8 does not divide num_attention_heads 4"),
        (GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64), {"tp": (1, 2)}, "it has no base_model_tp_plan"),
        (MixtralConfig(**SIZES), {"tp": (1, 2)}, "'moe_tp_experts'"),
    ],
)
def test_splits_that_a_model_cannot_have_are_left_out(config: Any, over: Any, said: str) -> None:
    sharded = ShardedTransformer(config)
    assert sharded.problem(Choice(8, 1, 8, 1, {"tp": 1})) == ""
    assert said in sharded.problem(Choice(8, 1, 8, 1, {"tp": max(over["tp"])}))


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=64),
        LlamaConfig(**SIZES, tie_word_embeddings=True),
        Qwen3Config(**SIZES, head_dim=16),
        PhiConfig(**SIZES),
        GPTNeoXConfig(**{name: size for name, size in SIZES.items() if name != "num_key_value_heads"}),
    ],
    ids=lambda config: type(config).__name__,
)
def test_other_models_are_sharded_too(config: Any) -> None:
    tp = 2 if getattr(config, "base_model_tp_plan", None) else 1
    plan = torchprof.plan(config, gpus=2, sequence=64, over={"tp": tp, "checkpointing": "full"}, cache=False)
    assert plan.best is not None, plan
    assert plan.best.flops_recomputed


EXPERTS = [
    MixtralConfig(**SIZES, num_local_experts=4),
    Qwen3MoeConfig(**SIZES, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2),
    DeepseekV3Config(
        **SIZES,
        moe_intermediate_size=32,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=32,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    ),
]


@pytest.mark.parametrize("config", EXPERTS, ids=lambda config: type(config).__name__)
def test_models_with_experts_are_sharded_and_their_experts_are_not_split(config: Any) -> None:
    plan = torchprof.plan(config, gpus=2, sequence=64, over={"tp": (1, 2)}, cache=False)
    assert [(row.choice.tp, row.status) for row in plan.rows] == [(1, "fits")]
    ((why, count),) = plan.left_out
    assert count == 1
    assert "splits by 'moe_tp_experts'" in why
    assert why.endswith("try tp 1, or write build_with yourself")


def test_what_is_assumed_of_routers_is_said_where_a_model_reads_them() -> None:
    loops = MixtralConfig(**SIZES, num_local_experts=4)
    loops._experts_implementation = "eager"
    plan = torchprof.plan(loops, gpus=2, sequence=64, over={"tp": 1}, cache=False)
    (row,) = plan.rows
    (said,) = row.to_dict()["assumed"]
    assert said.startswith("routing is balanced")
    assert f"Assumed: {said}" in str(plan).replace("\n", " ")
    with pytest.raises(EstimateError, match="routing='balanced' takes it"):
        torchprof.plan(loops, gpus=2, sequence=64, over={"tp": 1}, cache=False, routing=None)


def test_a_file_of_a_model_with_experts_is_planned_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mixtral.json"
    file.write_text(json.dumps({"model_type": "mixtral", **SIZES, "num_local_experts": 4}))
    arguments = "--gpus 2 --sequence 64 --over tp=1 --over checkpointing=full --no-cache --json"
    assert main(["plan", "--model", str(file), *arguments.split()]) == 0
    (row,) = json.loads(capsys.readouterr().out)["configurations"]
    assert (row["status"], row["tp"]) == ("fits", 1)


def test_a_helper_whose_planner_was_killed_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(file: Any, data: bytes) -> None:
        raise BrokenPipeError

    asked = iter(("what is asked", ("a choice", None)))
    monkeypatch.setattr(helper, "_read", lambda file: next(asked))
    monkeypatch.setattr(helper, "found_of", lambda *given: None)
    monkeypatch.setattr(helper, "_write", gone)
    monkeypatch.setattr(os, "fdopen", lambda *given: None)
    monkeypatch.setattr(os, "dup", lambda *given: 0)
    monkeypatch.setattr(os, "dup2", lambda *given: 0)
    monkeypatch.setattr(os, "_exit", lambda code: sys.exit(code))
    with pytest.raises(SystemExit) as ended:
        helper.main()
    assert ended.value.code == 1


def test_only_programs_of_the_user_s_own_are_warned_of_views_that_layers_return() -> None:
    of_torchprof = ShardedTransformer(LLAMA)

    def own(choice: Choice) -> nn.Module:
        return of_torchprof(choice)

    options: dict[str, Any] = {"over": {"fsdp": 1, "tp": 2, "checkpointing": "none", "precision": "bf16"}, "processes": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        assert of_llama(**options).rows[0].status == "fits"
    with pytest.warns(UserWarning, match="returned a view tensor"):
        torchprof.plan(own, of_torchprof.inputs, gpus=2, sequence=64, cache=False, **options)


def test_a_model_that_predicts_no_tokens_is_named() -> None:
    with pytest.raises(EstimateError, match=r"T5Config is of no model that .*\.T5Config'> .*\w\): write build_with as a"):
        torchprof.plan(T5Config(), gpus=2, sequence=64, cache=False)


def test_what_was_found_is_not_estimated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = of_llama(cache=True)
    monkeypatch.setattr(running, "found_of", forbidden)
    assert of_llama(cache=True).rows == first.rows
    with pytest.raises(AssertionError, match="it is estimated"):
        of_llama(cache=True, sequence=65)
    with pytest.raises(AssertionError, match="it is estimated"):
        of_llama(cache=True, optimizer=torch.optim.SGD)
    with pytest.raises(AssertionError, match="it is estimated"):
        of_llama(cache=False)


@pytest.mark.parametrize("name", ["_attn_implementation", "_experts_implementation"])
def test_results_are_kept_by_how_a_model_attends_and_runs_its_experts(name: str) -> None:
    keys = set()
    for how in ("eager", None):
        config = MixtralConfig(**SIZES)
        if how is not None:
            setattr(config, name, how)
        sharded = ShardedTransformer(config)
        keys.add(key_of(Asked(sharded, sharded.inputs, "T4", None, None, None, None, None, {}), None))
    assert len(keys) == 2
    assert None not in keys


def test_what_functions_of_ones_own_find_is_kept_under_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    of_blocks(gpus=2, cache=True)
    of_blocks(gpus=2, cache="blocks, 1")
    monkeypatch.setattr(running, "found_of", forbidden)
    assert of_blocks(gpus=2, cache="blocks, 1").best
    for cache in (True, "blocks, 2"):
        with pytest.raises(AssertionError, match="it is estimated"):
            of_blocks(gpus=2, cache=cache)


def test_two_processes_find_what_one_does() -> None:
    one, two = (of_llama(over={"checkpointing": HOW}, processes=number) for number in (1, 2))
    assert [row.to_dict() for row in one.rows] == [row.to_dict() for row in two.rows]


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "import os; os.write(1, b'nonsense' * 100)", "while True: pass"])
def test_what_a_second_process_does_not_answer_this_one_finds(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = of_llama(over={"checkpointing": HOW}, processes=1)
    monkeypatch.setattr(helper, "PROGRAM", program)
    if program.startswith("while"):  # it is asked, and then has nothing to do as long as this one works
        monkeypatch.setattr(helper.Helper, "_work", lambda self, process: self._ended.wait())
    two = of_llama(over={"checkpointing": HOW}, processes=2)
    assert [row.to_dict() for row in one.rows] == [row.to_dict() for row in two.rows]


@pytest.mark.parametrize(("worth", "begun"), [(0.0, 1), (1e9, 0)])
def test_a_second_process_begins_where_it_saves_enough(worth: float, begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[helper.Helper] = []
    monkeypatch.setattr(running, "WORTH", worth)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(helper.Helper, "_start", lambda self: started.append(self))
    plan = of_llama(over={"checkpointing": HOW})
    assert len(plan.fitting) == 3
    assert len(started) == begun


def test_nothing_is_left_of_a_second_process_where_ctrl_c_ends_the_plan() -> None:
    def stop(done: int, count: int, last: Configuration) -> None:
        raise KeyboardInterrupt

    plan = of_llama(over={"checkpointing": HOW}, processes=2, progress=stop)
    assert plan.interrupted
    assert "torchprof-plan" not in {thread.name for thread in threading.enumerate()}


def test_what_is_no_mapping_or_only_a_class_is_named() -> None:
    with pytest.raises(ModuleTypeError, match=r"over must be a dict of values by name, such as \{'tp': \(1, 2\)\}, not \[\]"):
        of_llama(over=[])
    with pytest.raises(ModuleTypeError, match="a configuration of transformers, not the class LlamaConfig itself"):
        torchprof.plan(LlamaConfig, sequence=64)


def test_rates_are_of_samples_where_these_have_no_tokens() -> None:
    printed = str(of_blocks(gpus=2))
    assert "Samples/s, at most" in printed
    assert "Tokens/s" not in printed
    assert "Tokens/s, at most" in str(of_llama())


def test_ctrl_c_gives_what_is_known() -> None:
    def stop(done: int, count: int, last: Configuration) -> None:
        assert (done, count) == (1, 2)
        raise KeyboardInterrupt

    plan = of_blocks(progress=stop)
    assert plan.interrupted
    assert [row.status for row in plan.rows] == ["fits", "not estimated"]
    assert plan.best is plan.rows[0]


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    of_blocks(progress=lambda done, count, last: told.append((done, count, last.status)))
    assert told == [(1, 2, "fits"), (2, 2, "fits")]


def test_what_one_configuration_raises_is_in_its_row() -> None:
    def build(choice: Choice) -> nn.Module:
        if choice.gpus == 4:
            raise RuntimeError("four are\ntoo many")
        return blocks(choice)

    plan = torchprof.plan(build, vectors, gpus=(2, 4), cache=False)
    assert [row.status for row in plan.rows] == ["fits", "failed"]
    assert plan.rows[1].why == "RuntimeError: four are"


def test_what_all_raise_is_raised() -> None:
    with pytest.raises(EstimateError, match="ZeroDivisionError: "):
        torchprof.plan(lambda choice: 1 // 0, vectors, gpus=(2, 4), cache=False)


def test_a_plan_leaves_nothing_behind() -> None:
    state, variables = torch.get_rng_state(), dict(os.environ)
    of_llama()
    assert torch.equal(state, torch.get_rng_state())
    assert dict(os.environ) == variables
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpu": "H100"}, "gpu='H100' is no known GPU"),
        ({"sequence": None}, "sequence= is needed"),
        ({"sequence": 10**6}, "sequence=1000000 is more than max_position_embeddings=2048"),
        ({"over": {"tpp": 1}}, "names 'tpp', which .* did you mean 'tp'"),
        ({"over": {"checkpointing": "most"}}, "has 'most' for 'checkpointing': use one of 'none', 'selective', 'full'"),
        ({"over": {"tp": "two"}}, "has 'two' for 'tp': it is how many ranks"),
        ({"over": {"tp": 1, "chkpointing": "full"}}, "did you mean 'checkpointing'"),
        ({"over": {"zzz": 1}}, "'precision'. For other choices, write build_with yourself"),
        ({"opitmizer": None}, "opitmizer=None is no argument of plan, nor of estimate: did you mean 'optimizer'"),
        ({"routing": "even"}, "routing='even' must be 'balanced'"),
        ({"step": print, "tokens_per_step": 128}, "tokens_per_step= is for the step that torchprof makes"),
        ({"amp": torch.int8}, "amp=torch.int8 must be"),
        ({"world_size": 4}, "world_size=4 is nothing of a plan"),
        ({"processes": 0}, "processes=0 must be"),
        ({"cache": 3}, "cache=3 must be True or False"),
        ({"links": {"fsdp": "Infiniband NDX"}}, "is no link that is known here"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        of_llama(**options)


@pytest.mark.parametrize(
    ("build_with", "inputs", "said"),
    [
        (nn.Linear(2, 2), vectors, "build_with must be a function"),
        (nn.Linear, vectors, "not the class Linear"),
        (blocks, (8, 64), "inputs must be a function"),
    ],
)
def test_what_is_no_function_is_named(build_with: Any, inputs: Any, said: str) -> None:
    with pytest.raises(ModuleTypeError, match=said):
        torchprof.plan(build_with, inputs)


def test_functions_of_ones_own_need_inputs() -> None:
    with pytest.raises(ArgumentError, match="inputs= is needed: a function"):
        torchprof.plan(blocks)
