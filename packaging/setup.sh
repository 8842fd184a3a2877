#!/bin/sh
# Installs what liuta is built from and runs on: Debian packages, and ONNX Runtime's shared library out of its PyPI
# wheel. Safe to run again: what is there is left alone. `setup.sh test` adds what only the tests need, `setup.sh fuzz`
# what the fuzzer is built with.
#
# Mirrors are those that apt, pip and cargo are configured with (sources.list, PIP_INDEX_URL, CARGO_*).
set -eu
cd "$(dirname "$0")/.."

base="gcc make pkg-config python3 python3-pip unzip ca-certificates
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
# RTSP cameras (gst-rtsp-server driven from Python), reference decoders and clients, numpy references.
test="ffmpeg gstreamer1.0-tools gstreamer1.0-plugins-ugly gstreamer1.0-rtsp
    python3-gi gir1.2-gst-rtsp-server-1.0 python3-numpy iproute2 systemd libfaketime"

wanted=$base
[ "${1:-}" = test ] && wanted="$base $test"
[ "${1:-}" = fuzz ] && wanted="$base g++"

missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run this as root, or install sudo, or install:$missing" >&2; exit 1; }
        root=sudo
    fi
    echo "setup: installing$missing"
    $root apt-get update -qq
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

command -v cargo >/dev/null || { echo "setup: Rust is missing; install it as https://rustup.rs tells, then run this again" >&2; exit 1; }

# The same library lies in the wheel of every Python version; which Python runs here does not matter.
version=1.32.0
case "$(uname -m)" in
    x86_64) hash=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d ;;
    aarch64) hash=2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c ;;
    *) echo "setup: no ONNX Runtime wheel for $(uname -m); put its library where [vision] onnxruntime says" >&2; hash="" ;;
esac
library=target/onnxruntime/libonnxruntime.so
if [ -n "$hash" ] && [ "$(cat target/onnxruntime/wheel.sha256 2>/dev/null)" != "$hash" ]; then
    echo "setup: fetching ONNX Runtime $version"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "onnxruntime==$version --hash=sha256:$hash" > "$work/pinned.txt"
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        --platform "manylinux_2_28_$(uname -m)" --require-hashes -r "$work/pinned.txt" -d "$work"
    mkdir -p target/onnxruntime
    unzip -q -o -j "$work"/*.whl "onnxruntime/capi/libonnxruntime.so.$version" onnxruntime/LICENSE \
        onnxruntime/ThirdPartyNotices.txt -d target/onnxruntime
    mv "target/onnxruntime/libonnxruntime.so.$version" "$library"
    echo "$hash" > target/onnxruntime/wheel.sha256
fi

# What the API is tested with, beside the system's Python and never in it.
if [ "${1:-}" = test ] && ! cmp -s packaging/schemathesis.txt target/schemathesis/pinned.txt; then
    echo "setup: fetching schemathesis"
    rm -rf target/schemathesis
    python3 -m pip install -q --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        -r packaging/schemathesis.txt --target target/schemathesis
    cp packaging/schemathesis.txt target/schemathesis/pinned.txt
fi
