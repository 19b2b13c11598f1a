#!/usr/bin/env python3
"""What a call from Python costs on the host beyond libmoet's own: each way to call, of a few rows of a tiny problem,
beside the bare moet_launch of the same rows.

    python3 bench_overhead.py [host|cuda]        microseconds until a call returns, the median of 15 rounds
"""
import ctypes
import statistics
import sys
import time

try:
    import torch  # before moe_tune makes a plan, so that the custom ops are there
except ImportError:
    torch = None
try:
    import numpy
except ImportError:
    numpy = None
import moe_tune
from moe_tune import _library

EXPERTS, HIDDEN, INTER, ROWS = 8, 64, 32, 8
CALLS = 300  # few enough not to fill a GPU's queue of launches


def time_us(call, finish):
    rounds = []
    for _ in range(15):
        finish()
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter() - begin) / CALLS * 1e6)
    finish()
    return statistics.median(rounds)


def bare(plan, tensors, pointers, stream):
    """moet_launch with everything worked out before; holds what it points at."""
    counts = (ctypes.c_int32 * EXPERTS)(*[1] * EXPERTS)
    x, w, out = pointers
    args = _library.LaunchArgs(x, w, None, out, ctypes.addressof(counts), stream)
    pointer, held = ctypes.byref(args), (tensors, counts)
    return lambda: held and _library.check(_library.lib.moet_launch(plan._plan, pointer))


def calls_numpy(plan, path):
    x, w = numpy.zeros((ROWS, HIDDEN), numpy.uint16), numpy.zeros((EXPERTS, 2 * INTER, HIDDEN), numpy.uint16)
    out, counts = numpy.zeros((ROWS, 2 * INTER), numpy.uint16), [1] * EXPERTS
    yield "bare moet_launch", bare(plan, (x, w, out), [t.ctypes.data for t in (x, w, out)], None)
    yield "NumPy: plan(x, w, list)", lambda: plan(x, w, counts)


def calls_torch(plan, path, kind):
    def zeros(*shape, dtype=torch.bfloat16):
        return torch.zeros(shape, dtype=dtype, device=kind)

    x, w, down = zeros(ROWS, HIDDEN), zeros(EXPERTS, 2 * INTER, HIDDEN), zeros(EXPERTS, HIDDEN, INTER)
    out = zeros(ROWS, 2 * INTER)
    ids, weights = zeros(ROWS, 2, dtype=torch.int64), zeros(ROWS, 2, dtype=torch.float32)
    counts, host = [1] * EXPERTS, torch.ones(EXPERTS, dtype=torch.int32)
    stream = torch.cuda.current_stream().cuda_stream if kind == "cuda" else None
    gemm, number = torch.ops.moe_tune.gemm, plan.number
    yield "bare moet_launch", bare(plan, (x, w, out), [t.data_ptr() for t in (x, w, out)], stream)
    yield "torch: plan(x, w, list)", lambda: plan(x, w, counts)
    yield "torch: plan(x, w, int32 tensor)", lambda: plan(x, w, host)
    yield "torch: torch.ops.moe_tune.gemm", lambda: gemm(x, w, host, None, number)
    yield "torch: expert path", lambda: path(x, ids, weights, w, down)


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "host"
    threads = 1 if device == "host" else 0  # so few rows are no work for more
    table = moe_tune.open(None, device)
    plan = table.gemm("up", experts=EXPERTS, hidden=HIDDEN, inter=INTER, max_rows=ROWS, max_sms=threads)
    path = table.ffn(experts=EXPERTS, hidden=HIDDEN, inter=INTER, choices=2, max_tokens=ROWS, max_sms=threads)
    finish = torch.cuda.synchronize if device != "host" else lambda: None
    calls = []
    if numpy and device == "host":
        calls += calls_numpy(plan, path)
    if torch:
        calls += calls_torch(plan, path, "cpu" if device == "host" else "cuda")
    for name, call in calls:
        print(f"{name:34}{time_us(call, finish):7.2f}")


if __name__ == "__main__":
    main()
