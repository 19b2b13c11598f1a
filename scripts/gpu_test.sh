#!/usr/bin/env bash
# Every test that needs a GPU, from a build folder, on any machine with one: conformance of all families, equal bits
# within a class, graph capture, a fresh small table swept, emitted, verified and run, compute-sanitizer on edge shapes.
# Needs no compiler and no cmake; what else is missing is skipped with a message. An estimate for an H100 is 20 minutes, half
# of them compute-sanitizer's. Ends in 'N passed, N failed'.
#
# Of wgmma_gemm's configs it runs samples. More of them, in longer runs:
#   test_bits --device cuda                  bits, every config on every input; with --draws N on N times as many inputs
#   test_conformance --device cuda --family wgmma_gemm --every 11     conformance; every config would take hours
#
#   scripts/gpu_test.sh [BUILD_DIR [DEVICE [PART...]]]      default: build cuda, and all of them:
#
#   compile kernels path ep families table isolation path_table python sanitizer
set -uo pipefail
BUILD=${1:-build}
DEVICE=${2:-cuda}
BUILD=$(cd "$BUILD" && pwd) || exit 1
all="compile kernels path ep families table isolation path_table python sanitizer"
parts=("${@:3}")
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$all"
SOURCE=$(cd "$(dirname "$0")/.." && pwd) || exit 1
for program in moe-tune test_conformance test_bits test_capture test_launch_cost test_chain test_device test_expect test_stages test_ffn test_composed test_ffn_odd test_ep test_fast test_act test_fused test_compile; do
    [ -x "$BUILD/$program" ] || { echo "gpu_test: $BUILD/$program is not there: build with tests (libcmocka-dev)" >&2; exit 1; }
done
# Libraries that this machine may lack travel in the build folder.
export LD_LIBRARY_PATH=$BUILD/testlib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export MOET_CACHE_DIR=$BUILD/test-cache
unset MOET_TABLE
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
began=$SECONDS passed=0 failed=0 skipped=0

# check NAME SECONDS COMMAND...: the output is shown where it fails; exit code 77 is a skip, for the reason printed.
check() {
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    timeout -k 10 "$limit" "$@" >"$WORK/log" 2>&1 || code=$?
    if [ "$code" = 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name ($((SECONDS - start)) s)"
        grep -E '^[a-z_0-9]+: [0-9]+ (runs of a config|configs on)|a launch takes|^[0-9]+ workloads, ' "$WORK/log" | sed 's/^/        /'
    elif [ "$code" = 77 ]; then
        skip "$name: $(sed -n 's/^skipped: //p' "$WORK/log" | head -n 1)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name ($((SECONDS - start)) s, exit $code$([ "$code" = 124 ] && echo ': time ran out'))"
        tail -n 40 "$WORK/log"
    fi
    return "$code"
}
skip() {
    skipped=$((skipped + 1))
    echo "skipped $1"
}

for part in "${parts[@]}"; do
    [[ " $all " == *" $part "* ]] || { echo "gpu_test: no part '$part': $all" >&2; exit 2; }
done
"$BUILD/moe-tune" doctor --device "$DEVICE" --no-measure || { echo "0 passed, 1 failed"; exit 1; }
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)

part_compile() {
    # All kernels at once on all processors, into the cache: the tests after it then only load them. What the driver's
    # own cache gives back comes without the compiler's report of registers.
    CUDA_CACHE_DISABLE=1 MOET_TEST_COMPILE=all MOET_TEST_ARCH=${architecture:-9.0} MOET_TEST_JOBS=$(nproc) \
        check "every kernel compiles without spills" 180 "$BUILD/test_compile"
}

part_kernels() {
    check "device: memory, streams, events" 60 "$BUILD/test_device" --device "$DEVICE"
    check "counts on the device are summarised" 60 "$BUILD/test_expect" --device "$DEVICE"
    check "stages of the expert path: permute, gather, activation, combine" 120 "$BUILD/test_stages" --device "$DEVICE"
    check "a fused activation of every BF16" 60 "$BUILD/test_act" --device "$DEVICE"
    check "activations in GEMMs" 180 "$BUILD/test_fused" --device "$DEVICE"
}

part_path() {
    check "expert path: reference, pieces, bits" 300 "$BUILD/test_ffn" --device "$DEVICE"
    check "expert path: the composition's bits, cuBLASLt's GEMMs, public workloads" 300 "$BUILD/test_composed" --device "$DEVICE" --workloads "$SOURCE/bench/workloads/public.jsonl"
    check "expert path: numerics fast" 240 "$BUILD/test_fast" --device "$DEVICE"
    # In parts beside each other: each compiles kernels that nothing else has. What is shown is of the parts that fail.
    check "expert path: odd numbers, bad ids, too many rows" 300 env BUILD="$BUILD" DEVICE="$DEVICE" WORK="$WORK" bash -c '
        worst=0 pids=()
        for part in 1 2 3 4 5 6 7 8; do
            "$BUILD/test_ffn_odd" --device "$DEVICE" --configs 1 --part $part --parts 8 >"$WORK/odd$part" 2>&1 & pids[part]=$!
        done
        for part in 1 2 3 4 5 6 7 8; do
            code=0
            wait ${pids[part]} || code=$?
            [ $code = 0 ] || { worst=$code; tail -n 12 "$WORK/odd$part"; }
        done
        exit $worst'
}

part_ep() {
    local transport one=$DEVICE # NCCL refuses two ranks of one GPU: what does without it
    [ "$DEVICE" != cuda ] || one=cuda:0
    for transport in lsa lsa_joint allgather; do
        check "expert parallelism: two ranks of one GPU, $transport" 150 "$BUILD/test_ep" --device "$one" --ranks 2 --cases 12 --transport $transport
    done
    if [ "$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')" -ge 2 ]; then
        check "expert parallelism on two GPUs: bits, graphs, ranks that die" 300 "$BUILD/test_ep" --device cuda --ranks 2
        check "expert parallelism: the rank that is left says so and ends" 90 bash -c "
            export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000))
            launched() { RANK=\$1 LOCAL_RANK=\$1 exec '$BUILD/moe-tune' ep --transport exchange --tokens 4096 --rounds 1000 --timeout 10 >/dev/null; }
            launched 1 2>/dev/null & other=\$!
            { sleep 15; kill -9 \$other; } &
            (launched 0) 2>&1 | tee ep.err
            grep -q 'rank 1 ended' ep.err"
    else
        skip "expert parallelism on two GPUs: there is one"
    fi
}

families=$("$BUILD/test_conformance" --list --device "$DEVICE" 2>/dev/null)
[ -n "$families" ] || { echo "FAILED  no kernel family runs on $DEVICE"; failed=$((failed + 1)); }
part_families() {
    local family some
    for family in $families; do
        some=()
        [ "$family" = cublaslt_grouped ] && some=(--every 211) # thousands, of which many ask for a choice that is not offered
        [ "$family" = wgmma_gemm ] && some=(--pairs) # tens of thousands of configs, seven shapes in four variants
        check "conformance: $family" 150 "$BUILD/test_conformance" --device "$DEVICE" --family "$family" "${some[@]}"
    done

    # wgmma_gemm's kernels have 240 configs each (in clusters 480), which differ in run-time values: every 61st config is
    # each kernel on each input, on all SMs and on few, and over the kernels each of those values.
    for family in $families; do
        case $family in
        wgmma_gemm) check "bits: $family" 90 "$BUILD/test_bits" --device "$DEVICE" --family "$family" --every 61 ;;
        mma_gemm) check "bits: $family" 90 "$BUILD/test_bits" --device "$DEVICE" --family "$family" ;;
        esac
    done

    check "plans captured in CUDA graphs" 60 "$BUILD/test_capture" --device "$DEVICE"
    check "what a launch costs the host" 120 "$BUILD/test_launch_cost" --device "$DEVICE"
    check "launches that follow each other without a wait" 150 "$BUILD/test_chain" --device "$DEVICE"
}

# ---- a fresh table ----
cat >"$WORK/workloads.jsonl" <<'EOF'
{"name":"gpu-test/a","experts":4,"hidden":1024,"inter":512,"rows":256,"skew":"balanced","counts":[64,64,64,64]}
{"name":"gpu-test/b","experts":4,"hidden":1024,"inter":512,"rows":259,"skew":"hot","counts":[1,255,0,3]}
EOF
cd "$WORK" || exit 1
part_table() {
    if check "sweep" 120 "$BUILD/moe-tune" sweep --device "$DEVICE" --workloads workloads.jsonl --ops up --rounds 3 --db gpu.db --budget 60s; then
        check "no candidate is wrong or failed" 20 bash -c "'$BUILD/moe-tune' show --db gpu.db --trials --format csv >trials.csv && [ \$(wc -l <trials.csv) -gt 20 ] && ! grep -E ',(wrong|failed),' trials.csv"
        check "emit" 20 "$BUILD/moe-tune" emit --db gpu.db --out table
        check "verify: every entry of the table" 60 "$BUILD/moe-tune" verify --device "$DEVICE" --table table
        # Production needs no compiler: with an empty cache that cannot be written, only the table's kernels are there.
        MOET_CACHE_DIR=/proc/none check "bench: the table answers exactly" 60 bash -c "'$BUILD/moe-tune' bench --device '$DEVICE' --table table --workloads workloads.jsonl --ops up --rounds 3 >bench.jsonl && [ \$(grep -c '\"hit\":\"exact\"' bench.jsonl) = 2 ]"
        check "bench: counts in device memory" 60 bash -c "'$BUILD/moe-tune' bench --device '$DEVICE' --table table --workloads workloads.jsonl --ops up --rounds 3 --device-counts >device.jsonl && [ \$(grep -c '\"device_counts\":true' device.jsonl) = 2 ]"
    fi
}

part_isolation() {
    if [ -x "$BUILD/moe-tune-faulty" ]; then
        check "candidates that crash, hang or lose the device" 300 bash "$SOURCE/tests/test_isolation.sh" "$BUILD" "$SOURCE" "$DEVICE"
    else
        skip "candidates that crash: $BUILD has no moe-tune-faulty"
    fi
}

# ---- the expert path: the first workload, and as many tokens as two experts each make of its rows ----
part_path_table() {
    local counts
    head -n 1 workloads.jsonl >path.jsonl
    sed 's/"skew"/"tokens":128,"skew"/' path.jsonl >shared.jsonl
    if check "sweep of op ffn" 150 "$BUILD/moe-tune" sweep --device "$DEVICE" --workloads path.jsonl --ops ffn --rounds 3 --db path.db --budget 45s; then
        check "no path is wrong or failed" 20 bash -c "'$BUILD/moe-tune' show --db path.db --trials --format csv >paths.csv && [ \$(wc -l <paths.csv) -gt 20 ] && ! grep -E ',(wrong|failed),' paths.csv"
        check "emit of op ffn" 20 "$BUILD/moe-tune" emit --db path.db --out paths
        check "verify of op ffn: every entry of the table" 60 "$BUILD/moe-tune" verify --device "$DEVICE" --table paths
        for counts in "" --device-counts; do
            check "bench of op ffn $counts" 60 "$BUILD/moe-tune" bench --device "$DEVICE" --table paths --with-default --workloads shared.jsonl --ops ffn --rounds 3 --bias=no $counts
        done
    fi
}

# ---- Python: streams, CUDA graphs, torch.compile and DLPack on the GPU, where a python3 here has torch ----
part_python() {
    local python
    python=${MOET_PYTHON:-python3}
    if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        skip "Python package: $python has no torch that finds the GPU (MOET_PYTHON names another)"
    elif [ ! -e "$BUILD/libmoet.so.0" ]; then
        skip "Python package: $BUILD has no libmoet.so.0"
    else
        export MOET_LIBRARY=$BUILD/libmoet.so.0 PYTHONPATH=$SOURCE/bindings/python PYTHONDONTWRITEBYTECODE=1
        check "Python package with torch on the GPU" 300 "$python" -m unittest discover -s "$SOURCE/bindings/python/tests" -p 'test_torch.py'
        check "Python package: what a call costs" 60 "$python" "$SOURCE/bindings/python/bench_overhead.py" cuda && cat "$WORK/log"
        unset MOET_LIBRARY PYTHONPATH PYTHONDONTWRITEBYTECODE
    fi
}

# ---- compute-sanitizer: a pairwise set of each kernel's configs, a few of the vendor's, on the first edge shapes ----
part_sanitizer() {
    local sanitizer tool family
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
    if [ -n "$sanitizer" ]; then
        # wgmma_gemm has kernels of its own for racecheck (kernels/wgmma_gemm.cu says why), compiled here.
        for tool in memcheck racecheck; do
            if [ $tool = racecheck ]; then export MOET_RACECHECK=1; fi
            check "$tool: stages of the expert path" 120 "$sanitizer" --tool $tool --error-exitcode 9 "$BUILD/test_stages" --device "$DEVICE" --quick
            check "$tool: activations in GEMMs" 180 "$sanitizer" --tool $tool --error-exitcode 9 "$BUILD/test_fused" --device "$DEVICE" --every 5
            check "$tool: expert path" 300 "$sanitizer" --tool $tool --error-exitcode 9 "$BUILD/test_ffn" --device "$DEVICE" --paths 6 --configs 2
            unset MOET_RACECHECK
        done
        for family in $families; do
            # Vendor kernels are not ours to check; what they read and write of our buffers memcheck sees all the same.
            case $family in
            cublas*)
                check "memcheck: $family" 60 "$sanitizer" --tool memcheck --error-exitcode 9 "$BUILD/test_conformance" --device "$DEVICE" --family "$family" --every 29 --shapes 2
                ;;
            *)
                check "memcheck: $family" 90 "$sanitizer" --tool memcheck --error-exitcode 9 "$BUILD/test_conformance" --device "$DEVICE" --family "$family" --pairs --once --shapes 2
                MOET_RACECHECK=1 check "racecheck: $family" 300 "$sanitizer" --tool racecheck --error-exitcode 9 "$BUILD/test_conformance" --device "$DEVICE" --family "$family" --pairs --once --shapes 1
                ;;
            esac
        done
    else
        skip "compute-sanitizer is not installed here (CUDA toolkit): memcheck and racecheck"
    fi
}

for part in "${parts[@]}"; do "part_$part"; done

echo "took $((SECONDS - began)) s, $skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
