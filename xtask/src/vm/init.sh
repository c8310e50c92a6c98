#!/bin/busybox sh
# The first process of the virtual machine. Runs the tests that /tests lists, says by lines on the second
# serial port what came of them, and switches the machine off.
/bin/busybox mkdir -p /bin /sbin
/bin/busybox --install -s
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
exec </dev/null >/dev/ttyS1 2>&1
for module in /modules/*.ko; do
    insmod "$module" || echo "vm: module $module failed"
done
ip link set lo up
export ENFORCER_BIN=/usr/bin/enforcer ENFORCER_NO_SKIP=1 HOME=/tmp
echo "vm: kernel $(uname -r)"
. /tests
echo "vm: end"
poweroff -f
