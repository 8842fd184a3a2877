#!/bin/sh
# Boots a Debian with systemd in a virtual machine and tries the unit there as an operator would: start, a camera
# recorded and decoded, a model loaded, reload, the watchdog, the worker's sandbox, the files' modes, stop. Needs root, the packages
# mmdebstrap, qemu-system-x86, e2fsprogs and ffmpeg, and what `make setup` built. Without virtualisation it takes about ten minutes.
set -eu
cd "$(dirname "$0")/.."
work=target/try-unit
root=$work/root
mkdir -p "$work"

if [ ! -e "$work/base.tar" ]; then
    echo "try-unit: fetching a Debian, once"
    mmdebstrap --quiet --variant=apt --aptopt='Acquire::Languages "none"' \
        --include=systemd,systemd-sysv,linux-image-cloud-amd64,initramfs-tools,curl,ca-certificates \
        --include=libgstreamer-plugins-base1.0-0,gstreamer1.0-plugins-base,gstreamer1.0-plugins-bad,gstreamer1.0-libav \
        bookworm "$work/base.part"
    mv "$work/base.part" "$work/base.tar"
fi
rm -rf "$root"
mkdir "$root"
tar -C "$root" --exclude './dev/*' -xf "$work/base.tar"
packaging/install.sh "$PWD/$root" >/dev/null
chroot "$root" useradd --system --groups video,render liuta
# Small, since an emulated processor decodes it.
ffmpeg -v error -nostdin -y -f lavfi -i testsrc2=size=320x180:rate=5:duration=20 -c:v libx264 -g 5 -bf 0 \
    -pix_fmt yuv420p "$root/srv/gate-1.mp4"
cat > "$root/etc/liuta/liuta.toml" <<'CONFIG'
[record]
min_free = "100MB"
[cameras.gate-1]
url = "rtsp://127.0.0.1:9554/gate-1"
username = "admin"
password = { credential = "gate-1" }
[cameras.gate-2]
url = "rtsp://127.0.0.1:9554/gate-1"
username = "admin"
password = { credential = "gate-1" }
scene = "school-gate"
CONFIG
chgrp -R "$(chroot "$root" id -g liuta)" "$root/etc/liuta"
chmod 750 "$root/etc/liuta"
echo watched > "$root/etc/gate-1.password"
chmod 600 "$root/etc/gate-1.password"
mkdir -p "$root/etc/systemd/system/liuta.service.d"
printf '[Service]\nLoadCredential=gate-1:/etc/gate-1.password\n' > "$root/etc/systemd/system/liuta.service.d/gate-1.conf"
cat > "$root/etc/systemd/system/camera.service" <<'UNIT'
[Service]
Environment=LIUTA_SIMULATE_PASSWORD=watched
ExecStart=/usr/bin/liuta simulate --listen 127.0.0.1:9554 --username admin gate-1=/srv/gate-1.mp4
UNIT
cat > "$root/etc/systemd/system/try.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/usr/bin/try-unit
ExecStopPost=/usr/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
UNIT
ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"
install -Dm755 packaging/try-unit-inside.sh "$root/usr/bin/try-unit"

rm -f "$work/disk"
mke2fs -q -t ext4 -d "$root" "$work/disk" 3G
accel=tcg,thread=multi
# A device alone is no promise: kernels without the processor's help have one too.
grep -qE '\b(vmx|svm)\b' /proc/cpuinfo && [ -w /dev/kvm ] && accel=kvm
timeout 1500 qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 2G -nographic -no-reboot \
    -kernel "$root"/boot/vmlinuz-* -initrd "$root"/boot/initrd.img-* \
    -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no systemd.mask=serial-getty@ttyS0.service lsm=landlock,lockdown,yama,integrity,bpf" \
    -drive "file=$work/disk,format=raw,if=virtio" -nic none < /dev/null | tee "$work/log"
grep -q '^try-unit: all well' "$work/log"
