"""For those who come from Paddle: batched_gemm with the signature of paddle.incubate.nn.functional, and the expert path
of one rank in one call. Both take tensors of Paddle, torch or NumPy, and make the plans they need.

The table is the one of the environment variable MOET_TABLE, or of use_table(); without one, family defaults run.
"""
import threading

from . import _tensor
from .runtime import open as open_table

MAX_ROWS = 1 << 20  # MOET_MAX_ROWS


class _Plans:
    """Plans by device, stream and what they are for; one that is too small is replaced by one of twice the rows."""

    def __init__(self):
        self._lock = threading.Lock()
        self.clear(None)

    def clear(self, folder):
        with self._lock:
            self._folder, self._tables, self._plans = folder, {}, {}

    def _table(self, ordinal):
        if ordinal not in self._tables:
            self._tables[ordinal] = open_table(self._folder, "host" if ordinal is None else f"cuda:{ordinal}")
        return self._tables[ordinal]

    def get(self, x, stream, key, size, make):
        """The plan for at least `size` rows or tokens; make(table, bound) makes one."""
        ordinal = _tensor.view(x, stream).ordinal
        key = (ordinal, stream, *key)
        with self._lock:
            bound, plan = self._plans.get(key, (0, None))
            if bound < size:
                if size > MAX_ROWS:
                    raise ValueError(f"{size} rows, at most {MAX_ROWS} are served: call it in parts")
                bound = max(256, 1 << (size - 1).bit_length())
                plan = make(self._table(ordinal), bound)
                self._plans[key] = bound, plan
            return plan


_plans = _Plans()


def use_table(folder):
    """From now on the tuned table of this folder answers (None: none), unless MOET_TABLE says otherwise. What was
    launched before must be done."""
    _plans.clear(folder)


def table(ordinal=None):
    """The Table that answers on the host (None) or on a CUDA device: to record what it does not know, say."""
    with _plans._lock:
        return _plans._table(ordinal)


def _gemm_plan(tuned, bound, counts, **shape):
    """The up GEMM's plan or the down GEMM's, which compute the same: the one that the table knows more of."""
    experts, n, k, layout = shape["experts"], shape["n"], shape["k"], shape["layout"]
    plans = [tuned.gemm("down", experts=experts, hidden=n, inter=k, max_rows=bound, layout=layout)]
    if n % 2 == 0 and tuned.entry_count:
        plans.append(tuned.gemm("up", experts=experts, hidden=k, inter=n // 2, max_rows=bound, layout=layout))
    return min(plans, key=lambda plan: ("exact", "nearest", "default").index(plan.query(counts).hit))


def batched_gemm(lhs, rhs, batch_sizes, trans_lhs=False, trans_rhs=False):
    """lhs [rows, K] times rhs [E, K, N], or with trans_rhs [E, N, K], expert by expert: [rows, N]. BF16.

    batch_sizes: rows of each expert, a list; they sum to lhs's rows. Runs on the framework's current stream; no
    gradient is recorded."""
    if trans_lhs:
        raise NotImplementedError("trans_lhs, the gradient of the weights, is not served: call "
                                  "paddle.incubate.nn.functional.batched_gemm for it")
    if len(rhs.shape) != 3:
        raise ValueError(f"rhs is {list(rhs.shape)}, [experts, K, N] needed")
    stream = _tensor.current_stream(lhs) if _tensor.view(lhs, 0).ordinal is not None else None
    experts, a, b = rhs.shape
    k, n = (b, a) if trans_rhs else (a, b)
    layout = "nk" if trans_rhs else "kn"
    rows = _tensor.rows("lhs", lhs, stream)
    if sum(batch_sizes) != rows or len(batch_sizes) != experts:
        raise ValueError(f"batch_sizes are {len(batch_sizes)} numbers that sum to {sum(batch_sizes)}, rhs has {experts} "
                         f"experts and lhs {rows} rows")
    plan = _plans.get(lhs, stream, ("gemm", experts, n, k, layout), rows, lambda tuned, bound: _gemm_plan(
        tuned, bound, batch_sizes, experts=experts, n=n, k=k, layout=layout))
    return plan(lhs, rhs, batch_sizes, stream=stream)


def expert_ffn(x, ids, weights, up, down, counts, *, prob_in_advance, up_bias=None, down_bias=None, combine="paddle",
               numerics="train"):
    """What apply_ep_prefill does between dispatch and combine: moe_permute, batched_gemm, swiglu, batched_gemm,
    moe_unpermute, without padding. x [tokens, hidden] BF16, ids [tokens, k] local expert or -1, weights [tokens, k]
    float32, up [E, hidden, 2 inter], down [E, inter, hidden]; counts: how many tokens chose each expert, a list.
    Gives [tokens, hidden].

    prob_in_advance: router weights in the activation, else at the combine; there combine="paddle" leaves the row of a
    token with one local expert unweighted, as moe_unpermute does, and "exact" weights it."""
    stream = _tensor.current_stream(x) if _tensor.view(x, 0).ordinal is not None else None
    experts, hidden, both = up.shape
    choices = ids.shape[1]
    tokens = _tensor.rows("x", x, stream)
    problem = dict(experts=experts, hidden=hidden, inter=both // 2, choices=choices, layout="kn", numerics=numerics,
                   prob="advance" if prob_in_advance else "combine", combine="exact" if prob_in_advance else combine,
                   bias=up_bias is not None, down_bias=down_bias is not None, device_counts=False)

    def make(tuned, bound):
        return tuned.ffn(max_tokens=bound, max_rows=min(MAX_ROWS, bound * min(choices, experts)), **problem)

    plan = _plans.get(x, stream, ("ffn", *problem.values()), tokens, make)
    return plan(x, ids, weights, up, down, up_bias, down_bias, counts, stream=stream)
