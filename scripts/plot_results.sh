#!/usr/bin/env bash
# Pictures of a sweep, drawn by gnuplot from what `moe-tune show` prints.
#
#   scripts/plot_results.sh DB OUT_DIR [MOE_TUNE]
#
# writes efficiency.{svg,png} (efficiency against rows an expert, the best config of each family), winners.{svg,png}
# (which family wins where, over rows an expert and skew) and shapes.{svg,png} (winner and efficiency over experts and
# hidden size) into OUT_DIR.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 DB OUT_DIR [MOE_TUNE]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
db=$1 out=$2 tool=${3:-$here/../build/moe-tune}
command -v gnuplot >/dev/null || { echo "$0: gnuplot is missing: apt install gnuplot-nox" >&2; exit 1; }
mkdir -p "$out"
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT

"$tool" show --trials --format csv --db "$db" > "$data/trials.csv"
awk -v dir="$data" -f "$here/plot_results.awk" "$data/trials.csv"
for kind in svg png; do
    gnuplot -e "kind='$kind'; data='$data'; out='$out'" "$here/plot_results.gp"
done
echo "wrote efficiency, winners and shapes (.svg and .png) into $out"
