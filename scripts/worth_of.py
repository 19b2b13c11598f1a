#!/usr/bin/env python3
"""What a parameter is worth on each point of a sweep, all else equal, as CSV: of the configurations that were timed with
two or more of its values, the fastest, and its time with each.

usage: moe-tune show --db DB --trials --format json | worth_of.py PARAMETER > FILE.csv

Racing trials only: final rounds run at another time, when the chip may be at another clock."""
import csv, json, sys

if len(sys.argv) != 2:
    sys.exit(__doc__)
parameter, points, values = sys.argv[1], {}, set()
for trial in map(json.loads, sys.stdin):
    family, _, text = trial['config'].partition(':')
    config = dict(p.split('=', 1) for p in text.split(',') if p)
    if parameter not in config or trial['status'] != 'ok' or trial['final']:
        continue
    value = config.pop(parameter)
    values.add(value)
    op = trial['problem'].partition(',')[0].partition('=')[2]
    point = points.setdefault((trial['workload'], trial['rows'], trial['skew'], op, trial['counts_on']), {})
    rest = family + ':' + ','.join(f'{k}={v}' for k, v in config.items())
    point.setdefault(rest, {})[value] = trial['time_us']
values = sorted(values)
out = csv.writer(sys.stdout, lineterminator='\n')
out.writerow(['workload', 'rows', 'skew', 'op', 'counts_on', 'config'] + [f'{v}_us' for v in values])
for point, configs in sorted(points.items()):
    tried = [(min(times.values()), rest, times) for rest, times in configs.items() if len(times) > 1]
    if tried:
        _, rest, times = min(tried, key=lambda t: t[:2])
        out.writerow([*point, rest] + [times.get(v, '') for v in values])
