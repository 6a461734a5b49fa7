//! Contexts on a real processor: what is exclusive to one is out of the other's reach, and what they cost.

use crate::guest::{self, Op};
use crate::layout::{ANSWERS, MARK, REQUESTS, SECRET, STUB};
use crate::machine::{Cannot, Machine};
use crate::processor::{self, Left, Wrong};
use kvm_bindings::kvm_regs;
use std::sync::Arc;
use std::time::Instant;
use strongroom_guest::PAGE;
use strongroom_guest::kvm::{Desk, Limits, Privilege, Vcpu};
use strongroom_guest::page_table::{Context, Tables, shadowed};

/// How many contexts are made, to see what one costs.
const MANY: usize = 32;
/// How often contexts are switched from outside.
const SWITCHES: u32 = 2000;
/// How often the guest switches them.
const GUEST_SWITCHES: u32 = 4000;

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The owner of the secret read it.
    pub(crate) owner_reads: Result<(), String>,
    /// The other context faulted.
    pub(crate) other_faults: Result<(), String>,
    /// The page went from one to the other; not tried where KVM would not see it.
    pub(crate) moves: Option<Result<(), String>>,
    pub(crate) made: usize,
    /// Tables of a context, in pages.
    pub(crate) tables: usize,
    /// Of the monitor's memory, in bytes.
    pub(crate) state_bytes: usize,
    pub(crate) make_ns: u64,
    pub(crate) drop_ns: u64,
    pub(crate) switch_ns: u64,
    /// By the guest's kernel mode, where it runs here.
    pub(crate) guest_switch_ns: Result<u64, String>,
}

/// Tries it out. Processors 1 to 4 are used.
pub(crate) fn try_out(
    machine: &Machine,
    tables: &Tables<'_>,
    whole: &Context<'_, '_>,
) -> Result<Found, Cannot> {
    let page = PAGE as u64;
    let little = [(STUB, page), (REQUESTS, ANSWERS + page - REQUESTS)];
    let mut owner = whole.restricted_to(&little)?;
    let mut other = whole.restricted_to(&little)?;
    Machine::map_secret(&mut owner)?;
    let refused = tables
        .context()
        .map(|mut context| Machine::map_secret(&mut context))?;
    let mut first = machine.processor(1, &owner, Privilege::User, kvm_regs::default())?;
    let owner_reads = match read(machine, &mut first) {
        Ok(MARK) if refused.is_err() => Ok(()),
        Ok(MARK) => Err("a second context was given the page".to_owned()),
        found => Err(format!("{found:x?}")),
    };
    let mut second = machine.processor(2, &other, Privilege::User, kvm_regs::default())?;
    let other_faults = faulted(read(machine, &mut second));

    let moves = match shadowed() {
        true => None,
        false => Some(change_hands(machine, &mut first, &mut owner, &mut other)?),
    };

    let begin = Instant::now();
    let mut contexts = Vec::new();
    for _ in 0..MANY {
        contexts.push(whole.restricted_to(&little)?);
    }
    let make_ns = each(begin, MANY as u32);
    let state_bytes = owner.state_bytes();
    let begin = Instant::now();
    drop(contexts);
    let drop_ns = each(begin, MANY as u32);

    let regs = kvm_regs {
        rip: STUB + guest::SWITCH,
        rsi: owner.root(),
        rdi: other.root(),
        rcx: u64::from(GUEST_SWITCHES / 2),
        ..Default::default()
    };
    let mut vcpu = machine.processor(3, &owner, Privilege::Kernel, regs)?;
    let begin = Instant::now();
    let guest_switch_ns = match leave(machine, &mut vcpu) {
        Ok(()) => Ok(each(begin, GUEST_SWITCHES)),
        Err(wrong) => Err(wrong.to_string()),
    };
    let begin = Instant::now();
    for n in 0..SWITCHES {
        if n % 2 == 0 { &other } else { &owner }.switch(vcpu.fd())?;
    }
    let switch_ns = each(begin, SWITCHES);
    Ok(Found {
        owner_reads,
        other_faults,
        moves,
        made: MANY,
        tables: owner.tables(),
        state_bytes,
        make_ns,
        drop_ns,
        switch_ns,
        guest_switch_ns,
    })
}

/// The secret goes from one context to the other, while the first one's processor has it cached.
fn change_hands(
    machine: &Machine,
    first: &mut Vcpu,
    owner: &mut Context<'_, '_>,
    other: &mut Context<'_, '_>,
) -> Result<Result<(), String>, Cannot> {
    owner.unmap(SECRET, PAGE as u64)?;
    let early = Machine::map_secret(other);
    owner.flush([first.fd()])?;
    Machine::map_secret(other)?;
    let mut third = machine.processor(4, other, Privilege::User, kvm_regs::default())?;
    Ok(match read(machine, &mut third) {
        Ok(MARK) if early.is_err() => faulted(read(machine, first)),
        Ok(MARK) => Err("it was given away before the flush".to_owned()),
        found => Err(format!("the new owner: {found:x?}")),
    })
}

/// What a processor in user mode reads at the secret's address.
fn read(machine: &Machine, vcpu: &mut Vcpu) -> Result<u64, Wrong> {
    let mut regs = vcpu.fd().get_regs().map_err(register)?;
    regs.rip = STUB + guest::READ;
    regs.rdi = SECRET;
    vcpu.fd().set_regs(&regs).map_err(register)?;
    leave(machine, vcpu)?;
    Ok(vcpu.fd().get_regs().map_err(register)?.rbx)
}

fn register(error: kvm_ioctls::Error) -> Wrong {
    Wrong::Exit(format!("its registers: {error}"))
}

fn faulted(read: Result<u64, Wrong>) -> Result<(), String> {
    match read {
        Err(Wrong::Fault(_)) => Ok(()),
        Err(wrong) => Err(wrong.to_string()),
        Ok(found) => Err(format!("it read {found:#x}")),
    }
}

/// Runs until the stub's code says that it is done.
fn leave(machine: &Machine, vcpu: &mut Vcpu) -> Result<(), Wrong> {
    let desk = Desk::new(Arc::clone(&machine.ram), Limits::default());
    loop {
        match processor::leave(vcpu, &desk)? {
            Left::Interrupted => {}
            Left::By(Op::Tried) => return Ok(()),
            left => return Err(Wrong::Exit(format!("{left:?}"))),
        }
    }
}

fn each(begin: Instant, times: u32) -> u64 {
    (begin.elapsed() / times).as_nanos() as u64
}
