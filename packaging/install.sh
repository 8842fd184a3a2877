#!/bin/sh
# Installs what `make setup` built: binaries, ONNX Runtime, models, profiles, the unit and a first configuration.
set -eu
cd "$(dirname "$0")/.."
to=${1:-}
install -Dm755 -t "$to/usr/bin" target/release/liuta target/release/liuta-vision
install -Dm644 -t "$to/usr/lib/liuta" target/onnxruntime/libonnxruntime.so
install -Dm644 -t "$to/usr/share/liuta/models" models/*.toml models/*.onnx
install -Dm644 -t "$to/usr/share/liuta/hw-profiles" hw-profiles/*.toml
install -Dm644 -t "$to/usr/share/doc/liuta" README.md README.zh-CN.md LICENSE-MIT LICENSE-APACHE docs/security.md
install -Dm644 -t "$to/usr/lib/systemd/system" packaging/systemd/liuta.service
[ -e "$to/etc/liuta/liuta.toml" ] || install -Dm640 -t "$to/etc/liuta" config/liuta.toml
echo "installed below ${to:-/}; next: useradd --system --groups video,render liuta; chown root:liuta /etc/liuta/liuta.toml; edit /etc/liuta/liuta.toml, systemctl enable --now liuta"
