#!/usr/bin/env bash
# Installs what moe-tune needs to be built, and nothing that is there already. Debian 12 and Ubuntu 24.04.
#
#   scripts/install_deps.sh [--test]     --test: also what scripts/test.sh needs
#
# A CUDA toolkit is not installed: where its headers are found, the build has CUDA.
set -euo pipefail

# package | the file or program that shows it is there | what for
needs() {
    cat <<'EOF'
gcc|cc|compiles everything
make|make|builds
cmake|cmake|builds
libcjson-dev|/usr/include/cjson/cJSON.h|reads and writes tables and workloads
libsqlite3-dev|/usr/include/sqlite3.h|the store of trials
libminizip-dev|/usr/include/minizip/unzip.h|reads .npz files (verify --against)
zlib1g-dev|/usr/include/zlib.h|unpacks them
libopenblas-dev|/usr/lib/*/libopenblas.so.0 /usr/lib*/libopenblas.so.0|the host_blas kernels
EOF
    [ "${1:-}" = --test ] || return 0
    cat <<'EOF'
g++|c++|compiles kernels that are emulated
pkg-config|pkg-config|tests the .pc file
python3|python3|reads databases and JSON in tests
python3-numpy|/usr/lib/python3/dist-packages/numpy|tests of the Python package
python3-pip|/usr/lib/python3/dist-packages/pip|installs it in a test
python3-setuptools|/usr/lib/python3/dist-packages/setuptools|builds it there
python3-wheel|/usr/lib/python3/dist-packages/wheel|builds it there
binutils|readelf|tests what the libraries need
libcmocka-dev|/usr/include/cmocka.h|unit tests
clang|clang|second compiler, fuzzing
libclang-rt-dev|/usr/lib/*/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a /usr/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a|fuzzing and sanitizers of clang
libomp-dev|/usr/lib/llvm-*/lib/libomp.so /usr/lib/*/libomp.so|OpenMP of clang
gcovr|gcovr|line coverage
openmpi-bin|mpirun|expert parallelism over MPI
gnuplot-nox|gnuplot|draws pictures (moe-tune plot)
EOF
}

is_there() { # file patterns or a program
    local pattern
    for pattern in $1; do
        case $pattern in
        /*) [ -e "$pattern" ] && return 0 ;;
        *) command -v "$pattern" >/dev/null 2>&1 && return 0 ;;
        esac
    done
    return 1
}

missing=()
while IFS='|' read -r package shows purpose; do
    if ! is_there "$shows"; then
        echo "missing: $package ($purpose)"
        missing+=("$package")
    fi
done < <(needs "$@")
# A browser that opens reports in a test, where it is a plain package (Ubuntu has a snap): the test does without.
browser() {
    [ "${1:-}" = --test ] && ! is_there chromium && apt-cache show chromium >/dev/null 2>&1 || return 0
    # What is slow may be ended, what installs may not.
    "${as_root[@]}" timeout 300 "${apt[@]}" install -y -q --download-only --no-install-recommends chromium >/dev/null &&
        "${as_root[@]}" "${apt[@]}" install -y -q --no-download --no-install-recommends chromium >/dev/null ||
        echo "install_deps: no chromium: reports will not be opened in a browser" >&2
}
apt=(apt-get -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120)
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
[ ${#missing[@]} -gt 0 ] || { browser "$@"; exit 0; }

if ! command -v apt-get >/dev/null; then
    echo "install_deps: this is no Debian or Ubuntu: please install what provides ${missing[*]}" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install_deps: not root and no sudo: run as root: apt-get install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" "${apt[@]}" update -q >/dev/null
"${as_root[@]}" "${apt[@]}" install -y -q --no-install-recommends "${missing[@]}" >/dev/null
browser "$@"
