//! Text for people: aligned columns, colours on terminals alone.

use std::io::{self, Write};

/// Writes rows in aligned columns; the first is the head.
pub fn table(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "  {}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Text that others wrote, such that it does not steer the terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// An error and its causes, but for those that it names itself.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// A word in colour, if colours are wanted.
pub fn paint(text: &str, color: Color, wanted: bool) -> String {
    if wanted {
        format!("\x1b[{}m{text}\x1b[0m", color as u8)
    } else {
        text.to_owned()
    }
}

/// The colours in use (ECMA-48, SGR).
#[derive(Clone, Copy)]
pub enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::anyhow;

    use super::*;
    use crate::{admin::AdminError, agent::RunError};

    #[test]
    fn each_cause_is_said_once() {
        let taken = AdminError::Listen {
            what: "admin",
            address: ([127, 0, 0, 1], 9600).into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let said = with_causes(&RunError::from(taken).into());
        assert_eq!(said.matches("in use").count(), 1, "{said}");
        assert!(said.ends_with("`ss -ltnp` names who has the port"), "{said}");
        let outer = anyhow!("no route").context("no agent answers");
        assert_eq!(with_causes(&outer), "no agent answers: no route");
    }
}
