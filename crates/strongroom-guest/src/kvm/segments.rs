//! Segment registers of a processor that starts in 64-bit mode.

use kvm_bindings::{kvm_segment, kvm_sregs};

/// What a processor may do at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Ring 3, which runs at full speed on every host.
    User,
    /// Ring 0.
    Kernel,
}

/// Sets the segment registers of a processor to flat 64-bit code and data, and its task to the 64-bit TSS at the linear
/// address `task`, whose last byte is `limit` bytes after it. There are no descriptor tables: a fault is a triple fault, and
/// ends KVM_RUN. Control registers and EFER stay as they are.
///
/// Source: Intel SDM volume 3, 3.4.5 and 8.2 (types of segments); KVM's struct kvm_segment (arch/x86/include/uapi/asm/kvm.h).
pub fn segments(sregs: &mut kvm_sregs, privilege: Privilege, task: u64, limit: u32) {
    let (dpl, code, data) = match privilege {
        Privilege::User => (3, 0x33, 0x2b),
        Privilege::Kernel => (0, 0x10, 0x18),
    };
    let segment = |selector, type_| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // Code, readable, accessed; data, writable, accessed.
    sregs.cs = kvm_segment {
        l: 1,
        ..segment(code, 11)
    };
    let data = kvm_segment {
        db: 1,
        ..segment(data, 3)
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: task,
        limit,
        selector: 0x40,
        // A 64-bit TSS, busy.
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.idt.limit = 0;
    sregs.gdt.limit = 0;
}
