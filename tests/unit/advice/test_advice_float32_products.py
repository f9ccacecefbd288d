"""`float32_products`: products of float32 that use no tensor cores, on GPUs that have some for shorter formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handwritten import gpu_trace, trace
from launches import Launch, gpu_step

import torchprof
from torchprof.advice.gpus import AMPERE_OR_LATER, formats_of
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.float32_products import PLAIN, TF32, float32_products


def named(kernels: dict[str, str], **facts: object) -> torchprof.Trace:
    """`gpu_trace`, in which these kernels have other names."""
    of_sgemm = gpu_trace(**facts)
    return replace(of_sgemm, strings=[kernels.get(name, name) for name in of_sgemm.strings])


def test_sgemm_on_an_ampere() -> None:
    (found,) = float32_products(gpu_trace())
    assert found.module == "fc"
    assert found.details == (
        "aten::addmm: 110 us, such as ampere_sgemm_128x64_tn",
        "aten::mm: 100 us, such as ampere_sgemm_128x64_nt",
    )
    assert found.worth is not None
    step, products, ratio = 1_000_000, 210_000, 16
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, products - products // ratio, step)
    assert not found.worth.measured
    assert "set_float32_matmul_precision" in found.advice


@pytest.mark.parametrize(
    "name",
    [
        "cutlass_80_tensorop_s1688gemm_128x64_32x6_nt_align1",
        "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x16_stage4_warpsize2x2x1_tensor16x8x8_execute_kernel__5x_cublas",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "turing_fp16_s1688gemm_fp16_128x128_ldg8_f2f_tn",
    ],
)
def test_tensor_cores(name: str) -> None:
    fast = named({"ampere_sgemm_128x64_tn": name, "ampere_sgemm_128x64_nt": name})
    assert list(float32_products(fast)) == []


def test_where_other_products_use_tf32_the_library_chose() -> None:
    assert list(float32_products(named({"ampere_sgemm_128x64_tn": "cutlass_80_tensorop_s1688gemm_64x64_32x6_tn_align4"}))) == []


def test_where_convolutions_alone_use_tf32_products_may_too() -> None:
    mixed = named(
        {
            "reduce_kernel": "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw",
            "aten::mse_loss": "aten::cudnn_convolution",
        }
    )
    assert [finding.module for finding in float32_products(mixed)] == ["fc"]


def test_a_volta_has_tensor_cores_for_float16_only() -> None:
    (found,) = float32_products(gpu_trace(devices=["Tesla V100-SXM2-16GB"]))
    assert "float16 and a GradScaler" in found.advice
    assert "TF32" not in found.advice


def test_a_gpu_without_tensor_cores() -> None:
    assert list(float32_products(gpu_trace(devices=["Tesla P100-PCIE-16GB"]))) == []


def test_where_nothing_says_which_gpu_it_is() -> None:
    kernels = {"ampere_sgemm_128x64_tn": "volta_sgemm_128x64_tn", "ampere_sgemm_128x64_nt": "volta_sgemm_128x64_nt"}
    with pytest.raises(NotTold, match="which GPU"):
        list(float32_products(named(kernels)))


def test_products_that_take_next_to_nothing() -> None:
    few = gpu_step(Launch("aten::mm", "ampere_sgemm_128x64_tn", 15), Launch("aten::relu", "relu_kernel", 900))
    assert list(float32_products(few)) == []


def test_without_kernels_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="no kernels"):
        list(float32_products(trace(steps=[{"start": 0, "end": 1000}])))


@pytest.mark.parametrize(
    "name",
    [
        "ampere_sgemm_128x64_tn",
        "void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nn_align1>(...)",
        "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x8_stage3_warpsize1x2x1_ffma_aligna4_alignc4_execute_kernel__51_cublas",
        "void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(int, int, int, float const*)",
        "void implicit_convolve_sgemm<float, float, 128, 6, 7, 3, 3, 5, 1, false, true, true>(int, int)",
        "cudnn_infer_volta_scudnn_128x64_relu_medium_nn_v1",
        "Cijk_Alik_Bljk_SB_Bias_AS_SAV_UserArgs_MT64x16x32_MI16x16x1",
    ],
)
def test_names_of_kernels_of_float32(name: str) -> None:
    assert PLAIN.search(name)
    assert not TF32.search(name)


@pytest.mark.parametrize(
    "name",
    [
        "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x192x64",
        "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, true>",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn",
        "void implicit_convolve_sgemm<__half, __half, 128, 6, 7, 3, 3, 5, 1, false, true, true>(int, int)",
        "volta_h884gemm_64x64_ldg8_nn",
        "void cudnn::bn_bw_1C11_kernel_new<float, float, float2, 128, true, 1>(float)",
    ],
)
def test_names_of_other_kernels(name: str) -> None:
    assert not PLAIN.search(name)


def test_the_slowest_of_several_known_gpus_counts() -> None:
    assert formats_of(trace(facts={"devices": ["NVIDIA A100-SXM4-80GB", "Tesla T4"]})) == formats_of(
        trace(facts={"devices": ["Tesla T4"]})
    )
    assert formats_of(trace(strings=["ampere_sgemm_32x32_tn"])) == AMPERE_OR_LATER
    assert formats_of(trace(facts={"devices": ["A GPU of tomorrow"]})) is None
