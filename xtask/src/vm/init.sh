#!/bin/busybox sh
# Process 1 of the guest: prepares what the tests use, runs them, and says what came of them.
# The console is ttyS0, for the kernel alone. Tests write to ttyS1. There too, in lines that begin
# with this run's token, go the statuses.
/bin/busybox mount -t proc proc /proc
# Programs of their own are in /usr/bin, which comes first.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export HOME=/root TERM=dumb
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null && echo +memory > /sys/fs/cgroup/cgroup.subtree_control
ln -s /proc/self/fd /dev/fd
hostname guest
ip link set lo up 2>/dev/null

. /etc/vm/settings

# In the order in which they need each other.
for module in /lib/modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module" || echo "init: $module is not loaded" >/dev/console
done

# The driver, where this run has it, on the memory that the command line sets aside for it.
if [ -e /lib/strongroom/strongroom.ko ]; then
    insmod /lib/strongroom/strongroom.ko pool=1G:192M,1536M:64M mode=0666 ||
        echo "init: the driver is not loaded" >/dev/console
fi

# Disks by their serial numbers: the order of their names is the kernel's own.
for disk in /sys/block/vd*; do
    [ -e "$disk" ] || continue
    device=/dev/${disk##*/}
    case $(cat "$disk/serial") in
    swap) mkswap "$device" >/dev/null && swapon "$device" || echo "init: no swap" >/dev/console ;;
    scratch) mke2fs "$device" >/dev/null 2>&1 && mount "$device" /var/tmp && chmod 1777 /var/tmp && rmdir /var/tmp/lost+found ||
        echo "init: no disk below /var/tmp" >/dev/console ;;
    esac
done
ulimit -c 0
ulimit -H -c unlimited
ulimit -l "$memlock"

stty -F /dev/ttyS1 raw -echo
record() {
    echo
    echo "$token $*"
}
uptime() { cut -d' ' -f1 /proc/uptime; }
seconds() { cut -d. -f1 /proc/uptime; }

if [ -e /etc/vm/shell ]; then
    stty -F /dev/ttyS1 sane
    echo "A shell of the guest's; it ends with this shell. strongroom is there." >/dev/ttyS1
    setsid -c sh -i </dev/ttyS1 >/dev/ttyS1 2>&1
    record end >/dev/ttyS1
else
    : >/run/skips
    chmod 666 /run/skips
    record up "$(uptime)" >/dev/ttyS1
    for job in /etc/vm/jobs/*; do
        number=${job##*/}
        start=$(seconds)
        {
            record begin "$number"
            # The pipe has the status of its other end: this one comes by a file. What a job leaves
            # running holds the pipe, and is a hang.
            sh "$job/before" </dev/null
            if [ $? != 0 ]; then
                echo "init: what comes before it failed"
                echo 1 >/run/status
            elif [ -e "$job/ordinary" ]; then
                # By its path: busybox's shell has a lesser one of its own.
                /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups sh "$job/run" </dev/null
                echo $? >/run/status
            else
                sh "$job/run" </dev/null
                echo $? >/run/status
            fi
        } 2>&1 | cat >/dev/ttyS1
        {
            while read -r line; do record skip "$number" "$line"; done </run/skips
            : >/run/skips
            record status "$number" "$(cat /run/status)" $(($(seconds) - start))
            rm -f /run/status
        } >/dev/ttyS1
    done
    record end "$(uptime)" >/dev/ttyS1
fi
# Where kmemleak is on, memory that nothing points at is told on the console. Twice, as what it saw
# once may still change, and not before the youngest is 5 seconds old.
if echo scan 2>/dev/null >/sys/kernel/debug/kmemleak; then
    sleep 6
    echo scan >/sys/kernel/debug/kmemleak
fi
# What was written waits in the serial port's buffer.
stty -F /dev/ttyS1 drain 2>/dev/null || sleep 0.2
poweroff -f
