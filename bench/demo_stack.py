#!/usr/bin/env python3
"""Tokens a second through a stack of expert layers with random weights: torch grouped_mm, DeepGEMM where it can be
imported, moe-tune without a table and with one. Default: the experts of qwen3-30b-a3b, 48 layers of 128, on one GPU.

    demo_stack.py [--table DIR | --tune BUDGET [--out DIR] [--moe-tune PROGRAM]] [--tokens 512,2048,8192,32768] > stack.jsonl
    demo_stack.py --device host --layers 2 --experts 8 --hidden 64 --inter 32 --choices 2 --tokens 16,64

Needs the package of bindings/python. --tune sweeps op ffn on this run's own routings, emits a table into DIR/stack_table and
says how many minutes that took. One line of JSON a number of tokens and method: tokens_per_s, layer_us, and of moe-tune
the hit class and configuration. A layer is the path from routed tokens to combined ones, and an RMS norm of its output,
which keeps numbers of the next layer's size; it is in everybody's time. What is free for all but moe-tune, which does it
in each call: sorting tokens by expert. Times: a CUDA graph of the whole stack, methods in a new order each round, medians
of 11. Methods must agree within 2 % of the output's size after the first layer.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

import moe_tune

BF16 = torch.bfloat16


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda", choices=["cuda", "host"])
    add("--layers", type=int, default=48)
    add("--experts", type=int, default=128)
    add("--hidden", type=int, default=2048)
    add("--inter", type=int, default=768)
    add("--choices", type=int, default=8)
    add("--tokens", default="512,2048,8192,32768", type=lambda text: [int(t) for t in text.split(",")])
    add("--skew", type=float, default=0.5, help="standard deviation of the experts' popularity, in logits (default 0.5)")
    add("--table", help="a tuned table")
    add("--tune", metavar="BUDGET", help="tune one first, for at most this long (10m)")
    add("--out", default=".", metavar="DIR", help="where --tune keeps its workloads, database and table (default .)")
    add("--moe-tune", default="moe-tune", metavar="PROGRAM")
    return parser.parse_args()


class Stack:
    """Weights of all layers, and for one number of tokens the routing of each."""

    def __init__(self, a):
        self.a, self.kind = a, "cpu" if a.device == "host" else "cuda"
        torch.manual_seed(1)

        def draw(*shape, fan):
            # In place, as weights of all layers together leave little room.
            return torch.empty(*shape, dtype=BF16, device=self.kind).normal_(0, fan**-0.5)

        self.up = [draw(a.experts, 2 * a.inter, a.hidden, fan=a.hidden) for _ in range(a.layers)]
        self.down = [draw(a.experts, a.hidden, a.inter, fan=a.inter) for _ in range(a.layers)]

    def route(self, tokens):
        a, self.tokens = self.a, tokens
        self.rows = tokens * a.choices
        torch.manual_seed(tokens)
        self.x = torch.randn(tokens, a.hidden, device=self.kind).to(BF16)
        self.ids, self.weights, self.counts, self.source, self.back, self.prob = [], [], [], [], [], []
        for _ in range(a.layers):
            logits = torch.randn(tokens, a.experts, device=self.kind)
            logits += a.skew * torch.randn(a.experts, device=self.kind)
            top, ids = logits.topk(a.choices, dim=1)
            weights, flat = top.softmax(dim=1), ids.flatten()
            order = flat.argsort(stable=True)  # rows by expert; in each, tokens ascending
            place = torch.empty_like(order)
            place[order] = torch.arange(self.rows, device=self.kind)
            self.ids.append(ids)
            self.weights.append(weights)
            self.counts.append(torch.bincount(flat, minlength=a.experts).to(torch.int32))
            self.source.append((order // a.choices).int())
            self.back.append(place.view(tokens, a.choices).sort(dim=1)[0].int())
            self.prob.append(weights.flatten()[order].contiguous())

    def run(self, layer, layers):
        """layer(l, x) for each; its output after the first, and at the end."""
        x, first = self.x, None
        for l in range(layers):
            y = layer(l, x)
            first = y if first is None else first
            x = torch.nn.functional.rms_norm(y, (self.a.hidden,))
        return first, x


# ---- methods: make(stack) gives layer(l, x) ----


def loop(s):
    """A plain loop over experts, on any device."""

    def layer(l, x):
        out = torch.zeros(s.tokens, s.a.hidden, device=s.kind)
        begin = 0
        for expert, count in enumerate(s.counts[l].tolist()):
            rows = slice(begin, begin + count)
            begin += count
            gate, up = (x[s.source[l][rows]] @ s.up[l][expert].T).float().chunk(2, dim=1)
            act = (torch.nn.functional.silu(gate) * up * s.prob[l][rows, None]).to(BF16)
            out.index_add_(0, s.source[l][rows], (act @ s.down[l][expert].T).float())
        return out.to(BF16)

    return layer


def passes(s, source, back, prob, rows, up, down):
    """The passes of bench/peers around two GEMMs; source, back and prob by layer, rows with padding."""
    import peers
    import triton

    hidden, inter = s.a.hidden, s.a.inter
    permuted, act = (torch.zeros(rows, n, dtype=BF16, device="cuda") for n in (hidden, inter))

    def layer(l, x):
        out = torch.empty(s.tokens, hidden, dtype=BF16, device="cuda")
        peers.gather_k[(rows, triton.cdiv(hidden, 2048))](x, source[l], permuted, hidden, 2048)
        wide = up(permuted, l)
        peers.swiglu_k[(rows, triton.cdiv(inter, 1024))](wide, prob[l], act, inter, 1024)
        narrow = down(act, l)
        peers.combine_k[(s.tokens, triton.cdiv(hidden, 2048))](narrow, back[l], out, hidden, s.a.choices, 2048)
        return out

    return layer


def grouped_mm(s):
    mm = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    ends = [counts.cumsum(0).int() for counts in s.counts]
    return passes(s, s.source, s.back, s.prob, s.rows, lambda x, l: mm(x, s.up[l].transpose(1, 2), offs=ends[l]),
                  lambda x, l: mm(x, s.down[l].transpose(1, 2), offs=ends[l]))


def deepgemm(s, alignment=128):
    import deep_gemm

    padded = [-(-counts // alignment) * alignment for counts in s.counts]
    rows = max(int(p.sum()) for p in padded)
    source, back, prob, experts = [], [], [], []
    for l, counts in enumerate(s.counts):
        begin, packed = padded[l].cumsum(0) - padded[l], counts.cumsum(0) - counts
        place = (torch.arange(s.rows, device="cuda") + torch.repeat_interleave(begin - packed, counts.long())).long()
        source.append(torch.full((rows,), -1, dtype=torch.int32, device="cuda").index_copy_(0, place, s.source[l]))
        prob.append(torch.full((rows,), -1.0, device="cuda").index_copy_(0, place, s.prob[l]))
        back.append(place[s.back[l].long()].int())
        of = torch.repeat_interleave(torch.arange(s.a.experts, device="cuda"), padded[l].long()).int()
        experts.append(torch.cat([of, torch.full((rows - len(of),), -1, dtype=torch.int32, device="cuda")]))
    wide = torch.empty(rows, 2 * s.a.inter, dtype=BF16, device="cuda")
    narrow = torch.empty(rows, s.a.hidden, dtype=BF16, device="cuda")

    def mm(weights, out):
        def run(x, l):
            deep_gemm.m_grouped_bf16_gemm_nt_contiguous(x, weights[l], out, experts[l])
            return out

        return run

    return passes(s, source, back, prob, rows, mm(s.up, wide), mm(s.down, narrow))


def with_table(table):
    def make(s):
        most = max(int(counts.max()) for counts in s.counts)
        path = table.ffn(experts=s.a.experts, hidden=s.a.hidden, inter=s.a.inter, choices=s.a.choices,
                         max_tokens=s.tokens, prob="advance", expected_rows=s.rows,
                         expected_max_over_mean=most * s.a.experts / s.rows)

        def layer(l, x):
            return path(x, s.ids[l], s.weights[l], s.up[l], s.down[l])

        layer.choice = path.query()
        return layer

    return make


# ---- timing ----


def prepare(s, layer):
    """What runs the whole stack once: a replay of its graph, on the host the calls."""
    if s.kind == "cpu":
        return lambda: s.run(layer, s.a.layers)
    s.run(layer, s.a.layers)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        s.run(layer, s.a.layers)
    return graph.replay


def time_once(s, run):
    if s.kind == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # untimed
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e-3


def measure(s, methods):
    """Median seconds of the stack by each method, after a check that all compute the same."""
    layers, first = {}, {}
    for name, make in methods.items():
        try:
            layer = make(s)
            first[name] = s.run(layer, 1)[0].float()
            layers[name] = layer
        except Exception as error:  # not installed, or kernels that cannot be compiled here
            if name.startswith("moe-tune"):
                raise
            print(f"demo_stack: {name} is left out: {error}", file=sys.stderr)
    reference = next(iter(first.values()))
    for name, output in first.items():
        difference = float((output - reference).norm() / reference.norm())
        if not difference < 0.02:
            raise SystemExit(f"demo_stack: {name} differs from the first method by {difference:.3f} of the output's size")
    runs = {name: prepare(s, layer) for name, layer in layers.items()}
    times = {name: [] for name in runs}
    for round_number in range(11):
        names = list(runs)
        for i in torch.randperm(len(names), generator=torch.Generator().manual_seed(round_number)).tolist():
            times[names[i]].append(time_once(s, runs[names[i]]))
    return layers, {name: statistics.median(ts) for name, ts in times.items()}


def tune(s):
    """Minutes that a sweep of this run's routings took, and the table's folder."""
    workloads, db, table = (os.path.join(s.a.out, name) for name in ("stack_workloads.jsonl", "stack.db", "stack_table"))
    with open(workloads, "w") as file:
        for tokens in s.a.tokens:
            s.route(tokens)
            counts = s.counts[0].tolist()
            json.dump({"name": "stack", "experts": s.a.experts, "hidden": s.a.hidden, "inter": s.a.inter,
                       "rows": sum(counts), "tokens": tokens, "skew": "stack", "counts": counts}, file)
            file.write("\n")
    begin = time.perf_counter()
    subprocess.run([s.a.moe_tune, "sweep", "--device", s.a.device, "--workloads", workloads, "--ops", "ffn",
                    "--db", db, "--budget", s.a.tune], check=True, stdout=sys.stderr)
    minutes = (time.perf_counter() - begin) / 60
    subprocess.run([s.a.moe_tune, "emit", "--db", db, "--out", table], check=True, stdout=sys.stderr)
    return minutes, table


def main():
    a = parse_arguments()
    sys.path.insert(0, __file__.rsplit("/", 1)[0] + "/peers" if "/" in __file__ else "peers")
    # A sweep wants the device's memory: before the weights of all layers are there.
    small = Stack(argparse.Namespace(**{**vars(a), "layers": 1}))
    minutes, folder = tune(small) if a.tune else (None, a.table)
    del small
    methods = {"loop": loop} if a.device == "host" else {"grouped_mm": grouped_mm, "deepgemm": deepgemm}
    methods["moe-tune-default"] = with_table(moe_tune.open(None, a.device))
    if folder:
        methods["moe-tune"] = with_table(moe_tune.open(folder, a.device))
    stack = Stack(a)
    for tokens in a.tokens:
        stack.route(tokens)
        layers, times = measure(stack, methods)
        for name, seconds in times.items():
            line = {"tokens": tokens, "method": name, "tokens_per_s": round(tokens / seconds),
                    "layer_us": round(seconds / a.layers * 1e6, 2)}
            if hasattr(layers[name], "choice"):
                line.update(hit=layers[name].choice.hit, config=layers[name].choice.config)
            if name == "moe-tune" and minutes is not None:
                line["tuning_minutes"] = round(minutes, 2)
            print(json.dumps(line), flush=True)
        del layers
        if stack.kind == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
