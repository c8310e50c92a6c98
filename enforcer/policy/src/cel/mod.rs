//! Conditions in the Common Expression Language (CEL): parsed and checked when policies load, so that a request
//! only walks a small tree that cannot be wrong.
//!
//! The grammar is the `cel` crate's; what it means here is said by `check`. See ADR 0015.

mod check;
mod functions;
mod names;
mod spelling;

use std::{sync::Arc, thread};

use cel::parser::Parser;

use enforcer_model::condition::Condition;

/// The longest expression, in bytes.
const LONGEST: usize = 2048;
/// The most nodes of an expression.
const MOST_NODES: usize = 256;
/// The most brackets that may be open at once; the parser needs up to 80 KiB of stack for each.
const MOST_BRACKETS: usize = 64;
/// How deep operators may nest.
const DEEPEST: u16 = 48;
/// The stack that the parser gets, in bytes.
const STACK: usize = 32 << 20;

/// What the rule asks for, and so what a condition may look at.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub token: bool,
    pub certificate: bool,
    pub api_key: bool,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, in characters from the beginning of the text.
    pub offset: usize,
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Fault {
    fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
            hint: None,
        }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// Parses and checks an expression.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn compile(text: &str, scope: Scope) -> Result<Condition, Fault> {
    if text.len() > LONGEST {
        return Err(Fault::new(
            0,
            format!("the condition is longer than {LONGEST} bytes"),
        ));
    }
    let brackets = text.char_indices().filter(|(_, c)| matches!(c, '(' | '[' | '{'));
    if let Some((_, (_, _))) = brackets.enumerate().nth(MOST_BRACKETS) {
        return Err(Fault::new(
            0,
            format!("the condition has more than {MOST_BRACKETS} opening brackets"),
        ));
    }
    // With a stack of its own: the parser recurses, and what calls this may have little.
    let parsed = thread::scope(|threads| {
        let parse = || parse_and_check(text, scope);
        let thread = thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(threads, parse);
        thread.map(thread::ScopedJoinHandle::join)
    });
    match parsed {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(Fault::new(0, "the condition cannot be parsed")),
    }
}

fn parse_and_check(text: &str, scope: Scope) -> Result<Condition, Fault> {
    let parser = Parser::new().max_recursion_depth(DEEPEST);
    let (expression, places) = parser.parse_with_source_info(text).map_err(|errors| {
        let first = errors.errors.into_iter().next();
        first.map_or_else(
            || Fault::new(0, "this is no CEL"),
            |error| {
                let (line, column) = error.pos;
                // What it had expected instead is long and seldom what was meant.
                let message = error.msg.split(" expecting ").next().unwrap_or_default();
                let message = message.trim_start_matches("Syntax error: ");
                let at = offset(text, line, column);
                let fault = Fault::new(at, format!("this is no CEL: {message}"));
                match operator(text, at) {
                    Some(meant) => fault.with_hint(format!("did you mean `{meant}`?")),
                    None => fault,
                }
            },
        )
    })?;
    let checker = check::Checker::new(text, scope, &places);
    checker.condition(&expression).map(|root| Condition {
        text: Arc::from(text),
        root,
    })
}

/// The operator that stands at a place with half of its characters.
fn operator(text: &str, at: usize) -> Option<&'static str> {
    match text.chars().nth(at)? {
        '=' => Some("=="),
        '&' => Some("&&"),
        '|' => Some("||"),
        _ => None,
    }
}

/// The place of line and column, both from 1, as characters from the beginning.
fn offset(text: &str, line: isize, column: isize) -> usize {
    let from_zero = |number: isize| usize::try_from(number.saturating_sub(1)).unwrap_or(0);
    let before = text.split_inclusive('\n').take(from_zero(line));
    before.map(|line| line.chars().count()).sum::<usize>() + from_zero(column)
}
