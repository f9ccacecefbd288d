"""Short names of kernels: the parts of demangled C++ that are kept."""

from __future__ import annotations

import pytest
from handwritten import ADD_KERNEL
from hypothesis import given
from hypothesis import strategies as st

from torchprof.analysis.gpu.kernel_names import short_name

CLAMP = "at::native::(anonymous namespace)::launch_clamp_scalar(at::TensorIteratorBase&, c10::Scalar)::{lambda()#1}"
COPY = "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}::operator()() const::{lambda()#7}"
SUM = "at::native::sum_functor<float, float, float>::operator()(at::TensorIterator&)::{lambda(float, float)#1}"
FLASH = "Flash_fwd_kernel_traits<64, 128, 128, 4, false, cutlass::bfloat16_t, Flash_kernel_traits<64, cutlass::bfloat16_t> >"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (ADD_KERNEL, "vectorized_elementwise_kernel<CUDAFunctor_add<float>>"),
        (
            f"void at::native::vectorized_elementwise_kernel<4, {CLAMP}::operator()() const::{{lambda(float)#1}}, "
            f"std::array<char*, 2ul> >(int, {CLAMP}::operator()() const::{{lambda(float)#1}}, std::array<char*, 2ul>)",
            "vectorized_elementwise_kernel<launch_clamp_scalar>",
        ),
        (
            f"void at::native::elementwise_kernel<128, 2, at::native::gpu_kernel_impl_nocast<{COPY}>"
            f"(at::TensorIteratorBase&, {COPY} const&)::{{lambda(int)#1}}>(int, {COPY})",
            "elementwise_kernel<gpu_kernel_impl_nocast<direct_copy_kernel_cuda>>",
        ),
        (
            f"void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::func_wrapper_t<float, {SUM}>, "
            "unsigned int, float, 4, 4> >(at::native::ReduceOp<float>)",
            "reduce_kernel<ReduceOp<float, func_wrapper_t<float, sum_functor>>>",
        ),
        (
            f"void pytorch_flash::flash_fwd_kernel<{FLASH}, false, true>(pytorch_flash::Flash_fwd_params)",
            "flash_fwd_kernel<Flash_fwd_kernel_traits<bfloat16_t, Flash_kernel_traits<bfloat16_t>>>",
        ),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
            "FusedOptimizerTensorListMetadata<4>, at::native::(anonymous namespace)::FusedAdamMathFunctor<float, 4, "
            "(at::native::ADAM_MODE)0, false>, float const*, double>(int)",
            "multi_tensor_apply_kernel<FusedAdamMathFunctor<float>, double>",
        ),
        (
            "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, float, float, false, 7>(float)",
            "gemvx::kernel<int, float>",
        ),
        (
            "void (anonymous namespace)::softmax_warp_forward<float, float, 8, false>(int)",
            "softmax_warp_forward<float>",
        ),
        ("void mine(unsigned int, float const*)", "mine"),
    ],
)
def test_namespaces_parameters_and_data_access_are_left_out(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize(
    "name",
    [
        "ampere_sgemm_128x64_tn",
        "triton_poi_fused_add_0",
        "Memcpy HtoD (Pageable -> Device)",
        "Memset (Device)",
        "",
        "void at::native::cut_off<4, at::native::CUDAFunctor_a",
    ],
)
def test_names_that_are_not_cpp_or_were_cut_off_stay_unchanged(name: str) -> None:
    assert short_name(name) == name


@given(st.text("abc:<>(){}, *&#1_-", max_size=40))
def test_any_text_has_a_short_name_that_is_not_longer(name: str) -> None:
    assert len(short_name(name)) <= len(name)
    assert bool(short_name(name)) == bool(name)
