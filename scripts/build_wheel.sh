#!/usr/bin/env bash
# One wheel of bindings/python with libmoet inside: libmoet.so.0, its host kernels, and what these need of cJSON, OpenBLAS
# and OpenMP. It runs on any Linux machine of this architecture whose C library is no older than the newest symbol that
# the libraries use; the wheel's name says which. Tried in a clean virtual environment at the end.
#
#   scripts/build_wheel.sh [OUT_DIR]      default: dist/; MOET_PYTHON names the interpreter (default python3)
#
# Needs pip and setuptools, which pip fetches if it has a network.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
python=${MOET_PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "build_wheel: $*" >&2; exit 1; }
command -v readelf >/dev/null || fail "readelf is missing: apt install binutils"
"$python" -c 'import pip, venv' 2>/dev/null || fail "$python has no pip or venv: apt install python3-pip python3-venv"

build=${MOET_WHEEL_BUILD:-build-wheel}
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON >"$work/log" 2>&1 &&
    cmake --build "$build" -j "$(nproc)" --target moet moet_host >>"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "libmoet did not build"; }

cp -r bindings/python "$work/package"
package=$work/package/moe_tune
rm -rf "$package"/__pycache__ "$work/package"/build "$work/package"/*.egg-info
mkdir -p "$package/lib" "$package/licenses"
cp LICENSE "$package/licenses/moe-tune.txt"
cp -L "$build/libmoet.so.0" "$build/libmoet_host.so" "$package/lib/"
DESTDIR=$work/stage cmake --install "$build" --component bundle --prefix /usr >>"$work/log" 2>&1 ||
    fail "the libraries that libmoet loads were not found: $(tail -n 2 "$work/log")"
find "$work/stage" -path '*/licenses/*' -type f -exec cp {} "$package/licenses/" \;
find "$work/stage/usr/lib" -name '*.so*' -type f -exec cp {} "$package/lib/" \;
strip --strip-unneeded "$package"/lib/*.so* 2>/dev/null || true
minor=$(readelf -V "$package"/lib/*.so* | grep -o 'GLIBC_2\.[0-9]*' | sed 's/.*\.//' | sort -n | tail -n 1)
MOET_WHEEL_PLATFORM=manylinux_2_${minor}_$(uname -m) "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$work/package" >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; fail "pip wheel failed"; }
wheel=$(ls "$work"/dist/*.whl)
cp "$wheel" "$out/"

# A clean environment: no NumPy, no library path, no build.
"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet --no-deps --no-index "$wheel"
cd "$work"
env -u MOET_LIBRARY -u PYTHONPATH -u LD_LIBRARY_PATH "$work/clean/bin/python" - <<'EOF' || fail "the wheel does not work in a clean environment"
import moe_tune
table = moe_tune.open(None, "host")
plan = table.gemm("up", experts=4, hidden=64, inter=32, max_rows=16)
assert plan.query([3, 0, 5, 2]).hit == "default"
from moe_tune import _library
assert "/clean/" in _library.lib._name, _library.lib._name
print("works:", table.device_key)
EOF
echo "$out/$(basename "$wheel")"
