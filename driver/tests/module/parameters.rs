//! Memory that is no pool: each is refused with a reason in the log, and nothing is loaded.

use crate::load::{Log, Module, POOL};
use crate::object::state;

/// What is asked for, with which errno it is refused, and what the log says.
const REFUSED: [(&str, i32, &str); 16] = [
    ("", libc::EINVAL, "no pool"),
    ("pool=", libc::EINVAL, "no pool"),
    ("pool=1G", libc::EINVAL, "not understood"),
    ("pool=1G:", libc::EINVAL, "not understood"),
    ("pool=1G:64M;1536M:64M", libc::EINVAL, "not understood"),
    ("pool=1G:64Mx", libc::EINVAL, "not understood"),
    ("pool=memory", libc::EINVAL, "not understood"),
    // No whole block of 2 MiB in it.
    ("pool=1G:1M", libc::EINVAL, "not understood"),
    ("pool=1073745920:2M", libc::EINVAL, "not understood"),
    // Beyond all numbers.
    ("pool=0xffffffffffe00000:4M", libc::EINVAL, "not understood"),
    // The kernel's own: all, the end, the beginning of it.
    ("pool=512M:64M", libc::EBUSY, "is the kernel's own memory"),
    ("pool=960M:128M", libc::EBUSY, "is the kernel's own memory"),
    ("pool=1G:256M", libc::EBUSY, "is the kernel's own memory"),
    // Memory of devices, beyond all memory, one after a good one.
    ("pool=0xfd000000:2M", libc::ENXIO, "is no RAM"),
    ("pool=64G:64M", libc::ENXIO, "is no RAM"),
    ("pool=1G:192M,64G:64M", libc::ENXIO, "is no RAM"),
];

#[test]
fn what_is_no_pool_is_refused_with_its_reason_and_nothing_is_loaded() {
    let Some(module) = Module::alone() else {
        return;
    };
    module.unload().unwrap();
    let claimed = || {
        let map = std::fs::read_to_string("/proc/iomem").unwrap();
        map.contains("strongroom")
    };
    for (parameters, errno, reason) in REFUSED {
        let log = Log::from_now();
        assert_eq!(module.load(parameters), Err(errno), "{parameters}");
        let said = log.text();
        assert!(said.contains("strongroom: "), "{parameters}: {said}");
        assert!(said.contains(reason), "{parameters}: {said}");
        assert!(!std::fs::exists("/sys/module/strongroom").unwrap());
        assert!(!std::fs::exists("/dev/strongroom").unwrap());
        assert!(!claimed(), "{parameters}");
    }
    module.load(POOL).unwrap();
    assert!(claimed());
}

#[test]
fn ranges_that_overlap_are_refused() {
    let Some(module) = Module::alone() else {
        return;
    };
    module.unload().unwrap();
    for pool in [
        "pool=1G:64M,1G:64M",
        "pool=1G:64M,1056M:64M",
        "pool=1056M:64M,1G:64M",
    ] {
        let log = Log::from_now();
        assert_eq!(module.load(pool), Err(libc::EINVAL), "{pool}");
        let said = log.text();
        assert!(said.contains("overlaps another range of pool"), "{said}");
    }
    // Beside each other they may be, and more than 16 not.
    module.load("pool=1G:2M,1026M:2M").unwrap();
    assert_eq!(state("total"), 4 << 20);
    module.unload().unwrap();
    let many: Vec<String> = (0..17).map(|n| format!("{}M:2M", 1024 + 2 * n)).collect();
    let log = Log::from_now();
    let refused = module.load(&format!("pool={}", many.join(",")));
    assert_eq!(refused, Err(libc::EINVAL));
    assert!(log.text().contains("more than 16 ranges"));
    module.load(POOL).unwrap();
}

#[test]
fn what_is_not_aligned_is_cut_to_whole_blocks() {
    let Some(module) = Module::alone() else {
        return;
    };
    module.unload().unwrap();
    module.load("pool=1073745920:8M").unwrap();
    assert_eq!(state("total"), 6 << 20);
    let ranges = std::fs::read_to_string("/sys/class/misc/strongroom/ranges").unwrap();
    assert_eq!(ranges.trim(), "0x40200000-0x40800000");
    module.unload().unwrap();
    // Nobody gets more than all, and half unless told.
    for (percent, limit) in [("", 2), ("user_percent=100", 4), ("user_percent=1000", 4)] {
        module.load(&format!("pool=1G:4M {percent}")).unwrap();
        assert_eq!(state("user_limit"), limit << 20, "{percent}");
        module.unload().unwrap();
    }
    module.load(POOL).unwrap();
}

#[test]
fn parameters_of_the_wrong_kind_are_refused() {
    let Some(module) = Module::alone() else {
        return;
    };
    module.unload().unwrap();
    for parameters in ["user_percent=-1", "user_percent=x", "mode=70000"] {
        let refused = module.load(&format!("{POOL} {parameters}"));
        assert!(
            matches!(refused, Err(libc::EINVAL | libc::ERANGE)),
            "{parameters}: {refused:?}"
        );
    }
    module.load(POOL).unwrap();
}
