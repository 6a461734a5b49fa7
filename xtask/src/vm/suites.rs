//! What a TEST on the command line stands for.

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
    pub(super) work: Work,
}

/// A name of jobs.
struct Suite {
    name: &'static str,
    jobs: &'static [(&'static str, User, &'static str, &'static str)],
    /// Test targets, with what root does before.
    tests: &'static [(&'static str, &'static str, &'static str)],
}

/// Yama as Debian has it, and as it is where it guards. A kernel without has no such file.
const SCOPE_0: &str =
    "[ ! -e /proc/sys/kernel/yama ] || echo 0 > /proc/sys/kernel/yama/ptrace_scope";
const SCOPE_1: &str = "echo 1 > /proc/sys/kernel/yama/ptrace_scope";

/// Root can make every attack: one that was skipped is noted. But memory that is no heap's has no
/// pointer to free twice, and an emulated clock does not tell what is cached.
const EVERYTHING: &str = "\
set -o pipefail
strongroom attack | tee /tmp/table || exit
grep -E '^[a-z-]+ +[A-Z].* skipped' /tmp/table | grep -vE '^(overflow-double|cache) ' | while read -r row; do echo \"attack: $row\" >> $STRONGROOM_SKIP_LOG; done
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

const SUITES: [Suite; 7] = [
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
    },
    Suite {
        name: "swap",
        jobs: &[("swap, under pressure", User::Root, SCOPE_0, UNDER_PRESSURE)],
        tests: &[],
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
    },
    Suite {
        name: "limit",
        jobs: &[
            ("the limit, as root", User::Root, SCOPE_0, LIMIT),
            ("the limit, as a user", User::Ordinary, SCOPE_0, LIMIT),
        ],
        tests: &[],
    },
    Suite {
        name: "driver",
        jobs: &[],
        tests: &[("strongroom-driver", "device", SCOPE_0)],
    },
    Suite {
        name: "probe",
        jobs: &[],
        tests: &[
            ("strongroom-probe", "direct_map", SCOPE_0),
            ("strongroom-probe", "inject", SCOPE_0),
            ("strongroom-probe", "residue", SCOPE_0),
        ],
    },
];

/// The jobs of the tests that were named, in their order.
///
/// # Errors
/// Where one is no name of a suite and not CRATE/TARGET.
pub(super) fn jobs(tests: &[String]) -> Result<Vec<Job>, String> {
    let mut jobs = Vec::new();
    for test in tests {
        if let Some(suite) = SUITES.iter().find(|suite| suite.name == test) {
            jobs.extend(suite.jobs.iter().map(|&(name, user, before, script)| Job {
                name: name.to_owned(),
                user,
                before,
                work: Work::Script(script.to_owned()),
            }));
            jobs.extend(
                suite
                    .tests
                    .iter()
                    .map(|(package, target, before)| tested(package, target, before)),
            );
        } else if let Some((package, target)) = test.split_once('/') {
            jobs.push(tested(package, target, SCOPE_0));
        } else {
            let names: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
            return Err(format!(
                "there is no suite `{test}`: {}, sh, or CRATE/TARGET for a test of a crate",
                names.join(", ")
            ));
        }
    }
    Ok(jobs)
}

fn tested(package: &str, target: &str, before: &'static str) -> Job {
    let scope = if before == SCOPE_1 {
        ", with ptrace_scope 1"
    } else {
        ""
    };
    Job {
        name: format!("{package}/{target}{scope}"),
        user: User::Root,
        before,
        work: Work::Tests(TestTarget {
            package: package.to_owned(),
            target: target.to_owned(),
        }),
    }
}
