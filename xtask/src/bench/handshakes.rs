//! TLS handshakes of `openssl s_server`.

use super::process::{Service, number, output, processor_time, wait_for};
use super::report::{Group, Row, Target};
use super::samples::{Samples, progress};
use super::{Bench, Result};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

const METHOD: &str = "\
A plain and a protected `openssl s_server` serve at the same time. `xtask/bench-programs/handshake.c`, unprotected, makes full TLS 1.3 \
handshakes with each in turns over loopback; a handshake is from `connect` until the server has closed, and *processor* is \
what the server itself used.";

/// How many times as long a handshake may take.
const MOST: f64 = 1.05;
const HANDSHAKES: u32 = 150;

pub(super) fn measure(bench: &Bench) -> Result<Group> {
    let client = bench
        .workshop
        .compile("handshake", "handshake", &["-lssl", "-lcrypto"])?;
    let directory = bench.workshop.directory("tls")?;
    let mut rows = Vec::new();
    for (kind, what) in [
        (&["rsa:2048"][..], "RSA-2048"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "P-256"),
    ] {
        let certificate = directory.join(what);
        output(
            Command::new("openssl")
                .args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-newkey"])
                .args(kind)
                .arg("-keyout")
                .arg(&certificate)
                .arg("-out")
                .arg(certificate.with_extension("pem")),
        )?;
        let servers = [
            Server::start(bench.workshop.plain("openssl"), &certificate)?,
            Server::start(bench.workshop.protected("openssl"), &certificate)?,
        ];
        compare(bench, &client, what, &servers, &mut rows)?;
    }
    Ok(Group {
        title: "Handshakes",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}

fn compare(
    bench: &Bench,
    client: &Path,
    what: &str,
    servers: &[Server; 2],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let turn = |server: &Server| -> Result<[f64; 2]> {
        let used = processor_time(server.service.pid())?;
        let mut client = Command::new(client);
        let clock = number(client.args([server.port.to_string(), HANDSHAKES.to_string()]))?;
        let used = processor_time(server.service.pid())? - used;
        Ok([clock, used / 1e6 / f64::from(HANDSHAKES)])
    };
    let rounds = bench.rounds.max(21);
    let what = format!("s_server, {what}");
    let mut samples: [[Samples; 2]; 2] = Default::default();
    for server in servers {
        turn(server)?;
    }
    for round in 0..rounds {
        progress(&what, round, rounds);
        for step in 0..2 {
            let side = step ^ (round % 2);
            for (samples, time) in samples[side].iter_mut().zip(turn(&servers[side])?) {
                samples.0.push(time);
            }
        }
    }
    progress(&what, rounds, rounds);
    let [[their_clock, their_processor], [our_clock, our_processor]] = samples;
    let row = |what: String, theirs, ours, target| Row {
        what,
        peer: "plain",
        unit: "ms",
        theirs,
        ours,
        target,
    };
    rows.push(row(what.clone(), their_clock, our_clock, Target::Times(MOST)));
    rows.push(row(
        format!("{what}, processor"),
        their_processor,
        our_processor,
        Target::None,
    ));
    Ok(())
}

struct Server {
    service: Service,
    port: u16,
}

impl Server {
    fn start(mut openssl: Command, certificate: &Path) -> Result<Self> {
        // A port that was free a moment ago.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        openssl
            .args(["s_server", "-www", "-quiet", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-key")
            .arg(certificate)
            .arg("-cert")
            .arg(certificate.with_extension("pem"));
        let service = Service::start(&mut openssl)?;
        wait_for("openssl s_server", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        })?;
        Ok(Self { service, port })
    }
}
