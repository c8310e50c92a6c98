//! The functions that conditions may call.

use std::net::IpAddr;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr, LiteralValue, operators},
};
use ipnet::IpNet;
use regex::bytes::RegexBuilder;

use super::{
    Fault,
    check::{Checker, Type, Typed},
};
use crate::yaml::mistake::{alternatives, nearest};
use enforcer_model::condition::{Constant, Node, TextTest};
use enforcer_model::leaf::cidr;

/// How much memory one compiled regular expression may take, in bytes.
const REGEX_SIZE: usize = 256 * 1024;

const FUNCTIONS: [&str; 9] = [
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "size",
    "has",
    "containsIP",
    "cidr",
    "ip",
];

/// Operators of CEL that are none here.
const ARITHMETIC: [&str; 6] = [
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::NEGATE,
];

impl Checker<'_> {
    pub(super) fn function(&self, expression: &IdedExpr, call: &CallExpr) -> Result<Typed, Fault> {
        let text = |test| self.text_test(expression, call, test);
        match (call.func_name.as_str(), &call.target) {
            ("startsWith", Some(_)) => text(TextTest::StartsWith),
            ("endsWith", Some(_)) => text(TextTest::EndsWith),
            ("contains", Some(_)) => text(TextTest::Contains),
            ("matches", Some(target)) => {
                let [pattern] = self.operands(expression, call)?;
                self.matches(target, pattern)
            }
            ("matches", None) => {
                let [target, pattern] = self.operands(expression, call)?;
                self.matches(target, pattern)
            }
            ("size", Some(target)) if call.args.is_empty() => self.size(target),
            ("size", None) => {
                let [target] = self.operands(expression, call)?;
                self.size(target)
            }
            ("containsIP", Some(target)) => {
                let [address] = self.operands(expression, call)?;
                let node = self.of_type(address, Type::Address)?;
                Ok((Node::InPrefix(self.prefix(target)?, Box::new(node)), Type::Bool))
            }
            ("ip", None) => {
                let [text] = self.operands(expression, call)?;
                let address = self.known(text, |text| {
                    let address = text.parse::<IpAddr>();
                    address.map_err(|_| format!("`{text}` is no address: write it like 192.0.2.1"))
                })?;
                Ok((
                    Node::Constant(Constant::Address(address.to_canonical())),
                    Type::Address,
                ))
            }
            ("cidr", None) => self.refuse(
                expression,
                "a prefix alone says nothing: write cidr(\"10.0.0.0/8\").containsIP(request.source)",
            ),
            (name, _) if ARITHMETIC.contains(&name) => {
                self.refuse(expression, "numbers and texts are not calculated with here")
            }
            (name, _) if FUNCTIONS.contains(&name) => {
                let message = match &call.target {
                    Some(_) => format!("`{name}` is not called so: write {name}(…)"),
                    None => format!("`{name}` is called of a value: write value.{name}(…)"),
                };
                self.refuse(expression, message)
            }
            (name, _) => {
                let hint = nearest(name, FUNCTIONS).map_or_else(
                    || format!("there are {}", alternatives(FUNCTIONS)),
                    |near| format!("did you mean `{near}`?"),
                );
                let fault = Fault::new(self.offset(expression), format!("there is no function `{name}`"));
                Err(Fault {
                    hint: Some(hint),
                    ..fault
                })
            }
        }
    }

    fn text_test(&self, expression: &IdedExpr, call: &CallExpr, test: TextTest) -> Result<Typed, Fault> {
        let [argument] = self.operands(expression, call)?;
        let Some(target) = &call.target else {
            return self.refuse(expression, "this is called of a text");
        };
        let nodes = [
            self.of_type(target, Type::Text)?,
            self.of_type(argument, Type::Text)?,
        ];
        let node = self.spelled(argument, Node::Text(test, Box::new(nodes)))?;
        Ok((node, Type::Bool))
    }

    /// A part of the text is enough, as CEL has it.
    fn matches(&self, target: &IdedExpr, pattern: &IdedExpr) -> Result<Typed, Fault> {
        let target = self.of_type(target, Type::Text)?;
        let regex = self.known(pattern, |text| {
            let regex = RegexBuilder::new(text)
                .unicode(false)
                .size_limit(REGEX_SIZE)
                .dfa_size_limit(REGEX_SIZE)
                .build();
            regex.map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    format!("the regular expression takes more than {} KiB", REGEX_SIZE / 1024)
                }
                error => format!(
                    "`{text}` is no regular expression: {}",
                    last_line(&error.to_string())
                ),
            })
        })?;
        let node = self.spelled(pattern, Node::Matches(Box::new(target), regex))?;
        Ok((node, Type::Bool))
    }

    fn size(&self, target: &IdedExpr) -> Result<Typed, Fault> {
        match self.check(target)? {
            (node, Type::Text | Type::Texts | Type::List | Type::Dynamic) => {
                Ok((Node::Size(Box::new(node)), Type::Int))
            }
            (_, other) => self.refuse(target, format!("{} has no size", other.name())),
        }
    }

    /// `cidr("10.0.0.0/8")`.
    fn prefix(&self, expression: &IdedExpr) -> Result<IpNet, Fault> {
        match &expression.expr {
            Expr::Call(call) if call.func_name == "cidr" && call.target.is_none() => {
                let [text] = self.operands(expression, call)?;
                self.known(text, cidr::parse)
            }
            _ => self.refuse(
                expression,
                "expected a prefix: write cidr(\"10.0.0.0/8\").containsIP(request.source)",
            ),
        }
    }

    /// What a text that is known now stands for.
    fn known<T>(
        &self,
        expression: &IdedExpr,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Fault> {
        match &expression.expr {
            Expr::Literal(LiteralValue::String(text)) => {
                parse(text.inner()).or_else(|message| self.refuse(expression, message))
            }
            _ => self.refuse(expression, "expected a text in quotes"),
        }
    }
}

/// Of an error of several lines, the one that says what is wrong.
fn last_line(text: &str) -> &str {
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}
