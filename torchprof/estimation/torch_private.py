"""Every private name of PyTorch that estimates use, by the feature that needs it.

PyTorch may rename these in any version. A name is looked up when a feature first uses it, never on import, so that a missing
one stops that feature, with an error that says which name it is, and nothing else.

    from torchprof.estimation.torch_private import ESTIMATE

    FakeTensor = ESTIMATE.FakeTensor

Ops that a rule of `torchprof.estimation.rules` applies to are written in that rule alone: where PyTorch has no such op, no
program calls it. Ops that a rule calls are here.
"""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any, Final

import torch

from torchprof.errors import EstimateError

__all__ = [
    "ATTENTION_RULE",
    "AUTOCAST_RULE",
    "COMPILE",
    "CONTEXT_PARALLEL",
    "CUDA_NAMES",
    "DISPATCHER_RULES",
    "DYNAMO",
    "ESTIMATE",
    "FEATURES",
    "GROUPED_MM_RULE",
    "HIGHER_ORDER",
    "INDUCTOR_FOR_CUDA",
    "OFFLOAD",
    "PIPELINES",
    "SHARDING",
    "STANCE",
    "Feature",
]


class Feature:
    """Something that works only where PyTorch has these names. Each is an attribute, looked up on first use.

    Args:
        what: the feature, as an error names it.
        still_works: what a user can do without it.
        names: the attribute of each name, and the dotted path at which PyTorch has it.
        methods: dotted paths that are used through an object, and so are only checked.

    Raises:
        EstimateError: on use, PyTorch has no such name.
    """

    def __init__(self, what: str, still_works: str, names: dict[str, str], methods: tuple[str, ...] = ()) -> None:
        self.what, self.still_works, self.names, self.methods = what, still_works, names, methods

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.names:
            raise AttributeError(name)
        found = self._find(self.names[name])
        setattr(self, name, found)
        return found

    def require(self) -> None:
        """Look up every name.

        Raises:
            EstimateError: PyTorch lacks one.
        """
        for name in self.names:
            getattr(self, name)
        for path in self.methods:
            self._find(path)

    def _find(self, path: str) -> Any:
        try:
            return find(path)
        except (ImportError, AttributeError) as error:
            raise EstimateError(
                f"{self.what} needs {path}, which PyTorch {torch.__version__} does not have. {self.still_works}. "
                "A newer torchprof may know what replaced it"
            ) from error


def find(path: str) -> Any:
    """What a dotted path names: the longest part of it that is a module is imported.

    Raises:
        ImportError, AttributeError: there is no such thing.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # the module is there, and something that it imports is not
            continue
        return reduce(getattr, parts[count:], found)
    raise ImportError(f"no module named {parts[0]!r}", name=parts[0])


FAKE_TENSOR: Final = "torch._subclasses.fake_tensor"

ESTIMATE: Final = Feature(
    "torchprof.estimate",
    "Recordings, summaries, saved traces and replays of allocations work all the same",
    names={
        "DataDependentOutputException": f"{FAKE_TENSOR}.DataDependentOutputException",
        "DynamicOutputShapeException": f"{FAKE_TENSOR}.DynamicOutputShapeException",
        "FakeTensor": f"{FAKE_TENSOR}.FakeTensor",
        "FakeTensorMode": f"{FAKE_TENSOR}.FakeTensorMode",
        "UnsupportedOperatorException": f"{FAKE_TENSOR}.UnsupportedOperatorException",
        "in_kernel_invocation_manager": f"{FAKE_TENSOR}.in_kernel_invocation_manager",
        "make_subclass": "torch.Tensor._make_subclass",
        "throw_on_data_ptr": "torch._C._set_throw_on_mutable_data_ptr",
        "is_dense": "torch._prims_common.is_non_overlapping_and_dense_or_false",
        "DisableTorchDispatch": "torch._C._DisableTorchDispatch",
        "FAKE": "torch._C._TorchDispatchModeKey.FAKE",
        "DisableTorchFunction": "torch._C.DisableTorchFunction",
        "OpOverload": "torch._ops.OpOverload",
        "run_and_save_rng_state": "torch._prims.rng_prims.run_and_save_rng_state",
        "run_with_rng_state": "torch._prims.rng_prims.run_with_rng_state",
        "current_autograd_node": "torch._C._current_autograd_node",
        "active_mode": "torch._C._get_dispatch_mode",
        "disable_modes": "torch.utils._python_dispatch._disable_current_modes",
        "schemas_of": "torch._C._jit_get_schemas_for_operator",
        "tree_flatten": "torch.utils._pytree.tree_flatten",
        "tree_map": "torch.utils._pytree.tree_map",
        "tree_map_only": "torch.utils._pytree.tree_map_only",
    },
    methods=(
        f"{FAKE_TENSOR}.FakeTensorConverter.add_constant_storage_mapping",
        f"{FAKE_TENSOR}.FakeTensorConverter.from_real_tensor",
        f"{FAKE_TENSOR}.FakeTensorConverter.set_tensor_memo",
        f"{FAKE_TENSOR}.FakeTensorMode.may_turn_const",
        "torch._subclasses.meta_utils.MetaTensorDescriber.get_storage_id",
        "torch.storage.UntypedStorage._cdata",
    ),
)
"""Fake tensors, and ops that run for real."""

SHARDING: Final = Feature(
    "estimate(world_size=...)",
    "Models on one GPU can be estimated, and recordings of many ranks read",
    names={
        "AsyncCollectiveTensor": "torch.distributed._functional_collectives.AsyncCollectiveTensor",
        "DTensor": "torch.distributed.tensor.DTensor",
        "FakeWork": "torch._C._distributed_c10d.FakeWork",
        "FSDP1": "torch.distributed.fsdp.FullyShardedDataParallel",
        "FSDPModule": "torch.distributed.fsdp.FSDPModule",
        "FSDPState": "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState",
        "fake_groups": "torch.testing._internal.distributed.fake_pg",
        "PipelineSchedule": "torch.distributed.pipelining.schedules._PipelineSchedule",
        "OpSchema": "torch.distributed.tensor._op_schema.OpSchema",
        "PipelineStage": "torch.distributed.pipelining.stage._PipelineStageBase",
        "ShardingPropagator": "torch.distributed.tensor._sharding_prop.ShardingPropagator",
        "functional": "torch.distributed._functional_collectives",
        "clear_sharding_cache": "torch.distributed.tensor.debug._clear_sharding_prop_cache",
        "ddp": "torch.nn.parallel.distributed",
        "fsdp_param": "torch.distributed.fsdp._fully_shard._fsdp_param",
        "has_kernel": "torch._C._dispatch_has_kernel_for_dispatch_key",
        "random": "torch.distributed.tensor._random",
        "Logger": "torch.distributed.Logger",
        "Reducer": "torch.distributed.Reducer",
        "assign_buckets": "torch.distributed._compute_bucket_assignment_by_size",
        "register_builtin_comm_hook": "torch.distributed._register_builtin_comm_hook",
        "register_comm_hook": "torch.distributed._register_comm_hook",
        "world": "torch.distributed.distributed_c10d",
    },
    methods=(
        "torch.distributed._functional_collectives._maybe_wrap_tensor",
        "torch.distributed.fsdp._fully_shard._fsdp_param._chunk_with_empty",
        "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState._init_fqns",
        "torch.library.Library._destroy",
        "torch.distributed.tensor._random.is_rng_supported_mesh",
        "torch.distributed.tensor._sharding_prop.ShardingPropagator._propagate_tensor_meta_non_cached",
        "torch.distributed.tensor._sharding_prop.ShardingPropagator.propagate_op_sharding_non_cached",
        "torch.nn.parallel.DistributedDataParallel._check_comm_hook",
        "torch.nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle",
        "torch.nn.parallel.DistributedDataParallel._register_builtin_comm_hook",
        "torch.nn.parallel.distributed._sync_module_states",
        "torch.nn.parallel.distributed._verify_param_shape_across_processes",
    ),
)
"""A rank of a world that is not there: `torchprof.estimation.sharding`."""

STAGE: Final = "torch.distributed.pipelining.stage"
SCHEDULES: Final = "torch.distributed.pipelining.schedules"
METAS: Final = "torch.distributed.pipelining._utils"

PIPELINES: Final = Feature(
    "The estimate of a pipeline",
    "Other models can be estimated, and the modules of one stage by themselves",
    names={
        "ComputationType": f"{SCHEDULES}._ComputationType",
        "DTensorMeta": f"{METAS}._DTensorMeta",
        "InferenceMode": f"{METAS}.InferenceMode",
        "PipelineScheduleMulti": f"{SCHEDULES}.PipelineScheduleMulti",
        "PipelineStage": f"{STAGE}.PipelineStage",
        "StageBackwardMeta": f"{METAS}._StageBackwardMeta",
        "derive_grad_metas": f"{METAS}._derive_grad_metas",
    },
    methods=(
        f"{STAGE}.PipelineStage._prepare_backward_infra",
        f"{STAGE}.PipelineStage._recv_meta",
        f"{STAGE}.PipelineStage._send_meta",
        f"{STAGE}._PipelineStageBase._resolve_peer_global_rank",
        f"{SCHEDULES}._PipelineSchedule._warmup_p2p",
    ),
)
"""Stages of a pipeline and their schedules: `torchprof.estimation.sharding.pipelines`."""

RING_ATTENTION: Final = "torch.distributed.tensor.experimental._context_parallel"

CONTEXT_PARALLEL: Final = Feature(
    "The estimate of context parallelism",
    "Other models can be estimated",
    names={"attention": f"{RING_ATTENTION}._attention", "rules": f"{RING_ATTENTION}._sharding_rules"},
    methods=(
        f"{RING_ATTENTION}._attention._context_parallel_buffers",
        f"{RING_ATTENTION}._attention._cp_options",
        f"{RING_ATTENTION}._attention._dispatch_mode",
        f"{RING_ATTENTION}._attention._replaced_functions",
        f"{RING_ATTENTION}._sharding_rules._cp_strategy_contexts",
        f"{RING_ATTENTION}._sharding_rules.register_cp_sharding_rules",
        f"{RING_ATTENTION}._sharding_rules.unregister_cp_sharding_rules",
        "torch.distributed.tensor.DTensor._op_dispatcher",
    ),
)
"""Sequences that are split between ranks: `torchprof.estimation.sharding.context_parallel`."""

OFFLOAD: Final = Feature(
    "estimate(world_size=...)",
    "Models on one GPU can be estimated, and recordings of many ranks read",
    names={
        "FSDPParam": "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam",
        "param_group": "torch.distributed.fsdp._fully_shard._fsdp_param_group",
    },
    methods=(
        "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam.reset_sharded_param",
        "torch.distributed.fsdp._fully_shard._fsdp_param_group.foreach_reduce",
    ),
)
"""Shards that FSDP2 keeps on the host: `torchprof.estimation.sharding.offload`."""

STANCE: Final = Feature(
    "torchprof.estimate",
    "Recordings, summaries, saved traces and replays of allocations work all the same",
    names={
        "DynamoStance": "torch._dynamo.eval_frame.DynamoStance",
        "eval_frame": "torch._dynamo.eval_frame",
        "trace_rules": "torch._dynamo.trace_rules",
    },
    methods=(
        "torch._dynamo.eval_frame._stance",
        "torch._dynamo.trace_rules.get_tensor_method",
        "torch._dynamo.trace_rules.get_torch_obj_rule_map",
    ),
)
"""Running compiled functions as they were written, and what Dynamo knows PyTorch's functions by:
`torchprof.estimation.fake.stance`, `torchprof.estimation.fake.known_functions`."""

DISPATCHER_RULES: Final = Feature(
    "estimate(device='cuda')",
    "estimate(device='cpu') works all the same",
    names={
        "BelowAutograd": "torch._C._AutoDispatchBelowAutograd",
        "FunctionalTensor": "torch._subclasses.functional_tensor.FunctionalTensor",
    },
    methods=(
        "torch._C._get_privateuse1_backend_name",
        "torch._ops.OpOverload.decompose",
        "torch.library.Library._destroy",
        "torch.ops.aten._cudnn_rnn",
        "torch.ops.aten._scaled_dot_product_attention_math",
        "torch.ops.aten._scaled_dot_product_cudnn_attention",
        "torch.ops.aten._scaled_dot_product_efficient_attention",
        "torch.ops.aten._scaled_dot_product_flash_attention",
        "torch.ops.aten.native_dropout",
    ),
)
"""CUDA's choice of kernels in place of the CPU's: `torchprof.estimation.rules.applied`."""

ATTENTION_RULE: Final = Feature(
    "The estimate of a model that calls scaled_dot_product_attention, for CUDA,",
    "Other models can be estimated, and this one for device='cpu'",
    names={"priority_order": "torch._C._get_sdp_priority_order"},
)
"""The order in which attention kernels are tried: `torchprof.estimation.rules.attention_backends`."""

HIGHER_ORDER: Final = Feature(
    "The estimate of a model that calls an operator of torch.ops.higher_order",
    "Other models can be estimated",
    names={
        "DispatchKey": "torch._C.DispatchKey",
        "flex_attention": "torch.nn.attention.flex_attention",
        "Tracer": "torch.fx.experimental.proxy_tensor._MakefxTracer",
        "OfCond": "torch._higher_order_ops.cond.CondAutogradOp",
        "OfMap": "torch._higher_order_ops.map.MapAutogradOp",
        "OfScan": "torch._higher_order_ops.scan.ScanAutogradOp",
        "generic_scan": "torch._higher_order_ops.scan.generic_scan",
        "operators": "torch._higher_order_ops.utils",
        "setup_compilation_env": "torch._higher_order_ops.utils.setup_compilation_env",
    },
    methods=(
        "torch.nn.attention.flex_attention._apply_kernel_options",
        "torch.nn.attention.flex_attention._validate_device",
        "torch.ops.higher_order.associative_scan.py_kernels",
        "torch.ops.higher_order.flex_attention.py_kernels",
        "torch.ops.higher_order.flex_attention_backward.py_kernels",
        "torch.ops.higher_order.map_impl.py_kernels",
    ),
)
"""Attention with functions of the user's own, branches and loops: `torchprof.estimation.fake.higher_order`."""

AUTOCAST_RULE: Final = Feature(
    "Autocast in estimate(device='cuda')",
    "Estimates without amp, and those for device='cpu', work all the same",
    names={
        "DispatchKey": "torch._C.DispatchKey",
        "DispatchKeySet": "torch._C.DispatchKeySet",
        "ExcludeDispatchKeys": "torch._C._ExcludeDispatchKeyGuard",
        "make_wrapper": "torch.Tensor._make_wrapper_subclass",
        "keys_below": "torch._C._dispatch_keyset_full_after",
        "registered_for": "torch._C._dispatch_get_registrations_for_dispatch_key",
    },
    methods=("torch.library.get_kernel", "torch._ops.OpOverload.redispatch"),
)
"""What autocast casts on CUDA: `torchprof.estimation.rules.autocast`."""

GROUPED_MM_RULE: Final = Feature(
    "The estimate of a model that calls torch._grouped_mm",
    "Other models can be estimated",
    names={"output_of_grouped_mm": "torch._meta_registrations._create_grouped_mm_output_tensor"},
)

DYNAMO: Final = Feature(
    "The estimate of a program that compiles",
    "Programs that compile nothing can be estimated on one GPU",
    names={
        "CatchErrors": "torch._dynamo.convert_frame.CatchErrorsWrapper",
        "DeletedGuardManager": "torch._dynamo.guards.DeletedGuardManagerWrapper",
        "TracingContext": "torch._guards.TracingContext",
        "cache_entries_of": "torch._dynamo.eval_frame._debug_get_cache_entry_list",
        "cached_backends": "torch._dynamo.eval_frame.cached_backends",
        "callback_handler": "torch._dynamo.callback.callback_handler",
        "functorch_config": "torch._functorch.config",
        "get_code_state": "torch._dynamo.pgo.get_code_state",
        "register_bytecode_hook": "torch._dynamo.convert_frame.register_bytecode_hook",
        "reset_code": "torch._C._dynamo.eval_frame.reset_code",
        "skip_code": "torch._dynamo.eval_frame.skip_code",
    },
)
"""Dynamo at work on a program, and what it remembers: `torchprof.estimation.fake.dynamo`."""

COMPILE: Final = Feature(
    "estimate(compile=True)",
    "Estimates without compile=True work all the same",
    names={
        "DebugContext": "torch._inductor.debug.DebugContext",
        "GraphLowering": "torch._inductor.graph.GraphLowering",
        "V": "torch._inductor.virtualized.V",
        "compile_fx": "torch._inductor.compile_fx",
    },
    methods=(
        "torch._inductor.compile_fx._recursive_post_grad_passes",
        "torch._inductor.compile_fx._recursive_record_original_output_strides",
        "torch._inductor.compile_fx.fake_tensor_prop",
        "torch._inductor.compile_fx.maybe_disable_comprehensive_padding",
        "torch._inductor.compile_fx.shape_env_from_inputs",
        "torch._inductor.compile_fx.view_to_reshape",
    ),
)
"""AOTAutograd and Inductor up to the code that Inductor writes: `torchprof.estimation.fake.compiled`. It is slow to import, so
it is required where something is compiled."""

INDUCTOR_FOR_CUDA: Final = Feature(
    "Code of Inductor for CUDA in estimate(compile=True)",
    "Its code for the CPU is taken instead",
    names={
        "DeviceProperties": "torch._inductor.runtime.hints.DeviceProperties",
        "IRNode": "torch._inductor.ir.IRNode",
        "PyCodeCache": "torch._inductor.codecache.PyCodeCache",
        "SkipFrame": "torch._dynamo.exc.SkipFrame",
        "scheduler": "torch._inductor.scheduler",
        "triton": "torch.utils._triton",
        "utils": "torch._inductor.utils",
    },
    methods=(
        "torch._inductor.runtime.hints.DeviceProperties.create",
        "torch._inductor.scheduler.has_triton",
        "torch.utils._triton.triton_hash_with_backend",
    ),
)
"""What Inductor asks for before it writes code for CUDA: `torchprof.estimation.fake.inductor_for_cuda`."""

CUDA_NAMES: Final = Feature(
    "estimate(device='cuda')",
    "estimate(device='cpu') works all the same",
    names={"constructors": "torch.utils._device._device_constructors", "devices": "torch.utils._device"},
    methods=("torch.utils._device.CURRENT_DEVICE", "torch.utils._device.DeviceContext"),
)
"""The functions that make tensors on a device that is named: `torchprof.estimation.rules.cuda_devices`."""

FEATURES: Final = (
    ESTIMATE,
    STANCE,
    DISPATCHER_RULES,
    CUDA_NAMES,
    ATTENTION_RULE,
    AUTOCAST_RULE,
    HIGHER_ORDER,
    GROUPED_MM_RULE,
    DYNAMO,
    COMPILE,
    INDUCTOR_FOR_CUDA,
)
