"""moe_tune: the grouped GEMMs and the expert path of a mixture-of-experts layer, by libmoet and a tuned table.

    import moe_tune
    table = moe_tune.open("table/", "cuda")        # None: no table, family defaults
    plan = table.gemm("up", experts=8, hidden=7168, inter=2048, max_rows=65536)
    out = plan(x, w, counts)                        # torch tensors, on torch's current stream

Tensors are torch's, NumPy's (BF16 as uint16 or ml_dtypes.bfloat16; on the host) or come by DLPack with stream= and
out=. moe_tune.paddle has a batched_gemm with Paddle's signature.
"""
from ._library import VERSION as __version__
from ._library import Error
from .runtime import Choice, FfnPlan, GemmPlan, Plan, Table, open

__all__ = ["Choice", "Error", "FfnPlan", "GemmPlan", "Plan", "Table", "open"]
