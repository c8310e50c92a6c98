//! The `lab` command: the demo, the lab itself, and its services for trying by hand.

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::{
    cleanup,
    topology::{Lab, NEIGHBOURS},
};

#[derive(Debug, Parser)]
#[command(version, about = "A node with neighbours in network namespaces")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the namespaces, waits for Ctrl-C, removes them.
    Up,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up => up(),
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
