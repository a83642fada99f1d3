#!/bin/busybox sh
# Level 1's first program: loads KVM, starts QEMU as the run's own file says, says with which status it ended, and powers off.
# The first two serial ports are QEMU's; what is said here goes to the third.
export PATH=/usr/local/bin:/usr/bin:/bin
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS2 2>&1
say() { echo "level 1: $*"; }

busybox cat /level-1/about
while read -r module; do
    case $module in
    */kvm_amd.ko | */kvm_intel.ko) busybox insmod "$module" nested=1 || say "$module does not load" ;;
    *) busybox insmod "$module" || say "$module does not load" ;;
    esac
done </level-1/modules
for parameter in /sys/module/kvm_amd/parameters/nested /sys/module/kvm_amd/parameters/npt \
    /sys/module/kvm_intel/parameters/nested /sys/module/kvm_intel/parameters/ept; do
    [ -r $parameter ] && say "${parameter#/sys/module/} is $(busybox cat $parameter)"
done

# Bytes go through as they are.
busybox stty -F /dev/ttyS0 raw -echo
busybox stty -F /dev/ttyS1 raw -echo
count=
if [ -e /run/lacuna/count ]; then
    busybox mount -t tracefs tracefs /sys/kernel/tracing
    count=/sys/kernel/tracing
    echo 32768 >$count/buffer_size_kb
    for event in kvm_exit kvm_pio kvm_nested_vmrun kvm_nested_vmenter kvm_nested_vmexit_inject; do
        [ -d $count/events/kvm/$event ] && echo 1 >$count/events/kvm/$event/enable
    done
fi
say "up after $(busybox cut -d ' ' -f 1 /proc/uptime) s"
busybox sh /run/lacuna/start >/dev/ttyS0
status=$?
case $status in
33 | 35 | 37 | 39) ;;
*) busybox dmesg | busybox tail -n 20 ;;
esac
if [ -n "$count" ]; then
    echo 0 >$count/tracing_on
    say "lost $(busybox awk '/overrun/ { lost += $2 } END { print lost + 0 }' $count/per_cpu/cpu*/stats) of the trace"
    busybox awk -f /level-1/count.awk $count/trace
fi
say "after $(busybox cut -d ' ' -f 1 /proc/uptime) s"
say "QEMU ended with status $status"
# What the serial ports have not sent by now would be lost.
busybox sleep 1
busybox poweroff -f
