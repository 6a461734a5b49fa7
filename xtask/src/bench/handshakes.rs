//! TLS handshakes of `openssl s_server`.

use super::process::{Service, must_be_protected, number, output, processor_time, wait_for};
use super::report::Group;
use super::samples::Side;
use super::{Bench, Result, served};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

const METHOD: &str = "\
A plain and a protected `openssl s_server` serve at the same time. `xtask/bench-programs/handshake.c`, unprotected, makes full TLS 1.3 \
handshakes with each in turns over loopback; a handshake is from `connect` until the server has closed. Time is the median \
by the clock; *processor* is the mean of what the server itself used.";

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
                .args([
                    "req",
                    "-x509",
                    "-nodes",
                    "-subj",
                    "/CN=localhost",
                    "-newkey",
                ])
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
        must_be_protected(servers[1].service.pid())?;
        let sides = servers
            .each_ref()
            .map(|server| -> Side<'_, _> { Box::new(|| turn(&client, server)) });
        rows.extend(served::compare(
            &format!("s_server, {what}"),
            bench.rounds,
            sides,
        )?);
    }
    Ok(Group {
        plot: None,
        title: "Handshakes",
        method: METHOD,
        rows,
        notes: Vec::new(),
    })
}

/// Milliseconds a handshake: by the clock, and of the server's processor time.
fn turn(client: &Path, server: &Server) -> Result<[f64; 2]> {
    let used = processor_time(server.service.pid())?;
    let mut client = Command::new(client);
    let clock = number(client.args([server.port.to_string(), HANDSHAKES.to_string()]))?;
    let used = processor_time(server.service.pid())? - used;
    Ok([clock, used / 1e6 / f64::from(HANDSHAKES)])
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
