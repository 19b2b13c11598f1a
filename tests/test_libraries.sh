#!/usr/bin/env bash
# Each library that is loaded at run time: absent, too old, lacking one function. What needs it says so and names the
# remedy; the rest works. The libraries of this test are small ones put first in LD_LIBRARY_PATH.
. "$(dirname "$0")/lib.sh"
CC=${CC:-cc}
command -v "$CC" >/dev/null || { echo "no compiler: skipped"; exit 77; }

# MOET_TEST_QUICK leaves out what sweeps on the host, for builds in which that is slow.
QUICK=${MOET_TEST_QUICK:-}
if [ -z "$QUICK" ]; then
    small_sweep --db good.db >/dev/null 2>&1 || fail "the sweep this test needs"
    "$MOE" emit --db good.db --out table >/dev/null 2>&1 || fail "the table this test needs"
else
    mkdir table && cp "$SOURCE/tests/corpus/table/host.json" table/table.json
fi

# fake SONAME [C text]: a library of this name with these functions, in fake/
fake() {
    mkdir -p fake
    printf '%s\n' "${2:-int moet_nothing;}" >fake.c
    "$CC" -shared -fPIC -Wl,-soname,"$1" -o "fake/$1" fake.c || fail "building a fake $1"
}
with_fake() { LD_LIBRARY_PATH=$WORK/fake:${LD_LIBRARY_PATH:-} "$@"; }
clear_fakes() { rm -rf fake; }
# A file of this name that is no library: as good as absent, wherever else one lies.
absent() {
    mkdir -p fake
    for soname in "$@"; do echo "not a library" >"fake/$soname"; done
}

host_libraries() {
    # ---- libmoet_host.so: beside the program, so a copy of the build is made ----
    mkdir copy
    cp "$MOE" copy/
    mkdir -p copy/testlib
    SEVERAL_LINES=1 expect 1 "libmoet_host.so" copy/moe-tune sweep --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 --db x.db
    expect 0 "" copy/moe-tune show --db good.db # what does not need it works
    expect 0 "" copy/moe-tune doctor --no-measure --device host
    printf 'int moet_nothing;\n' >fake.c
    "$CC" -shared -fPIC -o copy/libmoet_host.so fake.c
    rm -f x.db*
    SEVERAL_LINES=1 expect 1 "moet_host_module" copy/moe-tune sweep --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 --db x.db
    printf 'const struct { int version; void *functions[32]; } moet_host_module = {9999, {0}};\n' >fake.c
    "$CC" -shared -fPIC -o copy/libmoet_host.so fake.c
    rm -f x.db*
    SEVERAL_LINES=1 expect 1 "interface 9999" copy/moe-tune sweep --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 --db x.db
    rm -rf copy

    # ---- OpenBLAS: host_blas is refused with the reason, host_tile serves ----
    for kind in absent hollow; do
        clear_fakes
        if [ $kind = absent ]; then absent libopenblas.so.0 libopenblasp.so.0; else fake libopenblas.so.0; fi
        rm -f x.db*
        expect 0 "OpenBLAS" with_fake "$MOE" sweep --device host --families host_blas --workloads small.jsonl --ops up --rounds 3 --db x.db
        with_fake "$MOE" bench --device host --default --workloads small.jsonl --ops up --rounds 3 >out 2>err
        is "bench without OpenBLAS ($kind)" $? 0
        holds "bench without OpenBLAS ($kind)" out '"config":"host_tile'
        with_fake "$MOE" doctor --no-measure --device host >out 2>err
        is "doctor without OpenBLAS ($kind)" $? 0
        holds "doctor without OpenBLAS ($kind)" out "OpenBLAS"
    done
}
[ -n "$QUICK" ] || host_libraries

# ---- libcjson: libmoet needs it to open a table, and for nothing else ----
if [ -x "$BUILD/moet-example" ]; then
    clear_fakes
    [ -n "$QUICK" ] || expect 0 "" "$BUILD/moet-example" table
    absent libcjson.so.1
    expect 1 "libcjson" with_fake "$BUILD/moet-example" table
    expect 0 "" with_fake "$BUILD/moet-example"
    clear_fakes
    fake libcjson.so.1
    expect 1 "cJSON_ParseWithLengthOpts" with_fake "$BUILD/moet-example" table
    clear_fakes
    fake libcjson.so.1 'void *cJSON_ParseWithLengthOpts(void) { return 0; }'
    expect 1 "cJSON_Delete" with_fake "$BUILD/moet-example" table
fi

# ---- CUDA: the driver and what stands on it. Without CUDA in the build there is nothing to bind. ----
clear_fakes
"$MOE" bench --device cuda --default --workloads small.jsonl >out 2>err
if grep -q "this build has no CUDA" err; then
    echo "the build has no CUDA: its libraries are not tried"
    finish
    exit
fi
use_cuda() { with_fake "$MOE" bench --device cuda --default --workloads small.jsonl; }
absent libcuda.so.1
expect 1 "no cuda device or driver" use_cuda
clear_fakes
fake libcuda.so.1
"${MOE}" --version >/dev/null
expect 1 "cuda" use_cuda
with_fake "$MOE" doctor --no-measure >out 2>err
is "doctor with a hollow driver" $? 0
holds "doctor with a hollow driver" out "cuInit"
with_fake "$BUILD/test_conformance" --list --device auto >out 2>err
is "auto with a hollow driver takes the host" $? 0
holds "auto with a hollow driver" out "host_tile"
# A driver with every function that says: no device; and one that is broken.
functions=$(grep -oE '\bX\(cu[A-Za-z0-9_]+\)' "$SOURCE/src/cuda_api.h" | sed 's/X(//;s/)//')
driver() { # result of cuInit, [function to leave out]
    {
        for f in $functions; do
            for name in "$f" "${f}_v2" "${f}_v3" "${f}_v4" "${f}_ptsz"; do
                [ "$name" = "${2:-}" ] || [ "$f" = "${2:-}" ] || echo "int $name(void) { return $1; }"
            done
        done
        printf "int %s(void) { return $1; }\n" cuEventElapsedTime cuProfilerStart cuProfilerStop
    } | sort -u >driver.c
    fake libcuda.so.1 "$(cat driver.c)"
}
driver 100
expect 1 "no cuda device or driver" use_cuda
driver 999
expect 1 "does not start" use_cuda
driver 34
expect 1 "no cuda device or driver" use_cuda
driver 0 cuGraphLaunch
expect 1 "cuGraphLaunch" use_cuda
clear_fakes

# NVRTC, without a GPU: test_compile compiles a kernel with whatever libnvrtc it finds.
compile() { MOET_TEST_COMPILE=none with_fake "$BUILD/test_compile"; }
absent libnvrtc.so.13 libnvrtc.so.12
compile >out 2>&1
is "without NVRTC (skipped, says why)" $? 0
if ! ls /usr/local/cuda/lib64/libnvrtc.so.1[23] >/dev/null 2>&1; then holds "without NVRTC" out "NVRTC"; fi
clear_fakes
fake libnvrtc.so.13
compile >out 2>&1
holds "a hollow NVRTC" out "nvrtc"
clear_fakes
nvrtc() { # major minor
    fake libnvrtc.so.13 "int nvrtcVersion(int *a, int *b) { *a = $1; *b = $2; return 0; }
const char *nvrtcGetErrorString(int r) { return \"fake\"; }
$(for f in CreateProgram DestroyProgram CompileProgram GetProgramLogSize GetProgramLog GetCUBINSize GetCUBIN; do
        [ $f = "${3:-}" ] || echo "int nvrtc$f(void) { return 1; }"
    done)"
}
nvrtc 11 8
compile >out 2>&1
holds "an old NVRTC" out "NVRTC 11.8 found"
nvrtc 13 0 GetCUBIN
compile >out 2>&1
holds "NVRTC without one function" out "nvrtcGetCUBIN"
clear_fakes

# cuBLASLt, cuBLAS, NVML: doctor names each with what it costs.
for library in libcublasLt libcublas; do
    clear_fakes
    fake $library.so.13
    fake $library.so.12
    with_fake "$MOE" doctor --no-measure >out 2>err
    is "doctor with a hollow $library" $? 0
done
finish
