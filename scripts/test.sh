#!/usr/bin/env bash
# Builds and runs every test that needs no GPU: gcc, clang, a build without CUDA, line coverage of src/, AddressSanitizer
# and UndefinedBehaviorSanitizer, four fuzzers. Everything under build-test/ (or $MOET_TEST_BUILD); under 30
# minutes on 2 cores: no step begins after 23 ($MOET_TEST_SECONDS). A step that fails does not stop the others; the last
# line counts the tests of all builds.
#
#   scripts/test.sh [STEP...]     steps: gcc clang nocuda coverage sanitize fuzz; all of them by default
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
SOURCE=$PWD
ROOT=${MOET_TEST_BUILD:-$SOURCE/build-test}
JOBS=$(nproc)
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(gcc clang nocuda coverage sanitize fuzz)
mkdir -p "$ROOT"
began=$SECONDS
bash scripts/install_deps.sh --test || { echo "what the tests need could not be installed" >&2; exit 1; }

passed=0 failed=0 calls=0 failures=() left=()
step() { printf '\n==== %s (%d s) ====\n' "$1" $((SECONDS - began)); }
miss() {
    failed=$((failed + 1))
    failures+=("$1")
    echo "FAILED: $1"
}

# build NAME [cmake options]: configures and builds ROOT/NAME; warnings are errors.
build() {
    local name=$1
    shift
    # The log is shown only if something is wrong: it is long.
    if cmake -S "$SOURCE" -B "$ROOT/$name" "$@" >"$ROOT/$name.log" 2>&1 &&
        cmake --build "$ROOT/$name" -j "$JOBS" >>"$ROOT/$name.log" 2>&1; then
        grep -E 'moe-tune: ' "$ROOT/$name.log"
        return 0
    fi
    tail -n 40 "$ROOT/$name.log"
    miss "$name: build"
    return 1
}

# tests NAME [ctest options]: runs them, prints ctest's own report, and counts.
tests() {
    local name=$1 log=$ROOT/$1.$((calls += 1)).ctest
    shift
    ctest --test-dir "$ROOT/$name" --output-on-failure "$@" 2>&1 | tee "$log"
    local good bad
    good=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log")
    bad=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*(Failed|Timeout|Exception|Not Run)' "$log")
    passed=$((passed + good)) failed=$((failed + bad))
    [ "$bad" = 0 ] || failures+=("$name: $bad tests")
    [ $((good + bad)) -gt 0 ] || miss "$name: no test was run"
}

# passive COMMAND...: of several at a time. Threads that wait must not keep others from working.
passive() { OMP_WAIT_POLICY=passive "$@"; }

# Kernels are compiled in the first step, once is enough: of a pairwise set of configs, of the slowest family's every
# second. All of them, in a longer run:
# MOET_TEST_COMPILE=all ctest --test-dir build-test/gcc -R compile
export MOET_TEST_JOBS=$JOBS

run_gcc() {
    step "gcc: all tests"
    build gcc -DCMAKE_C_COMPILER=gcc || return
    passive tests gcc -L unit -LE slow -j "$JOBS"
    MOET_TEST_COMPILE=some tests gcc -L 'cli|slow' -j 1 # much in them is timed
}

run_clang() {
    step "clang: unit tests"
    build clang -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS=-O1 || return
    MOET_TEST_EVERY=31 passive tests clang -L unit -LE slow -j "$JOBS"
}

run_sanitize() {
    step "AddressSanitizer and UndefinedBehaviorSanitizer: unit tests and the command line"
    build sanitize -DCMAKE_C_COMPILER=gcc -DMOET_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS=-O1 || return
    # The thread pools of OpenMP and OpenBLAS live until the process ends.
    ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 LSAN_OPTIONS=suppressions=$SOURCE/tests/lsan.supp:print_suppressions=0 \
        MOET_TEST_EVERY=31 passive tests sanitize -R '^(core|problem|routing|config|device|table|plan|workload|skew|store|store_ep|suspects|migrate|npz|emit|ep_choice|bench|ffn_reference|ffn_bound|ffn_odd|fast|fused|stages|conformance|bits|cli|against)$' -j "$JOBS"
}

run_nocuda() {
    # As packagers build: at -O3 gcc follows values further and warns of more.
    step "without CUDA, Release: unit tests"
    build nocuda -DCMAKE_C_COMPILER=gcc -DMOET_CUDA=OFF -DCMAKE_BUILD_TYPE=Release || return
    MOET_TEST_EVERY=31 passive tests nocuda -L unit -LE slow -j "$JOBS"
}

# Lines of src/ that the tests run; at least 90 % must. Left out by name, as they run on a GPU only:
#   backend_cuda.c, ep_device_cuda.c, ep_comm_nccl.c  every function calls the driver, or NCCL
#   ep_comm_socket.c, ep_nccl_ep*.c, nccl_api.h  test_ep runs them in processes that it ends, whose counts are not written
# module.c stays in: NVRTC compiles without a GPU. Only loading a kernel needs one. Where the build found no CUDA toolkit
# nothing compiles kernels, and module.c with its cache is left out too.
run_coverage() {
    step "line coverage of src/"
    build coverage -DCMAKE_C_COMPILER=gcc -DMOET_COVERAGE=ON -DCMAKE_BUILD_TYPE=Debug || return
    find "$ROOT/coverage" -name '*.gcda' -delete
    MOET_TEST_EVERY=61 MOET_TEST_COMPILE=none MOET_TEST_QUICK=1 tests coverage -R '^(core|problem|routing|config|device|table|plan|store|emit|bench|compile|conformance|libraries|ffn|record|algorithms|lookup|stats|expect|ep|ep_choice|ep_mpi_2|ep_mpi_4)$' -j 1
    local left_out=(--exclude 'src/backend_cuda\.c' --exclude 'src/ep_comm_nccl\.c' --exclude 'src/ep_device_cuda\.c'
        --exclude 'src/ep_comm_socket\.c' --exclude 'src/ep_nccl_ep.*\.[ch]' --exclude 'src/nccl_api\.h')
    grep -q 'no CUDA toolkit' "$ROOT/coverage.log" && left_out+=(--exclude 'src/module.*\.[ch]')
    # Threads that count at once may lose counts, to less than none: such a line is left out.
    if gcovr --gcov-ignore-parse-errors --root "$SOURCE" --object-directory "$ROOT/coverage" --filter 'src/' "${left_out[@]}" \
        --fail-under-line 90 --print-summary "$ROOT/coverage" 2>&1 | tee "$ROOT/coverage.txt"; then
        passed=$((passed + 1))
    else
        miss "line coverage of src/ is below 90 %"
    fi
}

run_fuzz() {
    step "fuzzing the four parsers, 20 s each"
    cmake -S "$SOURCE" -B "$ROOT/fuzz" -DCMAKE_C_COMPILER=clang -DMOET_FUZZ=ON -DCMAKE_BUILD_TYPE=Debug >"$ROOT/fuzz.log" 2>&1 &&
        cmake --build "$ROOT/fuzz" -j "$JOBS" --target fuzz_table fuzz_workload fuzz_npy fuzz_trace >>"$ROOT/fuzz.log" 2>&1 ||
        { tail -n 40 "$ROOT/fuzz.log"; miss "fuzz: build"; return; }
    local name
    for name in table workload npy trace; do
        mkdir -p "$ROOT/fuzz/corpus_$name"
        cp tests/corpus/$name/* "$ROOT/fuzz/corpus_$name/"
        if (cd "$ROOT/fuzz" && "$(find . -name fuzz_$name -type f | head -n 1)" -max_total_time=20 -max_len=8192 -timeout=25 -rss_limit_mb=4096 \
            -print_final_stats=1 corpus_$name) >"$ROOT/fuzz_$name.log" 2>&1; then
            passed=$((passed + 1))
            grep -E 'number_of_executed_units|new_units_added' "$ROOT/fuzz_$name.log"
        else
            tail -n 30 "$ROOT/fuzz_$name.log"
            miss "fuzz_$name"
        fi
    done
}

for name in "${steps[@]}"; do
    if ! declare -F "run_$name" >/dev/null; then
        echo "no step '$name': gcc clang nocuda coverage sanitize fuzz" >&2
        exit 2
    fi
    # What runs this is often given half an hour: what does not fit is left out, and said.
    if [ $((SECONDS - began)) -gt "${MOET_TEST_SECONDS:-1380}" ]; then
        left+=("$name")
        continue
    fi
    "run_$name"
done

printf '\n'
[ ${#left[@]} -eq 0 ] || echo "left out, as ${MOET_TEST_SECONDS:-1380} s were over: ${left[*]} (scripts/test.sh ${left[*]} runs them)"
[ ${#failures[@]} -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "took $((SECONDS - began)) s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
