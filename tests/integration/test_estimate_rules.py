"""Every rule of the estimator: it says where it can be checked, and a small program's estimate is another one without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import Shard, randn
from torch.distributed.tensor.parallel import ColwiseParallel, SequenceParallel, parallelize_module
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

import torchprof
from torchprof import Estimate, EstimateError
from torchprof.estimation.rules.registry import RULES, Kind, all_rules

all_rules()

Forward = Callable[[Tensor], Any]


class Layer(nn.Module):
    """A function of a tensor that needs a gradient."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.scale.to(x.dtype))


def of(function: Forward, shape: tuple[int, ...] = (64, 64), dtype: torch.dtype = torch.float32, **options: Any) -> Estimate:
    return torchprof.estimate(Layer(function), torch.empty(shape, dtype=dtype, device="meta"), **options)


def blocks(found: Estimate) -> list[int]:
    """The sizes of all blocks, in order."""
    sizes: list[int] = found.memory.allocations["bytes"].tolist()
    return sizes


def saved(found: Estimate) -> int:
    return sum(found.memory.saved_by_module.values())


def notes(found: Estimate) -> str:
    return "\n".join(found.notes)


def on_the_host() -> Estimate:
    """A training whose parameters are kept on the host."""

    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (2,))
        return fully_shard(nn.Sequential(nn.Linear(64, 64)), mesh=mesh, offload_policy=CPUOffloadPolicy())

    return torchprof.estimate(build, (8, 64), optimizer=torch.optim.AdamW, world_size=2)


def of_ranks(build: Callable[[], nn.Module]) -> Estimate:
    return torchprof.estimate(build, torch.empty(4, 64, device="meta"), device="cpu", world_size=2)


def gathered() -> nn.Module:
    return fully_shard(nn.Linear(64, 64), mesh=init_device_mesh("cpu", (2,)))


def reduced_at_once() -> nn.Module:
    def reduce(x: Tensor) -> Tensor:
        torch.distributed.all_reduce_coalesced([x.detach()])
        return x.sin()

    return Layer(reduce)


def reduced() -> nn.Module:
    return Layer(lambda x: all_reduce(x, "sum", init_device_mesh("cpu", (2,))) * 2)


def drawn_by_ranks() -> Estimate:
    """A training of a DTensor that is drawn as one, which PyTorch does only on GPUs."""

    def build() -> nn.Module:
        mesh = init_device_mesh("cuda", (2,))
        return Layer(lambda x: randn(64, 64, device_mesh=mesh, placements=[Shard(0)]).to_local().sum() * x)

    return torchprof.estimate(build, (8, 64), world_size=2)


@torch.library.custom_op("torchprof_tests::unmeasured", mutates_args=())
def unmeasured(x: Tensor) -> Tensor:
    return x.clone()


unmeasured.register_fake(torch.empty_like)
unmeasured.register_autograd(lambda context, gradient: gradient)


def grouped(x: Tensor) -> Tensor:
    offsets = torch.full((4,), 64, dtype=torch.int32, device=x.device)
    return torch._grouped_mm(x, torch.empty(4, 64, 32, dtype=x.dtype), offs=offsets)


def recurrent(**options: Any) -> Estimate:
    return torchprof.estimate(nn.LSTM(64, 64, 2, dropout=0.1), (4, 8, 64), **options)


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def untrained(model: nn.Module, optimizer: object, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def asking(model: nn.Module, optimizer: object, x: Tensor) -> None:
    torch.zeros(1024 if torch.cuda.get_device_capability() == (8, 0) else 1)


def asking_what_there_is(model: nn.Module, optimizer: object, x: Tensor) -> None:
    torch.zeros(1024 if torch.accelerator.is_available() else 1)


def emptying(x: Tensor) -> Tensor:
    torch.cuda.empty_cache()
    return x * 2


def norm_then_transposed(x: Tensor) -> Tensor:
    """The gradient of the norm's result is transposed. If that of its input were too, it would be copied to be reshaped."""
    y = F.layer_norm(x.reshape(8, 8, 64), (64,), torch.ones(64), torch.ones(64))
    return y.transpose(1, 2).reshape(64, 64).exp()


def of_images(dtype: torch.dtype, **options: Any) -> Estimate:
    return torchprof.estimate(nn.Conv2d(8, 8, 3).to(dtype), torch.empty(4, 8, 32, 32, dtype=dtype), **options)


def packed() -> Estimate:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
    config = hf.LlamaConfig(**sizes, use_cache=False)
    return torchprof.estimate(hf.LlamaForCausalLM(config), {"input_ids": torch.zeros(1, 32, dtype=torch.long)})


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(x).sum()).backward()
    scaler.step(optimizer)


def norm_under_autocast(x: Tensor) -> Tensor:
    return F.layer_norm(x.bfloat16(), (64,), torch.ones(64), torch.ones(64))


def half_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (64,))


def capturable(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, capturable=True)


def without_unified_workspaces() -> int:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "0")
        return torchprof.estimate(nn.Linear(64, 64), (8, 64)).max_allocated


def without_code_for_cuda() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("torch.utils._triton.triton_hash_with_backend")
        return notes(of(torch.sin, compile=True))


def of_embedding(use: Callable[[Tensor], object]) -> Estimate:
    """Of a step that does something with a sparse gradient."""

    def step(model: nn.Module, optimizer: object, ids: Tensor) -> None:
        model(ids).square().sum().backward()
        use(model.weight.grad)

    return torchprof.estimate(nn.Embedding(64, 8, sparse=True), torch.arange(16), step=step, steps=1)


def synchronized(format: torch.memory_format = torch.contiguous_format) -> list[int]:
    """Of a batch norm between ranks."""
    images = torch.empty(8, 64, 32, 32, device="meta", requires_grad=True).to(memory_format=format)
    loss = lambda y: y.square().sum()  # noqa: E731
    return blocks(torchprof.estimate(lambda: nn.SyncBatchNorm(64), images, loss=loss, world_size=2))


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (64,), torch.ones(64))


WITNESSES: dict[str, Callable[[], Any]] = {
    "accelerator": lambda: torchprof.estimate(nn.Linear(8, 8), (1, 8), step=asking_what_there_is, steps=1).memory.peak.bytes,
    "all_iterations": lambda: blocks(torchprof.estimate(nn.Linear(8, 8), (1, 8), optimizer=torch.optim.LBFGS)),
    "accumulated_gradients": lambda: blocks(of(lambda x: x.sin() + x.cos() + x.exp())),
    "attention": lambda: blocks(of(attention, (2, 2, 64, 64))),
    "autocast_of_cuda": lambda: saved(of(lambda x: x.softmax(-1), dtype=torch.bfloat16, amp=torch.bfloat16)),
    "capturable_optimizer": lambda: blocks(torchprof.estimate(nn.Linear(64, 64), (1, 64), optimizer=capturable)),
    "cudnn_log_sum_exp": lambda: (
        of(attention, (2, 2, 64, 64), torch.bfloat16, capacity="H200", step=untrained).memory.peak.bytes
    ),
    "contiguous_layer_norm_gradients": lambda: blocks(of(norm_then_transposed)),
    "cpu_workspaces": lambda: blocks(of(lambda x: x.sort(-1)[0], device="cpu")),
    "blas_operands": lambda: blocks(torchprof.estimate(nn.Linear(64, 64), (8, 64), loss=torch.sum)),
    "cublas_workspaces": lambda: of(lambda x: x @ x).max_reserved,
    "cublaslt_workspaces": without_unified_workspaces,
    "cuda_context": lambda: of(torch.sin).device_memory,
    "cuda_library_workspaces": lambda: notes(of(lambda x: torch.linalg.qr(x)[0])),
    "cuda_devices": lambda: blocks(of(lambda x: x.to("cuda"))),
    "cuda_queries": lambda: torchprof.estimate(nn.Linear(8, 8), (1, 8), step=asking, steps=1).memory.peak.bytes,
    "cuda_reserved": lambda: notes(of(emptying)),
    "cudnn_convolution": lambda: of_images(torch.float16).memory.peak.bytes,
    "cudnn_plans": lambda: notes(of_images(torch.float16)),
    "cudnn_rnn": lambda: saved(recurrent()),
    "cudnn_rnn_gradients": lambda: blocks(recurrent()),
    "cudnn_rnn_reserve": lambda: saved(recurrent()),
    "cudnn_rnn_workspace": lambda: blocks(recurrent()),
    "cudnn_dropout_state": lambda: recurrent().max_reserved,
    "cumprod_backward": lambda: blocks(of(lambda x: x.cumprod(-1))),
    "custom_op_workspaces": lambda: notes(of(lambda x: unmeasured(x))),
    "dropout": lambda: saved(of(lambda x: F.dropout(x, 0.5))),
    "efficient_attention_gradients": lambda: blocks(of(attention, (2, 2, 64, 64))),
    "embedding_gradients": lambda: blocks(torchprof.estimate(nn.Embedding(64, 8), torch.zeros(4000, dtype=torch.long))),
    "finite_gradients": lambda: blocks(torchprof.estimate(nn.Linear(64, 64), (1, 64), optimizer=torch.optim.SGD, step=scaled)),
    "fused_rms_norm": lambda: blocks(of(rms_norm)),
    "flash_gradients": lambda: blocks(of(attention, (2, 2, 64, 64), torch.bfloat16)),
    "float32_statistics": lambda: saved(of(half_norm, dtype=torch.bfloat16)),
    "foreach_kernels": lambda: blocks(torchprof.estimate(nn.Linear(64, 64), (1, 64), optimizer=torch.optim.AdamW)),
    "grouped_mm": lambda: blocks(of(grouped, (256, 64))),
    "index_copies": lambda: blocks(of(lambda x: x[torch.zeros(8, dtype=torch.long)])),
    "flex_attention_of_cuda": lambda: blocks(of(lambda x: flex_attention(x, x, x), (1, 1, 128, 64))),
    "flex_attention_as_written": lambda: of(lambda x: flex_attention(x, x, x), (1, 1, 128, 64)).notes,
    "inductor_without_bfloat16": lambda: (
        torchprof.estimate(
            nn.Linear(64, 64).bfloat16(), torch.empty(8, 64, dtype=torch.bfloat16), compile=True, capacity="T4", steps=1
        ).notes
    ),
    "inductor_for_cuda": without_code_for_cuda,
    "losses_of_elements": lambda: blocks(of(lambda x: F.mse_loss(x, x.detach()))),
    "mask_before_result": lambda: blocks(of(lambda x: F.dropout(x, 0.5))),
    "norm_statistics": lambda: saved(of(norm_under_autocast, device="cpu", amp=torch.bfloat16)),
    "one_by_one_on_the_host": lambda: len(on_the_host().trace.ops),
    "onednn_rnn_reserve": lambda: blocks(recurrent(device="cpu", step=lambda model, _, x: model(x))),  # oneDNN needs it
    "prod_backward": lambda: blocks(of(torch.prod)),
    "prod_backward_along_dimension": lambda: blocks(of(lambda x: x.prod(-1))),
    "reductions": lambda: blocks(of(lambda x: x.sum(0), (4096, 64))),
    "reduced_elements": lambda: blocks(of(lambda x: x.logsumexp(-1))),
    "safe_softmax": lambda: blocks(of(attention, (2, 64, 64))),
    "saved_random_states": lambda: blocks(of(lambda x: checkpoint(torch.sin, x, use_reentrant=False), device="cpu")),
    "scattered_gradients": lambda: blocks(of(lambda x: x.max(-1).values)),
    "stats_of_batch_norm": synchronized,
    "gathered_stats_of_batch_norm": synchronized,
    "normalized_elements": synchronized,
    "backward_sums_of_batch_norm": synchronized,
    "backward_elements_of_batch_norm": synchronized,
    "workspaces_of_batch_norm": lambda: synchronized(torch.channels_last),
    "synchronized_batch_norms": synchronized,
    "seeds_before_result": lambda: blocks(of(attention, (2, 2, 64, 64), torch.bfloat16, capacity="H200")),
    "seeds_on_the_host": lambda: blocks(of(attention, (2, 2, 64, 64))),
    "sparse_copy": lambda: blocks(of_embedding(lambda gradient: gradient.coalesce())),
    "random_dtensors": lambda: blocks(drawn_by_ranks()),
    "sparse_elements": lambda: notes(of_embedding(lambda gradient: None)),
    "sparse_mask": lambda: blocks(of_embedding(lambda gradient: torch.ones(64, 8).sparse_mask(gradient))),
    "sparse_product": lambda: blocks(of_embedding(lambda gradient: gradient * 2)),
    "sparse_sum": lambda: blocks(of_embedding(lambda gradient: gradient + gradient)),
    "sparse_to_dense": lambda: blocks(of_embedding(lambda gradient: gradient.to_dense())),
    "sparse_zero": lambda: blocks(of_embedding(lambda gradient: gradient.zero_())),
    "GlooFlatCopy": lambda: blocks(of_ranks(reduced_at_once)),
    "GlooWorkspaces": lambda: blocks(of_ranks(gathered)),
    "waited_tensor": lambda: blocks(of_ranks(reduced)),
    "steps_on_the_host": lambda: torchprof.estimate(nn.Linear(64, 64), (1, 64), optimizer=torch.optim.AdamW).by_category[
        "optimizer state"
    ],
    "unpacked_sequences": lambda: blocks(packed()),
    "value_independent_optimizer": lambda: of(torch.sin, optimizer=torch.optim.ASGD, device="cpu").max_allocated,
}
"""By name of the rule: a figure that is another one without it, or that cannot be told."""


def test_every_rule_has_a_witness() -> None:
    assert sorted(rule.name for rule in all_rules()) == sorted(WITNESSES)


@pytest.mark.parametrize("rule", list(RULES.values()), ids=lambda rule: rule.name)
def test_a_rule_says_where_it_holds_and_where_it_can_be_checked(rule: Any) -> None:
    assert rule.on
    assert set(rule.on) <= {"cpu", "cuda"}
    assert rule.when
    assert len(rule.source) > 20
    ops = [name for name in rule.subjects if name.startswith(("aten::", "c10d::", "_c10d_functional::"))]
    assert rule.kind is Kind.NOTE or len(rule.ops()) == len(ops), "an op that this PyTorch does not have"


@pytest.mark.parametrize("name", WITNESSES)
@pytest.mark.filterwarnings("ignore")
def test_without_a_rule_the_estimate_is_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = WITNESSES[name]()
    assert WITNESSES[name]() == expected
    monkeypatch.delitem(RULES, name)
    try:
        found = WITNESSES[name]()
    except (AssertionError, EstimateError, RuntimeError, ValueError):  # of the optimizer, say
        return
    assert found != expected


@pytest.mark.parametrize(("dtype", "of_a_row"), [(torch.float32, 4), (torch.bfloat16, 4), (torch.float64, 8)])
def test_an_rms_norm_on_cuda_keeps_its_input_and_a_number_per_row(dtype: torch.dtype, of_a_row: int) -> None:
    def norms(x: Tensor) -> Tensor:
        x = F.rms_norm(x.reshape(32, 4, 32), (4, 32), torch.ones(4, 32, dtype=dtype))
        return F.rms_norm(x, (32,))

    size = 64 * 64 * dtype.itemsize
    found = of(norms, dtype=dtype)
    layer, scaled = saved(of(lambda x: x * 1, dtype=dtype)), 2 * size  # what each of the two norms was given
    assert saved(found) - layer == scaled + (32 + 32 * 4) * of_a_row + 4 * 32 * dtype.itemsize
    assert "aten::pow" not in {found.trace.strings[name] for name in found.trace.signatures["name"].tolist()}


def test_an_rms_norm_of_another_dtype_than_its_weight_is_many_ops_on_cuda_too() -> None:
    found = of(lambda x: F.rms_norm(x.bfloat16(), (64,), torch.ones(64)))
    assert "aten::pow" in {found.trace.strings[name] for name in found.trace.signatures["name"].tolist()}


class Normalized(nn.Module):
    """A norm, and what needs it whole."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.out = nn.RMSNorm(64, dtype=dtype), nn.Linear(64, 64, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm(x))
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_rms_norm_of_a_sequence_that_ranks_share_is_one_kernel_of_each_rank(dtype: torch.dtype) -> None:
    """Each of 4 ranks has 16 of 64 positions of two sequences."""

    def build() -> nn.Module:
        plan = {"norm": SequenceParallel(), "out": ColwiseParallel(input_layouts=Shard(1))}
        return parallelize_module(Normalized(dtype), init_device_mesh("cuda", (4,)), plan)

    rows = torch.empty(2, 16, 64, dtype=dtype, device="meta", requires_grad=True)
    found = torchprof.estimate(build, rows, world_size=4, steps=1)
    names = [found.trace.strings[name] for name in found.trace.signatures["name"].tolist()]
    of_op: dict[str, list[int]] = {}
    account = found.memory.allocations
    for op, size in zip(account["op"].tolist(), account["bytes"].tolist(), strict=True):
        of_op.setdefault(names[found.trace.ops[op]["signature"]], []).append(size)
    part = 2 * 16 * 64 * dtype.itemsize
    assert of_op["aten::_fused_rms_norm"] == [part, 2 * 16 * 4]
    assert of_op["aten::_fused_rms_norm_backward"] == [part, 64 * dtype.itemsize]
    assert not {"aten::pow", "aten::rsqrt", "aten::zeros"} & {*names}


def test_gradients_of_an_rms_norm_are_what_is_asked_for() -> None:
    class Norm(nn.Module):
        def __init__(self, trained: bool) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(64).requires_grad_(trained)

        def forward(self, x: Tensor) -> Any:
            return self.norm(x) + self.norm(x.detach())

    for trained in (True, False):
        data = torch.empty(8, 64, device="meta", requires_grad=True)
        found = torchprof.estimate(Norm(trained), data, optimizer=torch.optim.SGD if trained else None)
        assert found.memory.by_category.get("gradients", 0) >= 64 * 4 * trained


@pytest.mark.parametrize("norm", [lambda x: F.layer_norm(x, (64,)), lambda x: F.batch_norm(x, None, None, training=True)])
def test_statistics_of_a_norm_in_half_precision_are_of_float32_on_cuda(norm: Forward) -> None:
    mean, deviation, input = 64 * 4, 64 * 4, 64 * 64 * 2
    assert saved(of(norm, dtype=torch.bfloat16)) == input + mean + deviation


def test_rules_of_a_device_leave_the_other_alone() -> None:
    assert of(torch.sin, device="cpu").overheads == ()
    assert "cuDNN" not in notes(of_images(torch.float32, device="cpu"))
