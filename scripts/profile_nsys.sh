#!/usr/bin/env bash
# A timeline with moe-tune's ranges: of one launch, or of any other command.
#
#   scripts/profile_nsys.sh OUT.nsys-rep WORKLOAD [options of moe-tune profile...]     one launch, after its warm-up
#   scripts/profile_nsys.sh OUT.nsys-rep -- COMMAND [options of COMMAND...]            all of a command
#
#   scripts/profile_nsys.sh sweep.nsys-rep -- sweep --model qwen3-30b-a3b --ep 8 --rows 4096 --budget 60s
#   nsys-ui sweep.nsys-rep
#   nsys stats --report nvtx_pushpop_sum,cuda_gpu_kern_sum sweep.nsys-rep
#
# MOE_TUNE and NSYS name the programs.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
fi
out=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
program=${MOE_TUNE:-$here/../build/moe-tune}
nsys=${NSYS:-$(command -v nsys || true)}
for installed in /usr/local/cuda/bin/nsys /opt/nvidia/nsight-systems/*/bin/nsys; do
    [ -n "$nsys" ] || [ ! -x "$installed" ] || nsys=$installed
done
[ -n "$nsys" ] || { echo "$0: no nsys: install cuda-nsight-systems, or set NSYS" >&2; exit 1; }
if [ "$1" = -- ]; then
    shift
    exec "$nsys" profile --force-overwrite true --output "$out" --trace cuda,nvtx "$program" "$@"
fi
exec "$nsys" profile --force-overwrite true --output "$out" --trace cuda,nvtx --capture-range cudaProfilerApi \
    "$program" profile "$@" --tool none
