#!/usr/bin/env bash
# One launch under Nsight Compute with everything that its pages show, sources included: what `moe-tune profile` counts
# is a small part of it.
#
#   scripts/profile_ncu.sh OUT.ncu-rep WORKLOAD [options of moe-tune profile...]
#
#   scripts/profile_ncu.sh slow.ncu-rep deepseek-v3/ep8/8192/zipf:1 --config 'wgmma_gemm:mode=swap,tile=...'
#   ncu-ui slow.ncu-rep                                             pages Details, Source
#   ncu --import slow.ncu-rep --csv --page raw --print-units base   every counter; `moe-tune profile --counters` reads it
#
# Counters need permission (ERR_NVGPUCTRPERM): root, --cap-add=SYS_ADMIN, or NVreg_RestrictProfilingToAdminUsers=0.
# MOE_TUNE and NCU name the programs, METRICS adds counters, as METRICS=breakdown:lts__throughput.avg.pct_of_peak_sustained_elapsed.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
fi
out=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
program=${MOE_TUNE:-$here/../build/moe-tune}
ncu=${NCU:-$(command -v ncu || true)}
for installed in /usr/local/cuda/bin/ncu /opt/nvidia/nsight-compute/*/ncu; do
    [ -n "$ncu" ] || [ ! -x "$installed" ] || ncu=$installed
done
[ -n "$ncu" ] || { echo "$0: no ncu: install cuda-nsight-compute, or set NCU" >&2; exit 1; }
mkdir -p "$out.sources"
MOET_LINE_INFO=$(cd "$out.sources" && pwd)
export MOET_LINE_INFO
exec "$ncu" --force-overwrite --export "$out" --profile-from-start off --clock-control none --set full \
    ${METRICS:+--metrics "$METRICS"} --import-source yes --nvtx "$program" profile "$@" --tool none
