//! Progress for people: plain lines, with colour only on a terminal.

use std::{
    io::{IsTerminal as _, stdout},
    time::Instant,
};

/// Where progress goes.
#[derive(Debug)]
pub struct Screen {
    started: Instant,
    colour: bool,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    Plain,
    Strong,
    Good,
    Bad,
}

impl Default for Screen {
    fn default() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            started: Instant::now(),
            colour: wanted && stdout().is_terminal(),
        }
    }
}

impl Screen {
    /// Says what begins now.
    pub fn step(&self, what: &str) {
        println!(
            "[{:5.1} s] {}",
            self.started.elapsed().as_secs_f64(),
            self.paint(what, Tone::Strong)
        );
    }

    /// Says what has been achieved.
    pub fn done(&self, what: &str) {
        println!(
            "[{:5.1} s] {}",
            self.started.elapsed().as_secs_f64(),
            self.paint(what, Tone::Good)
        );
    }

    /// A line of a result.
    pub fn line(&self, text: &str, tone: Tone) {
        println!("{}", self.paint(text, tone));
    }

    fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Bad => "31;1",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
