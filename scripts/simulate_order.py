#!/usr/bin/env python3
"""How long a persistent grouped GEMM takes if its CTAs take tiles in different orders: a model of SMs that each multiply at
their own rate and share HBM, from which the first tile that needs a column of weights reads them. No L2, no latency.

usage: simulate_order.py ROWSxCOLUMNS[,fit] [--op up|down] < WORKLOADS.jsonl

ROWSxCOLUMNS: a tile of out; `fit` where its rows follow the expert's in steps of 16 (the swapped modes of wgmma_gemm), else
in steps of 64. Orders: plain, experts as they come; mixed, experts of 256 rows and more spread evenly over the others;
front, the same in the first three quarters; descending, by rows. Microseconds on 132 SMs at 1.6 GHz and 3 TB/s."""
import argparse, json, sys

SMS, CLOCK, HBM, L2_PER_CLOCK = 132, 1.6e9, 3.0e12, 46.6  # bytes an SM and clock


def tiles_of(expert, rows, n, k, tile_rows, tile_columns, fit):
    """(expert, column tile, seconds of math, bytes of weights, bytes from L2) in bands of 16 row tiles."""
    row_tiles = -(-rows // tile_rows)
    height = (-(-rows // row_tiles) + 15) // 16 * 16 if fit else tile_rows
    step, bands = (16 if fit else 64), -(-row_tiles // 16)
    band, tiles = -(-row_tiles // bands), []
    for first in range(0, row_tiles, band):
        for column in range(-(-n // tile_columns)):
            columns = min(tile_columns, n - column * tile_columns)
            for row in range(first, min(first + band, row_tiles)):
                own = min(height, rows - row * height)
                if own <= 0:
                    continue
                own = -(-own // step) * step
                math = own * tile_columns / 32 * k / 64 / CLOCK
                tiles.append((expert, column, math, columns * k * 2, (columns + own) * k * 2))
    return tiles


def spread(heavy, light, tickets):
    """Heavy tiles evenly over the first `tickets`, light ones between and behind."""
    out, taken, heavy, light = [], 0, list(heavy), list(light)
    for i in range(len(heavy) + len(light)):
        wanted = min(len(heavy), -(-len(heavy) * (i + 1) // max(1, tickets)))
        if taken < wanted or i - taken >= len(light):
            out.append(heavy[taken])
            taken += 1
        else:
            out.append(light[i - taken])
    return out


def seconds(tiles):
    """Each SM works on a tile at the rate that math, L2 and its share of HBM allow, and then takes the next."""
    waiting, known, running, time = iter(tiles), set(), [], 0.0
    def take():
        tile = next(waiting, None)
        if tile is None:
            return None
        expert, column, math, weights, moved = tile
        first = (expert, column) not in known
        known.add((expert, column))
        return [1.0, min(1 / math, L2_PER_CLOCK * CLOCK / moved), weights if first else 0]
    running = [t for t in (take() for _ in range(SMS)) if t]
    while running:
        rates = [rate for _, rate, _ in running]
        if sum(rate * read for _, rate, read in running) > HBM:
            left, readers = HBM, sorted((rate * read, i) for i, (_, rate, read) in enumerate(running) if read)
            for n, (wanted, i) in enumerate(readers):
                got = min(wanted, left / (len(readers) - n))
                left -= got
                rates[i] = got / running[i][2]
        step = min(t[0] / rate for t, rate in zip(running, rates))
        time += step
        for t, rate in zip(running, rates):
            t[0] -= rate * step
        running = [t for t in (t if t[0] > 1e-9 else take() for t in running) if t]
    return time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tile')
    parser.add_argument('--op', choices=['up', 'down'], default='up')
    options = parser.parse_args()
    size, _, fit = options.tile.partition(',')
    tile_rows, tile_columns = map(int, size.split('x'))
    for line in filter(str.strip, sys.stdin):
        w = json.loads(line)
        n, k = (2 * w['inter'], w['hidden']) if options.op == 'up' else (w['hidden'], w['inter'])
        experts = [(e, c) for e, c in enumerate(w['counts']) if c]
        tiles = {e: tiles_of(e, c, n, k, tile_rows, tile_columns, fit == 'fit') for e, c in experts}
        of = lambda chosen: [t for e, _ in chosen for t in tiles[e]]
        heavy, light = of(x for x in experts if x[1] >= 256), of(x for x in experts if x[1] < 256)
        count = len(heavy) + len(light)
        orders = {'plain': of(experts), 'mixed': spread(heavy, light, count), 'front': spread(heavy, light, count * 3 // 4),
                  'descending': of(sorted(experts, key=lambda x: -x[1]))}
        print(w['name'], w['rows'], w['skew'], options.op, *(f'{name} {seconds(o) * 1e6:.0f}' for name, o in orders.items()))


main()
