#!/usr/bin/env bash
# Packs a build folder for a GPU machine that has no compiler: moe-tune, the tests, the libraries, stripped, in one archive
# of some MB. There, with this source tree beside it (scripts/gpu_test.sh and gpu_results.sh need no more):
#
#   scripts/gpu_pack.sh BUILD_DIR pack.tar.xz               here, after a build with tests
#   mkdir build && tar -xf pack.tar.xz -C build             there
#   scripts/gpu_test.sh build
set -euo pipefail
if [ $# != 2 ]; then
    sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3-
    exit 2
fi
BUILD=$(cd "$1" && pwd)
[ -x "$BUILD/moe-tune" ] && [ -x "$BUILD/test_bits" ] && [ -d "$BUILD/testlib" ] ||
    { echo "gpu_pack: $BUILD has no moe-tune, test_bits or testlib: build with tests (libcmocka-dev)" >&2; exit 1; }
mkdir -p "$(dirname "$2")"
ARCHIVE=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir "$WORK/pack"
cd "$BUILD"
for file in moe-tune moe-tune-faulty test_* libmoet.so* libmoet_host.so testlib/*; do
    [ ! -d "$file" ] || continue # fakes of libraries serve machines without a GPU
    cp -P --parents "$file" "$WORK/pack"
    [ -L "$file" ] || strip "$WORK/pack/$file"
done
# What programs and libraries load, but for the C library's and the driver's own.
for file in moe-tune libmoet_host.so; do
    ldd "$file" | awk '$3 ~ "^/" { print $3 }' | grep -vE '/(libc|libm|libdl|libpthread|librt|libcuda|ld-linux[^/]*)\.so' || true
done | sort -u | while read -r library; do
    name=$(basename "$library")
    [ -e "$WORK/pack/testlib/$name" ] || cp -L "$library" "$WORK/pack/testlib/$name"
done
# Programs share most of their code: one dictionary over all of them keeps it once.
tar --sort=name -C "$WORK/pack" -c . | xz -T1 --lzma2=preset=1,dict=64MiB >"$WORK/packed"
mv "$WORK/packed" "$ARCHIVE"
echo "$ARCHIVE: $(($(stat -c %s "$ARCHIVE") / 1000)) kB, of $(du -sm "$WORK/pack" | cut -f1) MB" >&2
