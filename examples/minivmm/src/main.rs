//! A small virtual machine monitor on strongroom-guest.
//!
//! It boots a 64-bit guest program in private memory, exchanges messages with it through a ring in shared
//! pages, converts pages both ways at the guest's request while one device checks what
//! they hold and another reads whatever it can, and shows the receipt at the end.
//!
//! * [`options`]: the command line. * [`layout`]: where things are in guest memory.
//! * [`machine`]: memory, page tables, processors. * [`guest`]: the guest's program. * [`ring`]: messages.
//! * [`processor`]: runs the guest and answers it. * [`load`]: the devices.
//! * [`contexts`]: address spaces tried out. * [`report`]: what is said at the end.

mod contexts;
mod guest;
mod layout;
mod load;
mod machine;
mod options;
mod processor;
mod report;
mod ring;

use clap::Parser;
use kvm_bindings::kvm_regs;
use layout::{ANSWERS, PROGRAM, REQUESTS, STACK_END, STATE, STUB, TABLES, TABLES_LEN, WORK};
use load::{Device, Reads};
use machine::{Cannot, Machine, keeps_private};
use options::Options;
use processor::Bell;
use report::{Check, Outcome, Report};
use ring::Rings;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strongroom_guest::kvm::{self, Desk, Limits, Privilege};
use strongroom_guest::page_table::Tables;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(cannot) => {
            let _ = writeln!(std::io::stderr(), "minivmm: {cannot}");
            ExitCode::from(3)
        }
    }
}

/// All of it; whether all checks passed.
fn run(options: &Options) -> Result<bool, Cannot> {
    let machine = Machine::new(options.backing, (options.memory as usize) << 20)?;
    let mut metadata = vec![0; Tables::metadata_words(TABLES_LEN as usize)];
    let region = machine.region()?;
    let bytes = TABLES as usize..(TABLES + TABLES_LEN) as usize;
    let tables = Tables::new(region, bytes, machine.features()?, &mut metadata)?;
    machine.load()?;
    let context = machine.map(&tables)?;
    let found = contexts::try_out(&machine, &tables, &context)?;

    let regs = kvm_regs {
        rip: PROGRAM,
        rsp: STACK_END,
        rbp: REQUESTS,
        r12: ANSWERS,
        r13: STATE,
        r14: WORK,
        r15: STUB,
        ..Default::default()
    };
    let mut vcpu = machine.processor(0, &context, Privilege::User, regs)?;
    let rings = Rings::new(region, REQUESTS, ANSWERS)?;
    let limits = Limits {
        most: load::MOST_PAGES as u32,
        ..Limits::default()
    };
    let desk = Desk::new(Arc::clone(&machine.ram), limits);
    // All processors are there, and no register of theirs but the general ones changes any more.
    kvm::confine(&machine.memory, &machine.ram)?;
    let (bell, reads, stop) = (Bell::default(), Reads::default(), AtomicBool::new(false));
    let mut device = Device::new(region, &bell, &reads, rings);
    let interrupter = vcpu.interrupter();
    let begin = Instant::now();
    let length = Duration::from_secs(options.seconds.into());
    let (guest, talk, reader) = std::thread::scope(|scope| {
        let guest = scope.spawn(|| processor::run(&mut vcpu, &desk, &bell));
        let reader = scope.spawn(|| load::read_everything(region, &reads, &stop));
        scope.spawn(|| progress(begin, length, &reads, &stop));
        let talk = device.run(begin + length);
        stop.store(true, Ordering::Relaxed);
        if talk.is_err() {
            bell.stop();
            interrupter.interrupt();
        }
        (joined(guest.join()), outcome(talk), joined(reader.join()))
    });
    let counts = &device.counts;
    let never = "everything is shared with this backing";
    let claimed = |outcome| match keeps_private(region) {
        true => outcome,
        false => Outcome::Skipped(never),
    };
    let checks = vec![
        Check {
            name: "the guest ran to its end",
            result: passed(guest, || {
                format!(
                    "{} requests about pages",
                    bell.asked.load(Ordering::Relaxed)
                )
            }),
        },
        Check {
            name: "answers and pages are what they must be",
            result: passed(talk, || {
                format!("{} answers, {} shared pages", counts.messages, counts.shown)
            }),
        },
        Check {
            name: "a reader gets whole pages or none",
            result: passed(reader, || {
                format!("{} pages", reads.whole.load(Ordering::Relaxed))
            }),
        },
        Check {
            name: "private pages are out of the monitor's view",
            // A page that was in reach has ended the talk.
            result: claimed(match counts.out_of_reach {
                0 => Outcome::Failed("none was tried".to_owned()),
                tries => Outcome::Passed(format!("{tries} tries")),
            }),
        },
        Check {
            name: "a context reads its exclusive page",
            result: passed(found.owner_reads.clone(), String::new),
        },
        Check {
            name: "another context faults on it",
            result: passed(found.other_faults.clone(), String::new),
        },
        Check {
            name: "the page changes hands, and its first owner faults",
            result: match found.moves.clone() {
                Some(moves) => passed(moves, String::new),
                None => Outcome::Skipped("KVM shadows page tables on this host"),
            },
        },
    ];
    let report = Report {
        region,
        took: begin.elapsed(),
        counts,
        reads: &reads,
        bell: &bell,
        refused: &machine.refused,
        contexts: &found,
        checks,
    };
    let text = match options.json {
        true => report.json().to_string(),
        false => report.text(),
    };
    // Nobody may be listening any more; the exit status tells all the same.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(report.passed())
}

fn outcome<E: std::fmt::Display>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn joined<E: std::fmt::Display>(result: std::thread::Result<Result<(), E>>) -> Result<(), String> {
    match result {
        Ok(result) => outcome(result),
        Err(_) => Err("its thread panicked".to_owned()),
    }
}

fn passed(result: Result<(), String>, detail: impl FnOnce() -> String) -> Outcome {
    match result {
        Ok(()) => Outcome::Passed(detail()),
        Err(error) => Outcome::Failed(error),
    }
}

/// A line that changes once a second, on a terminal.
fn progress(begin: Instant, length: Duration, reads: &Reads, stop: &AtomicBool) {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        let pages = reads.whole.load(Ordering::Relaxed);
        let (at, end) = (begin.elapsed().as_secs(), length.as_secs());
        let _ = write!(err, "\r{at}/{end} s, {pages} pages read ");
        let _ = err.flush();
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = write!(err, "\r\x1b[K");
}
