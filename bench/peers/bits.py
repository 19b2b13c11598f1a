#!/usr/bin/env python3
"""Which GEMMs leave the bit class of training, and what staying in it costs: the expert path (docs/ffn.md) of 2 experts by
the GEMMs of several libraries and by moe-tune, at 1 to 4096 rows an expert, on one GPU.

usage: bits.py LIBMOET.so [--hidden H] [--inter I] [--table DIR] > bits.csv

The reference is the path with one cuBLAS call an expert, without split-K, at 4096 rows an expert, as a trainer runs it.
For fewer rows the first tokens of each expert are computed alone, and elements of out that differ from those of the
reference are counted: a library that gives a token other bits in a smaller batch shows up. Columns: rows (an expert),
gemm, differing, elements, time_us (a call in a CUDA graph, median of 11 rounds in which all take turns).

  cublas            torch.mm, an expert a call, as PyTorch calls it
  cublas_nosplitk   the same with split-K forbidden
  grouped_mm        torch._grouped_mm
  deepgemm          where `import deep_gemm` works
  triton            mma tiles of 128 x 128 x 64
  train, fast       moet_ffn, numerics train and fast"""
import argparse, csv, ctypes as c, sys
import torch
import peers

E, MOST = 2, 4096


class Problem(c.Structure):  # moet_problem
    _fields_ = [(n, c.c_int32) for n in ('op experts hidden inter x_dtype w_dtype out_dtype scales layout activation').split()] + [
        ('bias', c.c_bool), ('prob', c.c_int32), ('numerics', c.c_int32), ('down_bias', c.c_bool), ('combine', c.c_int32),
        ('clamp', c.c_double)]


class Options(c.Structure):  # moet_plan_options
    _fields_ = [('max_rows', c.c_int64), ('max_tokens', c.c_int64), ('choices', c.c_int32), ('max_sms', c.c_int32),
                ('device_counts', c.c_bool), ('expected_rows', c.c_int64), ('expected_max_over_mean', c.c_double)]


class Args(c.Structure):  # moet_ffn_args
    _fields_ = [('x', c.c_void_p), ('x_stride', c.c_int64), ('ids', c.c_void_p), ('ids_int64', c.c_bool),
                ('ids_stride', c.c_int64), ('weights', c.c_void_p), ('weights_stride', c.c_int64), ('up', c.c_void_p),
                ('up_bias', c.c_void_p), ('down', c.c_void_p), ('down_bias', c.c_void_p), ('out', c.c_void_p),
                ('out_stride', c.c_int64), ('tokens', c.c_int64), ('device_tokens', c.c_void_p), ('counts', c.c_void_p),
                ('stream', c.c_void_p)]


class Moet:
    """moet_ffn of one problem: router weights in advance."""
    FFN, ADVANCE, NUMERICS = 2, 1, {'train': 0, 'fast': 1}

    def __init__(self, path, table, hidden, inter):
        self.lib, self.handle = c.CDLL(path), c.c_void_p()
        self.lib.moet_last_error.restype = c.c_char_p
        self.hidden, self.inter = hidden, inter
        self.check(self.lib.moet_open(table.encode() if table else None, b'cuda', c.byref(self.handle)))

    def check(self, status):
        if status: sys.exit('bits.py: ' + self.lib.moet_last_error().decode())

    def plan(self, numerics, tokens):
        problem, plan = Problem(), c.c_void_p()
        self.lib.moet_problem_init(c.byref(problem), self.FFN, E, self.hidden, self.inter)
        problem.prob, problem.numerics = self.ADVANCE, self.NUMERICS[numerics]
        options = Options(max_tokens=tokens, choices=1, device_counts=True)
        self.check(self.lib.moet_plan_create(self.handle, c.byref(problem), c.byref(options), c.byref(plan)))
        return plan

    def ffn(self, plan, x, ids, prob, up, down, out):
        args = Args(x=x.data_ptr(), ids=ids.data_ptr(), weights=prob.data_ptr(), up=up.data_ptr(), down=down.data_ptr(),
                    out=out.data_ptr(), tokens=len(x), stream=torch.cuda.current_stream().cuda_stream)
        self.check(self.lib.moet_ffn(plan, c.byref(args)))
        return out


def loop(x, w, n):
    return torch.cat([torch.mm(x[e * n:(e + 1) * n], w[e].t()) for e in range(E)])


def without_split_k(f):
    """Calls f with cuBLAS's split-K forbidden, which only cuBLASLt obeys (PyTorch 2.10 or later)."""
    matmul, cuda = torch.backends.cuda.matmul, torch.backends.cuda
    library = cuda.preferred_blas_library()
    before = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction_split_k
    try:
        cuda.preferred_blas_library('cublaslt')
        matmul.allow_bf16_reduced_precision_reduction = False, False
        return f()
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
        cuda.preferred_blas_library(library)


def triton_mm(n):
    """x, w -> x w^T by experts of n rows each."""
    tile_m, tile_n = 128, 128
    tiles = [(e, e * n + i, min(tile_m, n - i)) for e in range(E) for i in range(0, n, tile_m)]
    expert, first, rows = (torch.tensor(v, device='cuda', dtype=torch.int32) for v in zip(*tiles))
    def run(x, w):
        N, K = w.shape[1:]
        out = torch.empty(len(x), N, device=x.device, dtype=x.dtype)
        peers.gemm_k[(len(tiles) * -(-N // tile_n),)](x, w, out, expert, first, rows, N, K, N * K, tile_m, tile_n, 64, 8,
                                                      K % 64 == 0, num_warps=8, num_stages=3)
        return out
    return run


def path(up_mm, down_mm, prob):
    """Tokens are in the order of their experts: nothing is permuted. One rounding of the activation, as in training."""
    def run():
        h = up_mm()
        gate, up = h[:, :h.shape[1] // 2].float(), h[:, h.shape[1] // 2:].float()
        return down_mm((gate / (1 + torch.exp(-gate)) * up * prob[:, None]).bfloat16())
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('libmoet')
    parser.add_argument('--hidden', type=int, default=7168)
    parser.add_argument('--inter', type=int, default=2048)
    parser.add_argument('--table')
    options = parser.parse_args()
    torch.manual_seed(0)
    H, I = options.hidden, options.inter
    device = dict(device='cuda', dtype=torch.bfloat16)
    up, down = torch.randn(E, 2 * I, H, **device) * .02, torch.randn(E, H, I, **device) * .02
    all_x, all_prob = torch.randn(E, MOST, H, **device), torch.rand(E, MOST, device='cuda')
    moet = Moet(options.libmoet, options.table, H, I)
    of_loop = lambda x, prob, n: path(lambda: loop(x, up, n), lambda a: loop(a, down, n), prob)
    reference = without_split_k(of_loop(all_x.flatten(0, 1), all_prob.flatten(), MOST)).view(E, MOST, H)

    rows_out = csv.writer(sys.stdout, lineterminator='\n')
    rows_out.writerow(['rows', 'gemm', 'differing', 'elements', 'time_us'])
    for n in [1 << i for i in range(13)]:
        x, prob = all_x[:, :n].flatten(0, 1).contiguous(), all_prob[:, :n].flatten().contiguous()
        wanted = reference[:, :n].flatten(0, 1)
        offsets = torch.tensor([n * (e + 1) for e in range(E)], device='cuda', dtype=torch.int32)
        ids = torch.arange(E, device='cuda', dtype=torch.int32).repeat_interleave(n).contiguous()
        tiled = triton_mm(n)
        grouped = lambda a, w: torch._grouped_mm(a, w.transpose(1, 2), offs=offsets)
        runs = {'cublas': of_loop(x, prob, n), 'cublas_nosplitk': of_loop(x, prob, n),
                'grouped_mm': path(lambda: grouped(x, up), lambda a: grouped(a, down), prob),
                'triton': path(lambda: tiled(x, up), lambda a: tiled(a, down), prob)}
        if peers.deep_gemm:
            size, mm, place = peers.padded([n] * E, 128)
            def deep(a, w):
                padded = torch.zeros(size, a.shape[1], **device).index_copy_(0, place, a)
                return mm(padded, w, torch.empty(size, w.shape[1], **device))[place]
            runs['deepgemm'] = path(lambda: deep(x, up), lambda a: deep(a, down), prob)
        for numerics in Moet.NUMERICS:
            plan, out = moet.plan(numerics, len(x)), torch.empty(len(x), H, **device)
            runs[numerics] = lambda plan=plan, out=out: moet.ffn(plan, x, ids, prob, up, down, out)
        graphs, differing = {}, {}
        for name, run in runs.items():
            capture = lambda run=run: peers.graphed(lambda j: run(), 4, 1)
            graphs[name] = without_split_k(capture) if name == 'cublas_nosplitk' else capture()
            graphs[name].replay()
            torch.cuda.synchronize()
            differing[name] = int((graphs[name].outs[0].view(torch.int16) != wanted.view(torch.int16)).sum())
        times = peers.rounds(graphs)
        for name in runs:
            rows_out.writerow([n, name, differing[name], wanted.numel(), round(times[name][0] * 1e6, 2)])
        sys.stdout.flush()


main()
