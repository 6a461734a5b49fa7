//! What address spaces of the guest cost: memory, making, dropping, switching.

use crate::conversions::machine;
use crate::rounds::{Rounds, Row, time};
use core::hint::black_box;
use kvm_ioctls::Kvm;
use std::time::Instant;
use strongroom_guest::backing::Plain;
use strongroom_guest::page_table::{Access, Context, Features, Sharing, Tables, shadowed};
use strongroom_guest::{GuestRegion, PAGE};

const LEN: usize = 64 << 20;
/// Tables are in the first megabytes, everything else above.
const POOL: usize = 8 << 20;
const MANY: usize = 128;
/// What a restricted context maps: a page of code, three of data and a large page.
const CODE: u64 = POOL as u64;
const DATA: u64 = CODE + 0x1_0000;
const LARGE: u64 = 32 << 20;

pub(crate) fn measure(rounds: &Rounds) {
    let region = GuestRegion::new(0, Plain::new(LEN).unwrap()).unwrap();
    let mut metadata = vec![0; Tables::metadata_words(POOL)];
    let features = Features {
        shadowed: shadowed(),
        ..Features::default()
    };
    let tables = Tables::new(&region, 0..POOL, features, &mut metadata).unwrap();
    let mut whole = tables.context().unwrap();
    let (code, data) = (Access::EXECUTE | Access::USER, Access::WRITE | Access::USER);
    for (start, end, access) in [(CODE, CODE + PAGE as u64, code), (DATA, LEN as u64, data)] {
        whole
            .map(start, start..end, access, Sharing::Common)
            .unwrap();
    }
    let little = [
        (CODE, PAGE as u64),
        (DATA, 3 * PAGE as u64),
        (LARGE, 2 << 20),
    ];
    let make = || whole.restricted_to(&little).unwrap();
    let one = make();
    let pages = one.tables();
    rounds.alone("tables of a context", "B", || (pages * PAGE) as f64);
    rounds.alone("monitor's memory of a context", "B", || {
        one.state_bytes() as f64
    });

    // Its tables, written as plain memory is: one after the other, from zero.
    let mut plain = vec![0u64; MANY * pages * PAGE / 8];
    let mut dropped = Vec::new();
    rounds.compare(
        Row {
            what: "a context made",
            peer: "writing its tables",
            unit: "µs",
        },
        || {
            let mut made: Vec<Context<'_, '_>> = Vec::with_capacity(MANY);
            let each = time(MANY, |_| made.push(make())) / 1e3;
            let begin = Instant::now();
            drop(made);
            dropped.push(begin.elapsed().as_secs_f64() * 1e6 / MANY as f64);
            each
        },
        || {
            let mut at = plain.chunks_mut(pages * PAGE / 8);
            time(MANY, |n| {
                black_box(at.next().unwrap()).fill(n as u64);
            }) / 1e3
        },
    );
    let mut dropped = dropped.into_iter();
    rounds.alone("a context dropped", "µs", || dropped.next().unwrap());

    let Ok(kvm) = Kvm::new() else {
        return rounds.note("Switches were not measured: there is no KVM.");
    };
    let machine = machine(&kvm, 0).unwrap();
    region.place(&machine).unwrap();
    let vcpu = machine.vm().create_vcpu(0).unwrap();
    one.switch(&vcpu).unwrap();
    let other = make();
    let roots = [one.root(), other.root()];
    rounds.short(
        "a switch by the monitor",
        "KVM_GET_SREGS and KVM_SET_SREGS",
        |n| [&one, &other][n % 2].switch(&vcpu).unwrap(),
        |n| {
            let mut registers = vcpu.get_sregs().unwrap();
            registers.cr3 = roots[n % 2];
            vcpu.set_sregs(&registers).unwrap();
        },
    );
    rounds.note("What a guest's own kernel pays for a switch is printed by `examples/minivmm`.");
}
