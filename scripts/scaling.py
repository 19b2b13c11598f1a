#!/usr/bin/env python3
"""The model of docs/scaling.md: bytes and times of dispatch and combine by the number of ranks, as Markdown tables.

usage: scripts/scaling.py [--experts 256 --choices 8 --hidden 7168 --inter 2048 --tokens 4096] [--host 8]
                          [--nvlink 393] [--network 46] [--dense 600] [--hbm 3.0]
       scripts/scaling.py --check ep.jsonl     latency and bandwidth that fit what `moe-tune ep` or bench/peers/ep.py
                                               measured (one host), without and with a time for each token of a rank, and
                                               how far the former is off at each point

Rates in GB/s one way and GPU, dense in TFLOPS, hbm in TB/s. Choices are uniform. docs/scaling.md derives the formulas."""
import argparse
import json
import sys

NVLINK_LATENCY_US = 8.0    # two waits between GPUs of a host, and the kernels around them
NETWORK_LATENCY_US = 25.0  # the same over a network
MESSAGE_US = 0.4           # that a peer more costs, each way, where rows go by messages


def hit(parts, choices):
    """Probability that a token has an expert in one of so many equal parts."""
    return 1 - (1 - 1 / parts) ** choices if parts > 1 else 1.0


def volumes(a, ranks):
    """Rows a rank sends: to its host's other ranks, to other hosts flat, to other hosts once a host; pairs likewise."""
    host = min(a.host, ranks)
    hosts = ranks // host
    token = a.tokens
    near = token * hit(ranks, a.choices) * (host - 1)
    far = token * hit(ranks, a.choices) * (ranks - host)
    once = token * hit(hosts, a.choices) * (hosts - 1) if hosts > 1 else 0.0
    near_pairs = token * a.choices * (host - 1) / ranks
    far_pairs = token * a.choices * (ranks - host) / ranks
    return near, far, once, near_pairs, far_pairs


def link_us(near_rows, far_rows, a, ranks):
    """Both links work at the same time."""
    row = 2 * a.hidden
    near = NVLINK_LATENCY_US + near_rows * row / a.nvlink * 1e-3
    if ranks <= a.host:
        return near
    far = NETWORK_LATENCY_US + far_rows * row / a.network * 1e-3 + MESSAGE_US * (ranks - a.host)
    return max(near, far)


def experts_us(a, ranks):
    """The longer of the products and of reading the weights that a rank has."""
    flops = 6.0 * a.tokens * a.choices * a.hidden * a.inter
    weights = 6.0 * a.hidden * a.inter * max(1.0, a.experts / ranks)
    return max(flops / a.dense * 1e-6, weights / a.hbm * 1e-6)


def table(a):
    print(f"E = {a.experts}, k = {a.choices}, H = {a.hidden}, I = {a.inter}, T = {a.tokens} on each rank, "
          f"{a.host} GPUs a host; us\n")
    print("| ranks | ranks of a token | dispatch | once a host | combine, sums | combine, rows | experts | "
          "exchanges / experts |")
    print("|---|---|---|---|---|---|---|---|")
    ranks = 2
    while ranks <= 1024:
        near, far, once, near_pairs, far_pairs = volumes(a, ranks)
        dispatch, sums = link_us(near, far, a, ranks), link_us(near, far, a, ranks)
        hierarchical = link_us(near + (far if ranks > a.host else 0), once, a, ranks)
        rows, experts = link_us(near_pairs, far_pairs, a, ranks), experts_us(a, ranks)
        print(f"| {ranks} | {ranks * hit(ranks, a.choices):.2f} | {dispatch:.0f} | "
              f"{'' if ranks <= a.host else f'{hierarchical:.0f}'} | {sums:.0f} | {rows:.0f} | {experts:.0f} | "
              f"{(min(dispatch, hierarchical) + min(sums, hierarchical)) / experts:.2f} |")
        ranks *= 2


def solve(rows):
    """Least squares of sum(x) = 1 over the columns of rows, by the normal equations."""
    n = len(rows[0])
    m = [[sum(r[i] * r[j] for r in rows) for j in range(n)] + [sum(r[i] for r in rows)] for i in range(n)]
    for i in range(n):
        top = max(range(i, n), key=lambda r: abs(m[r][i]))
        m[i], m[top] = m[top], m[i]
        for r in range(n):
            if r != i:
                m[r] = [x - m[r][i] / m[i][i] * y for x, y in zip(m[r], m[i])]
    return [m[i][n] / m[i][i] for i in range(n)]


def fit(points, with_tokens):
    """[latency us, us a byte, us a token] of the least relative errors, and those errors."""
    columns = [[1.0, p["bytes"]] + ([p["tokens"]] if with_tokens else []) for p in points]
    values = solve([[x / p["us"] for x in c] for c, p in zip(columns, points)])
    return values, [sum(v * x for v, x in zip(values, c)) / p["us"] - 1 for c, p in zip(columns, points)]


def read_points(path):
    """{(peer, part): points}; chunks change nothing about the parts, and a way may be there twice: medians."""
    times = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            d = json.loads(line) if line.startswith("{") else {}
            if d.get("chunks", 1) != 1:
                continue
            for part, time, rate in (("dispatch", "dispatch_us", "rate_gbs"), ("dispatch", "a2a_us", "rate_gbs"),
                                     ("combine", "combine_us", "combine_gbs")):
                if d.get(time):
                    key = (d.get("peer", ""), part, d["name"], d["tokens"], d["skew"])
                    times.setdefault(key, []).append((d[time], d[rate] * d[time] * 1e3))
    parts = {}
    for (peer, part, name, tokens, skew), seen in times.items():
        us, size = sorted(seen)[len(seen) // 2]
        parts.setdefault((peer, part), []).append(
            {"point": f"{name}, {tokens}, {skew}", "tokens": tokens, "us": us, "bytes": size})
    return parts


def check(path):
    parts = read_points(path)
    if not parts:
        sys.exit(f"scaling: {path} has no line with dispatch_us or a2a_us")
    for (peer, part), points in sorted(parts.items()):
        (latency, slope), off = fit(points, False)
        print(f"\n{peer}, {part}: {latency:.1f} us + bytes at {1e-3 / slope:.0f} GB/s, "
              f"{min(off):+.0%} to {max(off):+.0%} off")
        rows = [p["bytes"] / p["tokens"] for p in points]
        if max(rows) > 1.5 * min(rows):  # of one size of rows, bytes and tokens are one
            (start, byte, token), with_off = fit(points, True)
            print(f"or {start:.1f} us + {token * 1e3:.1f} ns a token + bytes at {1e-3 / byte:.0f} GB/s, "
                  f"{min(with_off):+.0%} to {max(with_off):+.0%} off")
        print("\n| point | MB | measured us | model us | off |\n|---|---|---|---|---|")
        for p, o in zip(points, off):
            print(f"| {p['point']} | {p['bytes'] * 1e-6:.1f} | {p['us']:.1f} | {p['us'] * (1 + o):.1f} | {o:+.0%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, kind in (("experts", 256, int), ("choices", 8, int), ("hidden", 7168, int), ("inter", 2048, int),
                              ("tokens", 4096, int), ("host", 8, int), ("nvlink", 393.0, float),
                              ("network", 46.0, float), ("dense", 600.0, float), ("hbm", 3.0, float)):
        parser.add_argument("--" + name, type=kind, default=value)
    parser.add_argument("--check", metavar="FILE")
    a = parser.parse_args()
    if a.check:
        check(a.check)
    else:
        table(a)


if __name__ == "__main__":
    main()
