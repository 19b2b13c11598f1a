#!/usr/bin/env bash
# Takes NCCL EP and the NCCL that it is made for from PyPI, once, into a folder that can be carried to a machine without
# network: for one architecture, compressed.
#   scripts/nccl_ep_pack.sh OUT_DIR [ARCH]        ARCH: 90 (default), 100, ...; needs python3 with pip, and xz
# There:
#   . OUT_DIR/unpack.sh [TO]                      into TO (default: a new folder in TMPDIR), and sets the environment
set -euo pipefail
out=${1:?usage: $0 OUT_DIR [ARCH]} arch=${2:-90}
# The pair that nccl-extensions itself asks for in its extra cu13.
packages="nccl-extensions==0.1.0 nvidia-nccl-cu13==2.30.7"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
# shellcheck disable=SC2086
${PYTHON:-python3} -m pip download -q --no-deps --only-binary=:all: -d "$work" $packages
for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/all"; done
tree=$work/nccl_ep
mkdir -p "$tree/lib" "$tree/nccl" "$tree/ep/lib"
# Code of other architectures is zeroed: the library is the same, and as large, but compresses to a tenth.
cat >"$work/slim.py" <<'PY'
import struct, sys

source, target, keep = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = bytearray(open(source, "rb").read())
(table,) = struct.unpack_from("<Q", data, 0x28)
size, count, names = struct.unpack_from("<HHH", data, 0x3A)
sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
text = sections[names][4]
kept = 0
for name, _, _, _, at, length in sections:
    label = data[text + name : data.index(0, text + name)]
    if label not in (b".nv_fatbin", b"__nv_relfatbin"):  # the latter is for linkers only
        continue
    end = at + length
    while at + 16 <= end:
        magic, _, head, body = struct.unpack_from("<IHHQ", data, at)
        if magic != 0xBA55ED50:
            at += 8
            continue
        entry, at = at + head, at + head + body
        while entry < at:
            kind, _, entry_head, entry_body = struct.unpack_from("<HHIQ", data, entry)
            (arch,) = struct.unpack_from("<I", data, entry + 28)
            if label == b".nv_fatbin" and kind == 2 and arch == keep:
                kept += entry_body
            else:
                data[entry + entry_head : entry + entry_head + entry_body] = bytes(entry_body)
            entry += entry_head + entry_body
if kept == 0:
    sys.exit(f"{source}: no code for architecture {keep}")
open(target, "wb").write(data)
PY
python3 "$work/slim.py" "$work/all/nvidia/nccl/lib/libnccl.so.2" "$tree/lib/libnccl.so.2" "$arch"
python3 "$work/slim.py" "$work/all/nccl/ep/lib/cu13/libnccl_ep.so" "$tree/lib/libnccl_ep.so.0" "$arch"
cp -r "$work/all/nvidia/nccl/include" "$tree/nccl/include"
cp -r "$work/all/nccl/ep/include" "$tree/ep/include"
cp "$work"/all/nccl_extensions-*.dist-info/licenses/LICENSE.txt "$tree/ep/"
cp "$work"/all/nvidia_nccl_cu13-*.dist-info/licenses/License.txt "$tree/nccl/"
tar -C "$work" -cJf "$out/nccl_ep.tar.xz" nccl_ep
cat >"$out/unpack.sh" <<'SH'
# Sourced: unpacks NCCL EP and says where its kernels' sources, NCCL's headers and the compiler are.
nccl_ep_to=${1:-$(mktemp -d)}
mkdir -p "$nccl_ep_to" && tar -C "$nccl_ep_to" -xJf "$(dirname "${BASH_SOURCE[0]}")/nccl_ep.tar.xz"
export NCCL_EP_HOME=$nccl_ep_to/nccl_ep/ep NCCL_HOME=$nccl_ep_to/nccl_ep/nccl
export NCCL_EP_JIT_CACHE_DIR=${NCCL_EP_JIT_CACHE_DIR:-$nccl_ep_to/cache}
export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}
export LD_LIBRARY_PATH=$nccl_ep_to/nccl_ep/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
SH
ls -l "$out"
