#!/usr/bin/env bash
# Draws what bench/peers/bits.py printed: which share of the elements differs from training's, for each GEMM and number of
# rows, as a heatmap, and the time of `train` against `fast` and the fastest other beside it. Needs gnuplot.
#
#   scripts/plot_bits.sh BITS.csv OUT_DIR      OUT_DIR/bits.svg and .png
set -euo pipefail
[ $# = 2 ] && [ -r "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 1; }
command -v gnuplot >/dev/null || { echo "plot_bits: gnuplot is not installed" >&2; exit 1; }
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
mkdir -p "$2"
# cells: x (log2 rows), y (place of the GEMM), share of differing elements; times: rows, train / fast, best other / train
awk -F, -v cells="$data/cells" -v times="$data/times" '
    BEGIN { n = split("fast train triton deepgemm grouped_mm cublas_nosplitk cublas", order, " "); for (i = 1; i <= n; i++) place[order[i]] = i - 1 }
    NR > 1 {
        printf "%d %d %g %d\n", log($1) / log(2) + 0.5, place[$2], $3 / $4, $3 > cells
        time[$1, $2] = $5; if (!seen[$1]++) rows[++count] = $1
        if ($2 != "train" && $2 != "fast" && (!($1 in other) || $5 < other[$1])) other[$1] = $5
    }
    END { for (i = 1; i <= count; i++) { r = rows[i]; print r, time[r, "train"] / time[r, "fast"], other[r] / time[r, "train"] > times } }' "$1"
for kind in svg png; do
    gnuplot -e "kind='$kind'; data='$data'; out='$2'" "$(dirname "$0")/plot_bits.gp"
done
