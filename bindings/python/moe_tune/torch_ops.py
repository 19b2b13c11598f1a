"""torch custom ops moe_tune::gemm and moe_tune::ffn: what torch.compile keeps of a plan's call. Inference only.

A plan's call becomes one by itself while torch.compile traces it. In eager mode it goes to libmoet directly, which
costs less. Both are captured in a CUDA graph where the plan has device counts.
"""
import torch

from . import runtime

_library = torch.library.Library("moe_tune", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library.define("gemm(Tensor x, Tensor w, Tensor counts, Tensor? bias, int plan) -> Tensor", tags=_TAGS)
_library.define("ffn(Tensor x, Tensor ids, Tensor? weights, Tensor up, Tensor down, Tensor? up_bias, "
                "Tensor? down_bias, Tensor? counts, int plan) -> Tensor", tags=_TAGS)


def _run_gemm(x, w, counts, bias, plan):
    return runtime.plan_by_number(plan).launch(x, w, counts, bias)


def _run_ffn(x, ids, weights, up, down, up_bias, down_bias, counts, plan):
    return runtime.plan_by_number(plan).launch(x, ids, weights, up, down, up_bias, down_bias, counts)


for _key in ("CPU", "CUDA"):
    _library.impl("gemm", _run_gemm, _key)
    _library.impl("ffn", _run_ffn, _key)


@torch.library.register_fake("moe_tune::gemm", lib=_library)
def _fake_gemm(x, w, counts, bias, plan):
    return x.new_empty(x.shape[0], runtime.plan_by_number(plan).n)


@torch.library.register_fake("moe_tune::ffn", lib=_library)
def _fake_ffn(x, ids, weights, up, down, up_bias, down_bias, counts, plan):
    return x.new_empty(x.shape)


runtime._torch_types = {"tensor": torch.Tensor, "bfloat16": torch.bfloat16, "int32": torch.int32}
runtime._is_traced, runtime._ops = torch.compiler.is_compiling, torch.ops.moe_tune
