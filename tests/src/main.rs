//! The `lab` command: the demo, the lab itself, and its services for trying by hand.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::{
    bench, cleanup,
    demo::{self, Options},
    fuzz,
    issuer::{self, Issuer},
    resident::Resident,
    topology::{Lab, NEIGHBOURS},
    upstream::Upstream,
};

#[derive(Debug, Parser)]
#[command(version, about = "A node with neighbours in network namespaces")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the lab: requests, then floods, then a table of what happened.
    #[command(after_help = "Example: lab demo --keep")]
    Demo {
        /// Leave the lab running until Ctrl-C, and say what can be tried by hand.
        #[arg(long)]
        keep: bool,
        /// Write the results as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Random and mutated packets through the kernel's parser, each compared with a second parser.
    #[command(after_help = "Example: lab fuzz --packets 10000000 --seed 7")]
    Fuzz {
        #[arg(long, value_name = "N", default_value_t = 10_000_000)]
        packets: u64,
        /// The same seed makes the same packets.
        #[arg(long, value_name = "S", default_value_t = 1)]
        seed: u64,
    },
    /// Measures what the halves can do.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// The bare forwarder that the gateway's benchmark has as its floor.
    #[command(hide = true)]
    Forward {
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
        #[arg(long, value_name = "ADDRESS")]
        origin: SocketAddr,
        /// With `server.pem`, `server-key.pem` and `ca.pem`.
        #[arg(long, value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Makes the namespaces, waits for Ctrl-C, removes them.
    #[command(after_help = "Example: lab up")]
    Up,
    /// An OAuth2 issuer with one client.
    #[command(after_help = "Example: lab issuer --listen 127.0.0.1:9700 &\n  \
                      curl -u shop:secret -d grant_type=client_credentials http://127.0.0.1:9700/token")]
    Issuer {
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9700")]
        listen: SocketAddr,
        /// The `iss` claim; the listening address if absent.
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
        /// The `aud` claim.
        #[arg(long, default_value = "orders")]
        audience: String,
        #[arg(long, value_name = "ID", default_value = "shop")]
        client: String,
        #[arg(long, default_value = "secret")]
        secret: String,
        /// What the client may ask for; may be repeated.
        #[arg(long = "scope", value_name = "SCOPE", default_value = "orders:read")]
        scopes: Vec<String>,
    },
    /// An upstream that says who it is and what it was asked.
    #[command(after_help = "Example: lab upstream --listen 127.0.0.1:8080 --name a")]
    Upstream {
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        #[arg(long, default_value = "upstream")]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Packets per second beside an empty program, nftables and iptables; nanoseconds by stage; memory.
    #[command(after_help = "Example: lab bench kernel --json kernel.json")]
    Kernel {
        /// Write the results as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write a chart as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// Rounds, of which medians are taken.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only these rows, beside the empty program's: one_limit, everything, generic, nftables, iptables.
        #[arg(long, value_name = "ROWS", value_delimiter = ',')]
        only: Vec<String>,
        /// How long each cell is measured in each round.
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 1_000)]
        milliseconds: u64,
    },
    /// Processor time per request, rates, latencies and memory beside nginx, HAProxy, Envoy and Caddy.
    #[command(
        after_help = "Example: lab bench gateway --peers target/tools/peers --only enforcer,nginx --cases http1"
    )]
    Gateway {
        /// Write the results as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Write a chart as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// Rounds, of which medians are taken.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only these: floor, enforcer, nginx, haproxy, envoy, caddy.
        #[arg(long, value_name = "PROXIES", value_delimiter = ',')]
        only: Vec<String>,
        /// Only these: http1, http2, handshake, resumed, down_64k, down_1m, up_64k, up_1m, cold_token.
        #[arg(long, value_name = "CASES", value_delimiter = ',')]
        cases: Vec<String>,
        /// Idle connections at which memory is measured; zero for none.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        idle: usize,
        /// Slow connections, which stand with the idle ones beside a busy client; zero for none.
        #[arg(long, value_name = "N", default_value_t = 2_000)]
        slow: usize,
        /// Folder with the peers' programs.
        #[arg(long, value_name = "FOLDER", default_value = "target/tools/peers")]
        peers: PathBuf,
    },
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo { keep, json } => {
            let passed = demo::run(&Options { keep, json })?;
            return Ok(if passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Fuzz { packets, seed } => {
            let outcome = fuzz::run(packets, seed, &mut |line| eprintln!("{line}"))?;
            print!("{outcome}");
        }
        Command::Bench { what } => measure(what)?,
        Command::Forward {
            listen,
            origin,
            folder,
        } => bench::gateway::floor::run(&bench::gateway::floor::Settings {
            listen,
            origin,
            folder,
        })?,
        Command::Up => up()?,
        Command::Issuer {
            listen,
            issuer,
            audience,
            client,
            secret,
            scopes,
        } => {
            let settings = issuer::Settings {
                issuer: issuer.unwrap_or_else(|| format!("http://{listen}")),
                audience,
                clients: vec![issuer::Client {
                    id: client,
                    secret,
                    scopes,
                }],
            };
            let issuer = Issuer::start(Resident::start_here("issuer")?, settings)?;
            wait(issuer.listen(listen, None)?)?;
        }
        Command::Upstream { listen, name } => {
            let upstream = Upstream::start(Resident::start_here("upstream")?, listen, &name)?;
            wait(upstream.address())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(what: Bench) -> Result<()> {
    match what {
        Bench::Kernel {
            json,
            plot,
            rounds,
            only,
            milliseconds,
        } => bench::kernel::run(&bench::kernel::Options {
            json,
            plot,
            rounds,
            only,
            each: Duration::from_millis(milliseconds),
        }),
        Bench::Gateway {
            json,
            plot,
            rounds,
            only,
            cases,
            idle,
            slow,
            peers,
        } => bench::gateway::run(&bench::gateway::Options {
            json,
            plot,
            rounds,
            only,
            cases,
            idle,
            slow,
            peers,
        }),
    }
}

fn up() -> Result<()> {
    let lab = Lab::create()?;
    let interrupts = cleanup::interrupts();
    println!("node: nsenter --net={}", lab.node().path().display());
    for neighbour in NEIGHBOURS {
        println!(
            "{}: nsenter --net={}",
            neighbour.name(),
            lab.neighbour(neighbour).path().display()
        );
    }
    println!("ready; Ctrl-C removes everything");
    interrupts.recv()?;
    Ok(())
}

fn wait(address: SocketAddr) -> Result<()> {
    cleanup::on_signals();
    let interrupts = cleanup::interrupts();
    println!("listening on {address}; Ctrl-C ends it");
    interrupts.recv()?;
    Ok(())
}
