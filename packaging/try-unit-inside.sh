#!/bin/sh
# The part of try-unit.sh that runs inside the virtual machine.
set -u
failed=0
try() {
    what=$1
    shift
    if "$@" > /tmp/out 2>&1; then
        echo "ok: $what"
    else
        failed=1
        echo "FAILED: $what"
        tail -n 5 /tmp/out
    fi
}
property() { systemctl show --value -p "$1" liuta; }
fact() { curl -sf -H "Authorization: Bearer $token" "http://127.0.0.1:8080$1"; }
pid() { property MainPID; }
until_true() {
    for _ in $(seq 120); do
        "$@" && return 0
        sleep 2
    done
    return 1
}
stops_within() {
    began=$(date +%s)
    systemctl stop liuta
    [ $(($(date +%s) - began)) -le "$1" ] && [ "$(property Result)" = success ]
}
recorded() { find /var/lib/liuta/recordings/gate-1 -name '*.mp4' -size +10k | grep -q .; }
decoded() { fact /gate-1/frame.jpeg | head -c 2 | od -An -tx1 | grep -q 'ff d8'; }
loaded() { journalctl -u liuta | grep 'runs on cpu'; }
sandboxed() { fact /metrics | grep -q 'sandbox_info.*landlock="[0-9]*",seccomp="yes"'; }
groups_kept() {
    for group in video render; do
        grep '^Groups:' "/proc/$(pid)/status" | grep -qw "$(getent group "$group" | cut -d: -f3)" || return 1
    done
}
private() { ! find /var/lib/liuta /var/cache/liuta -type f -perm /077 | grep .; }
restarted() { old=$(pid); kill -STOP "$old"; until_true sh -c "[ \"\$(systemctl show --value -p MainPID liuta)\" != $old ]"; }
quiet() { ! journalctl -u liuta --no-pager | grep -iE "operation not permitted|permission denied|panicked"; }

echo "try-unit: $(uname -r), $(systemctl --version | head -n 1)"
systemctl start camera
sleep 2
try "starts and tells that it is ready" systemctl start liuta
try "its state is active" [ "$(property ActiveState)" = active ]
token=$(runuser -u liuta -- env CREDENTIALS_DIRECTORY=/run/credentials/liuta.service liuta token create --role admin)
try "records the camera, whose password is a credential" until_true recorded
# An emulated processor takes longer for a look than a worker may: a picture and a model's first inference, one by one.
try "decodes its picture in the worker" until_true decoded
try "runs a model" until_true loaded
try "the worker's sandbox is in force" sandboxed
try "keeps the groups of the decoders' devices" groups_kept
try "no core files" grep -q 'Max core file size *0 *0' "/proc/$(pid)/limits"
try "no capability" grep -q 'CapBnd:.0000000000000000' "/proc/$(pid)/status"
try "files are the service's alone" private
try "GStreamer's list of plug-ins is kept" until_true test -s /var/cache/liuta/gstreamer-1.0/registry.x86_64.bin
before=$(pid)
try "reloads" systemctl reload liuta
sleep 3
try "is the same process afterwards" [ "$(pid)" = "$before" ]
try "the journal has the reload" sh -c 'journalctl -u liuta | grep -q "configuration reloaded"'
try "nothing was refused to it" quiet
try "stops within 10 s" stops_within 10
try "starts again" systemctl start liuta
mkdir -p /run/systemd/system/liuta.service.d
printf '[Service]\nWatchdogSec=10\n' > /run/systemd/system/liuta.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart liuta
try "the watchdog ends one that hangs, and it is started again" restarted
systemctl status --no-pager liuta | head -n 12
journalctl -u liuta --no-pager -o cat | head -n 20
[ "$failed" = 0 ] && echo "try-unit: all well"
exit "$failed"
