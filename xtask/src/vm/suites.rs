//! What a TEST on the command line stands for.

use super::kernel::Choice;
use super::on_driver;
use super::programs::TestTarget;

/// Who runs a job in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Root,
    /// Number 1000, without any privilege.
    Ordinary,
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Lines for the guest's shell.
    Script(String),
    /// A test program, with the arguments of the command line.
    Tests(TestTarget),
}

/// One thing that is run, and has a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// A word or two, for people.
    pub(super) name: String,
    pub(super) user: User,
    /// Lines that root runs before it.
    pub(super) before: &'static str,
    /// Variables, as the shell exports them.
    pub(super) variables: &'static str,
    pub(super) work: Work,
    pub(super) needs: Needs,
}

/// What a job needs of the guest, beside what every one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Kernel modules, with those that they need themselves. A kernel that has them built in has no such.
    pub(super) modules: &'static [&'static str],
    /// Programs of this workspace, by their packages' names.
    pub(super) programs: &'static [&'static str],
    /// Programs of this machine.
    pub(super) host: &'static [&'static str],
    /// NUMA nodes, at least.
    pub(super) nodes: u32,
}

/// A name of jobs.
struct Suite {
    name: &'static str,
    jobs: &'static [(&'static str, User, &'static str, &'static str)],
    /// Test targets, with what root does before.
    tests: &'static [(&'static str, &'static str, &'static str)],
    needs: Needs,
}

pub(super) const NOTHING: Needs = Needs {
    modules: &[],
    programs: &[],
    host: &[],
    nodes: 1,
};

/// Yama as Debian has it, and as it is where it guards. A kernel without has no such file.
const SCOPE_0: &str =
    "[ ! -e /proc/sys/kernel/yama ] || echo 0 > /proc/sys/kernel/yama/ptrace_scope";
const SCOPE_1: &str = "echo 1 > /proc/sys/kernel/yama/ptrace_scope";

/// Root can make every attack: one that was skipped is noted. But memory that is no heap's has no
/// pointer to free twice, and an emulated clock does not tell what is cached. Guests need KVM, which comes by
/// `--module kvm-amd`, and each kernel has some of their backings only: their control is what must run.
const EVERYTHING: &str = "\
set -o pipefail
strongroom attack | tee /tmp/table || exit
[ -e /dev/kvm ] && kvm=1 || kvm=0
awk -v kvm=$kvm '/^attack / { guests = /guest-plain/ } !/^[a-z-]+ +[A-Z].* skipped/ || /^(overflow-double|cache) / { next } !guests || (kvm && $3 == \"skipped\")' /tmp/table | while read -r row; do echo \"attack: $row\" >> $STRONGROOM_SKIP_LOG; done
rm /tmp/table";

/// Both of strongroom's receipts claim NoInject, and the attack on it is held.
const INJECT: &str = "\
strongroom attack --only inject || exit
strongroom attack --only inject --json > /tmp/inject.json || exit
claims=$(grep -c '\"claimed\": true' /tmp/inject.json)
rm /tmp/inject.json
echo \"claims of NoInject that were attacked: $claims\"
[ \"$claims\" = 2 ]";

/// While root pushes everything out that may be: the control group is told again and again to give
/// memory back, and not that of files.
const UNDER_PRESSURE: &str = "\
group=/sys/fs/cgroup/pressure
mkdir -p $group && echo $$ > $group/cgroup.procs || exit
( while sleep 1; do echo '64M swappiness=200' > $group/memory.reclaim; done 2>/dev/null ) &
pusher=$!
strongroom attack --only swap,free
status=$?
kill $pusher
grep -E '^(pswpin|pswpout) ' /proc/vmstat
exit $status";

/// A program that takes more memory than may be locked has its malloc fail, or gets all of it; so do
/// several that are beyond it together only. None is killed.
const LIMIT: &str = "\
ulimit -l 8192
check() {
    case $1 in
    0) echo \"$2: it got all\" ;;
    2) echo \"$2: its malloc failed\" ;;
    *) echo \"$2: exit status $1\"; failed=1 ;;
    esac
}
failed=0
for level in locked hidden; do
    strongroom run --level $level -- bash -c 'x=a; for i in {1..24}; do x=\"$x$x\"; done; exit 0'
    check $? \"16 MiB at $level\"
done
rm -f /tmp/hold-$$ /tmp/failed-$$
mkfifo /tmp/hold-$$
for i in 1 2 3 4 5 6; do
    ( strongroom run --level hidden -- bash -c 'x=a; for i in {1..19}; do x=\"$x$x\"; done; exec 3<>\"$0\"; read -t 15 -u 3; exit 0' /tmp/hold-$$
    status=$?
    [ $status = 0 ] || [ $status = 2 ] || echo \"process $i of 6: exit status $status\" | tee -a /tmp/failed-$$ ) &
done
wait
[ $failed = 0 ] && [ ! -e /tmp/failed-$$ ]";

/// The monitor on each backing that this kernel has, and on the driver's where that is loaded; by itself it takes the best one.
const MINIVMM: &str = "\
for backing in $STRONGROOM_BACKINGS plain $([ -c /dev/strongroom ] && echo driver-poison); do
    minivmm --backing $backing || exit
    echo
done
minivmm --seconds 1 --json > /tmp/best.json || exit
best=$(grep -o '\"backing\":\"[a-z]*\"' /tmp/best.json)
rm /tmp/best.json
echo \"of these, the best is $best\"
[ \"$best\" = '\"backing\":\"'${STRONGROOM_BACKINGS%% *}'\"' ]";

const SUITES: [Suite; 9] = [
    Suite {
        name: "attack",
        jobs: &[
            ("attack as root", User::Root, SCOPE_0, EVERYTHING),
            (
                "attack as a user",
                User::Ordinary,
                SCOPE_0,
                "strongroom attack",
            ),
        ],
        tests: &[],
        needs: NOTHING,
    },
    Suite {
        name: "yama",
        jobs: &[
            (
                "with ptrace_scope 1, inject as a user",
                User::Ordinary,
                SCOPE_1,
                INJECT,
            ),
            (
                "with ptrace_scope 1, inject as root",
                User::Root,
                SCOPE_1,
                INJECT,
            ),
        ],
        tests: &[
            ("strongroom-cli", "start_window", SCOPE_0),
            ("strongroom-cli", "start_window", SCOPE_1),
        ],
        needs: NOTHING,
    },
    Suite {
        name: "swap",
        jobs: &[("swap, under pressure", User::Root, SCOPE_0, UNDER_PRESSURE)],
        tests: &[],
        needs: NOTHING,
    },
    Suite {
        name: "doctor",
        jobs: &[
            ("doctor as root", User::Root, SCOPE_0, "strongroom doctor"),
            (
                "doctor as a user",
                User::Ordinary,
                SCOPE_0,
                "strongroom doctor",
            ),
        ],
        tests: &[],
        needs: NOTHING,
    },
    Suite {
        name: "limit",
        jobs: &[
            ("the limit, as root", User::Root, SCOPE_0, LIMIT),
            ("the limit, as a user", User::Ordinary, SCOPE_0, LIMIT),
        ],
        tests: &[],
        needs: NOTHING,
    },
    Suite {
        name: "driver-doctor",
        jobs: &[
            (
                "doctor, kept out",
                User::Ordinary,
                "chmod 660 /dev/strongroom && chgrp nogroup /dev/strongroom",
                on_driver::DOCTOR_KEPT_OUT,
            ),
            // It has the device be made anew.
            (
                "doctor on the driver",
                User::Root,
                SCOPE_0,
                on_driver::DOCTOR,
            ),
        ],
        tests: &[],
        needs: NOTHING,
    },
    Suite {
        name: "driver",
        jobs: &[
            (
                "run on the driver, as root",
                User::Root,
                SCOPE_0,
                on_driver::RUN,
            ),
            (
                "run on the driver, as a user",
                User::Ordinary,
                SCOPE_0,
                on_driver::RUN,
            ),
            (
                "attack on the driver, as root",
                User::Root,
                SCOPE_0,
                on_driver::ATTACK,
            ),
            (
                "attack on the driver, as a user",
                User::Ordinary,
                SCOPE_0,
                on_driver::USER_ATTACK,
            ),
        ],
        tests: &[
            ("strongroom-driver", "device", SCOPE_0),
            ("strongroom-driver", "kernel_logic", SCOPE_0),
            ("strongroom-driver", "outside", SCOPE_0),
            ("strongroom-driver", "module", SCOPE_0),
            ("strongroom-driver", "lent", SCOPE_0),
            ("strongroom-driver", "fuzz", SCOPE_0),
            ("strongroom", "fork", SCOPE_0),
            ("strongroom", "keepers", SCOPE_0),
            ("strongroom", "heap", SCOPE_0),
            ("strongroom-capi", "interface", SCOPE_0),
            ("strongroom-guest", "driver", SCOPE_0),
        ],
        needs: Needs {
            modules: &["kvm_amd"],
            host: &["cat", "ssh-keygen", "ssh-agent", "ssh-add"],
            nodes: 2,
            ..NOTHING
        },
    },
    Suite {
        name: "probe",
        jobs: &[],
        tests: &[
            ("strongroom-probe", "direct_map", SCOPE_0),
            ("strongroom-probe", "inject", SCOPE_0),
            ("strongroom-probe", "residue", SCOPE_0),
        ],
        needs: NOTHING,
    },
    Suite {
        name: "guest",
        jobs: &[("minivmm", User::Root, SCOPE_0, MINIVMM)],
        tests: &[
            ("strongroom-guest", "kvm", SCOPE_0),
            ("strongroom-guest", "conversion", SCOPE_0),
            ("strongroom-guest", "kernel_logic", SCOPE_0),
            ("strongroom-guest", "limits", SCOPE_0),
            ("strongroom-guest", "nothing_left", SCOPE_0),
            ("strongroom-guest", "confine", SCOPE_0),
            ("strongroom-guest", "placement", SCOPE_0),
            ("strongroom-guest", "read_only", SCOPE_0),
            ("strongroom-guest", "memory_error", SCOPE_0),
            ("strongroom-guest", "page_table", SCOPE_0),
            ("strongroom-guest", "vm_memory", SCOPE_0),
            // Not the storm: under QEMU's emulation of nested paging one of twenty runs ends in a processor's
            // shutdown, which no machine with KVM of its own has shown. By its name it runs here, too.
            ("minivmm", "minivmm", SCOPE_0),
        ],
        needs: GUESTS,
    },
];

/// Guests in the guest: QEMU's processor has AMD's virtualization.
const GUESTS: Needs = Needs {
    modules: &["kvm_amd"],
    programs: &["minivmm"],
    host: &[],
    nodes: 2,
};

/// The backings that a guest's memory can have with this kernel, best first: a test of guest memory that
/// does not find one of them fails. And its memory may be damaged.
const fn variables(kernel: Choice) -> &'static str {
    match kernel {
        Choice::Stock => "export STRONGROOM_MEMORY_ERRORS=1 STRONGROOM_BACKINGS='poison'",
        Choice::Built | Choice::Debug => {
            "export STRONGROOM_MEMORY_ERRORS=1 STRONGROOM_BACKINGS='attributes poison' STRONGROOM_LENDS=1 STRONGROOM_PTDUMP=1"
        }
    }
}

/// The jobs of the tests that were named, in their order.
///
/// # Errors
/// Where one is no name of a suite and not CRATE/TARGET.
pub(super) fn jobs(tests: &[String], kernel: Choice) -> Result<Vec<Job>, String> {
    let mut jobs = Vec::new();
    for test in tests {
        if let Some(suite) = SUITES.iter().find(|suite| suite.name == test) {
            jobs.extend(suite.jobs.iter().map(|&(name, user, before, script)| Job {
                name: name.to_owned(),
                user,
                before,
                variables: variables(kernel),
                work: Work::Script(script.to_owned()),
                needs: suite.needs,
            }));
            jobs.extend(
                suite
                    .tests
                    .iter()
                    .map(|(package, target, before)| tested(package, target, before, kernel)),
            );
        } else if let Some((package, target)) = test.split_once('/') {
            jobs.push(tested(package, target, SCOPE_0, kernel));
        } else {
            let names: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
            return Err(format!(
                "there is no suite `{test}`: {}, sh, CRATE/TARGET for a test of a crate, CRATE/bench:TARGET for a bench",
                names.join(", ")
            ));
        }
    }
    Ok(jobs)
}

/// The target of a test, or of `bench:TARGET` or `bench:TARGET:ARGUMENT:…`.
fn target_of(package: &str, target: &str) -> TestTarget {
    let (target, bench) = match target.strip_prefix("bench:") {
        None => (target, None),
        Some(rest) => {
            let (target, arguments) = rest.split_once(':').unwrap_or((rest, ""));
            (target, Some(arguments.replace(':', " ")))
        }
    };
    TestTarget {
        package: package.to_owned(),
        target: target.to_owned(),
        bench,
    }
}

fn tested(package: &str, target: &str, before: &'static str, kernel: Choice) -> Job {
    let scope = if before == SCOPE_1 {
        ", with ptrace_scope 1"
    } else {
        ""
    };
    // Alone or in its suite, it has the same.
    let known = |suite: &&Suite| {
        suite
            .tests
            .iter()
            .any(|test| (test.0, test.1) == (package, target))
    };
    let suite = SUITES.iter().find(known);
    Job {
        name: format!("{package}/{target}{scope}"),
        user: User::Root,
        before,
        variables: variables(kernel),
        needs: suite.map_or(NOTHING, |suite| suite.needs),
        work: Work::Tests(target_of(package, target)),
    }
}
