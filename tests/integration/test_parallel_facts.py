"""What a recording knows of how models are parallel: the groups of FSDP and DDP, and the stages of pipelines."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.nn.parallel import DistributedDataParallel

import torchprof
from torchprof.record import torch_private
from torchprof.record.parallel import parallel_facts

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    gc.collect()


def stage(number: int = 0, of: int = 1) -> PipelineStage:
    return PipelineStage(nn.Linear(2, 2), number, of, torch.device("cpu"))


def test_ddp_tells_its_group() -> None:
    own = dist.new_group([0], group_desc="own")
    model = nn.Sequential(DistributedDataParallel(nn.Linear(2, 2), process_group=own))
    told = parallel_facts(model)["groups_of_wrappers"]
    assert told == [
        {"by": "DDP", "kinds": [kind], "group": own.group_name, "modules": []} for kind in ("all-reduce", "broadcast")
    ]


def test_of_fsdp_over_several_meshes_each_group_of_parameters_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = [[dist.new_group([0]) for _ in range(2)] for _ in range(2)]
    meshes = [DeviceMesh.from_group(of, "cpu", mesh=[[0]], mesh_dim_names=("replicate", "shard")) for of in groups]
    for part, mesh in zip(model, meshes, strict=True):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=meshes[0])
    model(torch.ones(1, 2))  # names are given then
    told = parallel_facts(model)["groups_of_wrappers"]
    gathers = {each["group"]: each["modules"] for each in told if each["kinds"] == ["all-gather"]}
    assert gathers == {shard.group_name: [str(number)] for number, (_, shard) in enumerate(groups)}
    reduces = {each["group"] for each in told if each["kinds"] == ["all-reduce"]}
    assert reduces == {replicate.group_name for replicate, _ in groups}


def test_a_pipeline_tells_its_stages_and_its_schedule() -> None:
    stages = [stage(number, 2) for number in range(2)]
    schedule = ScheduleInterleaved1F1B(stages, 4)  # type: ignore[arg-type]
    models = {str(number): each.submod for number, each in enumerate(stages)}
    (told,) = parallel_facts(models)["pipelines"]
    assert told == {"ranks": [0, 0], "stages": [0, 1], "schedule": type(schedule).__name__, "microbatches": 4}
    (told,) = parallel_facts(models["1"])["pipelines"]
    assert told["stages"] == [1]


def test_a_stage_without_a_schedule_is_known_and_others_models_are_not() -> None:
    one, other = stage(), stage()
    schedule = Schedule1F1B(other, 3)
    (told,) = parallel_facts(one.submod)["pipelines"]
    assert told == {"ranks": [0], "stages": [0], "schedule": None, "microbatches": None}
    (told,) = parallel_facts(None)["pipelines"]
    assert (told["schedule"], told["microbatches"]) == (type(schedule).__name__, 3)
    assert parallel_facts(nn.Linear(1, 1)) == {}


def test_a_stage_that_has_parameters_of_the_model_is_one_of_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    part = nn.Linear(2, 2)
    part.weight = model[1].weight
    kept = [PipelineStage(each, 1, 2, torch.device("cpu")) for each in (nn.Sequential(model[1]), part)]
    (told,) = parallel_facts(model)["pipelines"]
    assert told["stages"] == [1]
    del kept[0]
    assert parallel_facts(model)["pipelines"] == [told]


def test_stages_are_looked_for_after_the_recording_and_not_while_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one, moments, look = stage(), [], gc.get_objects
    monkeypatch.setattr(gc, "get_objects", lambda: moments.append("looked") or look())
    with torchprof.profile(one.submod) as prof:
        assert moments == []
    assert prof.trace.facts["pipelines"]
    assert moments == ["looked"]


def test_objects_are_not_asked_what_they_are() -> None:
    class Asked:
        @property
        def __class__(self) -> Any:
            raise AssertionError("asked")

    kept, one = Asked(), stage()
    assert parallel_facts(one.submod)["pipelines"]
    del kept


def test_without_pipelines_no_object_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.distributed.pipelining.stage")
    monkeypatch.setattr(gc, "get_objects", lambda: pytest.fail("looked"))
    assert parallel_facts(None) == {}


@pytest.mark.parametrize("name", ["pipeline_classes", "ranks_of_stages", "groups_of_fsdp"])
def test_without_a_private_name_all_else_is_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def missing(*_: Any) -> Any:
        raise torchprof.UnsupportedTorchError("renamed")

    monkeypatch.setattr(torch_private, name, missing)
    part = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1,)))
    one = PipelineStage(part, 0, 1, torch.device("cpu"))
    with torchprof.profile(one.submod) as prof:
        pass
    assert prof.trace.facts["rank"] == 0
    assert ("pipelines" in prof.trace.facts) == (name == "groups_of_fsdp")
    assert ("groups_of_wrappers" in prof.trace.facts) == (name != "groups_of_fsdp")
