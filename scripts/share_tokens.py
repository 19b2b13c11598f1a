#!/usr/bin/env python3
"""Workloads whose tokens have K local experts each: the lines of a workload file with "tokens" = rows / K. An expert
cannot have more rows than there are tokens: what it has too many is given to the others, in proportion to their rows.

usage: share_tokens.py K < WORKLOADS.jsonl > SHARED.jsonl"""
import json, sys

if len(sys.argv) != 2 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
    sys.exit(__doc__)
k = int(sys.argv[1])
for line in filter(str.strip, sys.stdin):
    workload = json.loads(line)
    counts, rows = workload['counts'], workload['rows']
    tokens = -(-rows // k)
    if tokens * len(counts) < rows:
        sys.exit(f"{workload['name']}: {len(counts)} experts cannot share {rows} rows of {tokens} tokens")
    while max(counts) > tokens:
        over = sum(max(c - tokens, 0) for c in counts)
        counts = [min(c, tokens) for c in counts]
        room = [i for i, c in enumerate(counts) if c < tokens]
        weight = sum(counts[i] + 1 for i in room)
        shares = {i: over * (counts[i] + 1) // weight for i in room}
        for i in room[:over - sum(shares.values())]:  # what rounding left
            shares[i] += 1
        for i in room:
            counts[i] += shares[i]
    assert sum(counts) == rows
    print(json.dumps({**workload, 'tokens': tokens, 'counts': counts}, separators=(',', ':')))
