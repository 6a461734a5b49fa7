//! What is run on the kernel driver's memory: lines for the guest's shell.

/// What is claimed of the driver's memory is attacked, and held: a line for each. The clock of an emulated
/// processor does not tell what is cached, and memory that is no heap's has no pointer to free twice.
pub(super) const ATTACK: &str = "\
[ -c /dev/strongroom ] || exit
attack() {
    least=$1
    shift
    strongroom attack \"$@\" --json > /tmp/attack-$$ || { echo \"attack $*: exit status $?\"; failed=1; }
    awk -F'\"' -v least=$least -v log_=$STRONGROOM_SKIP_LOG '
    /^      \"name\": / { victim = $4 }
    /^          \"attack\": / { attack = $4 }
    /^          \"claimed\": / { claimed = /true/ }
    /^          \"result\": / { result = $4 }
    /^          \"detail\": / && victim ~ /^strongroom-(driver|uncached|huge|hidden|region|guest-driver|guest-driver-poison)$/ {
        printf \"%-32s%-16s%-8s %s%s\\n\", victim, attack, result, claimed ? \"\" : \"(not claimed) \", $4
        if (!claimed) next
        claims[victim]++
        if (result == \"held\") next
        if (result == \"leaked\" || attack !~ /^(cache|overflow-double)$/) bad++
        print \"attack: \" attack \" on \" victim \": only elsewhere: \" $4 >> log_
    }
    END {
        for (v in claims) { print v \": \" claims[v] \" attacks on what is claimed\"; victims++ }
        exit bad || victims < least
    }' /tmp/attack-$$ || { echo 'not all was attacked and held'; failed=1; }
    rm /tmp/attack-$$
}
failed=0
# A few at a time, so that what came of them is seen as it comes.
for some in pin,core fork,free overflow,cache peek,fd directmap,residue swap; do
    attack 5 --level hidden --only $some
done
if [ -e /dev/kvm ]; then attack 2 --only vmm; else echo 'attack: guests: no KVM' >> $STRONGROOM_SKIP_LOG; fi
exit $failed";

/// The same, as far as an ordinary user can.
pub(super) const USER_ATTACK: &str =
    "strongroom attack --level hidden --only peek,fd,pin,core,fork,free";

/// Real programs, whose memory is the driver's: a key is made, an agent that forked holds it and signs, and a
/// shell's children have copies of their own.
pub(super) const RUN: &str = "\
place=/tmp/run-$$
mkdir -m 700 $place && cd $place || exit
maps() { grep -c ' /dev/strongroom$' /proc/$1/maps; }
strongroom run --level hidden --receipt receipt -- ssh-keygen -q -t ed25519 -N '' -C '' -f key || exit
cat receipt
grep -q '\"keeper\":\"driver\",\"kept\":{\"driver\":' receipt || exit
ssh-keygen -y -f key > public && cut -d' ' -f1,2 key.pub | diff - public || exit
strongroom run --level hidden --no-new-privs -- ssh-agent -s -a socket > agent && . ./agent || exit
ssh-add -q key && ssh-add -T key.pub && { [ \"$(id -u)\" != 0 ] || [ \"$(maps $SSH_AGENT_PID)\" != 0 ]; }
status=$?
kill $SSH_AGENT_PID
[ $status = 0 ] || exit
said=$(strongroom run --level hidden -- bash -c 'x=one; y=$(x=two; echo $x | cat); ( x=three; kill -9 $BASHPID ); echo $x $y') || exit
[ \"$said\" = 'one two' ]";

/// What doctor says of the driver: with a program that holds memory, and after the module was taken away.
pub(super) const DOCTOR: &str = "\
look() { strongroom doctor --json > /tmp/doctor-$$; }
has() {
    awk -v name=$1 '$1 == \"\\\"check\\\":\" { on = $2 == \"\\\"\" name \"\\\",\" } on' /tmp/doctor-$$ > /tmp/part-$$
    grep -q \"$2\" /tmp/part-$$ || { echo \"no $2 in $1:\"; cat /tmp/part-$$; exit 1; }
}
mkfifo /tmp/hold-$$
strongroom run --level hidden -- bash -c 'exec 3<>\"$0\"; read -u 3; exit 0' /tmp/hold-$$ &
while [ \"$(cat /sys/class/misc/strongroom/held)\" = 0 ]; do sleep 0.1; done
strongroom doctor || exit
look
has driver-module '\"status\": \"ok\"'
has driver-access '\"status\": \"ok\"'
has driver-pool '\"total\": 268435456'
has driver-holders \"\\\"pid\\\": $!,\"
echo > /tmp/hold-$$
wait
rmmod strongroom || exit
strongroom doctor
look
has driver-module '\"loaded\": false'
has driver-module 'memmap=192M.1G'
has driver 'no-driver'
rm /tmp/hold-$$ /tmp/doctor-$$ /tmp/part-$$
insmod /lib/strongroom/strongroom.ko pool=1G:192M,1536M:64M mode=0666";

/// Who may not open the device learns why, and which group could.
pub(super) const DOCTOR_KEPT_OUT: &str = "\
strongroom doctor
strongroom doctor --json > /tmp/doctor-$$
grep -c '\"reason\": \"driver-not-permitted\"' /tmp/doctor-$$
grep 'usermod -aG nogroup' /tmp/doctor-$$ && rm /tmp/doctor-$$";
