//! What was seen.

use std::fmt;

/// Requests while one change was under way.
#[derive(Default)]
pub(super) struct Row {
    pub(super) what: String,
    /// Answered with 200, by protocol.
    pub(super) http1: usize,
    pub(super) http2: usize,
    /// New connections.
    pub(super) connections: usize,
    /// Requests that the gateway did not take, as it said, and that were answered on another connection.
    pub(super) moved: usize,
    /// Clients that the change is meant to refuse, and that were.
    pub(super) refused: usize,
}

/// All changes, in order.
#[derive(Default)]
pub(super) struct Table(Vec<Row>);

impl Table {
    pub(super) fn add(&mut self, row: Row) {
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.0.iter().map(|row| row.what.len()).max().unwrap_or(0);
        let head = ["HTTP/1.1", "HTTP/2", "connections", "moved", "refused", "failed"];
        write!(f, "{:widest$}", "change")?;
        head.iter().try_for_each(|name| write!(f, " {name:>11}"))?;
        for row in &self.0 {
            write!(f, "\n{:widest$}", row.what)?;
            // A single failure would have ended the test.
            for number in [row.http1, row.http2, row.connections, row.moved, row.refused, 0] {
                write!(f, " {number:>11}")?;
            }
        }
        Ok(())
    }
}
