//! Evaluates a rule's condition for one request, by the semantics of CEL: what is not there is an error, and an
//! error is passed on unless `&&`, `||` or `?:` decide without it.

use std::{borrow::Cow, cmp::Ordering, net::IpAddr};

use super::facts::{Facts, List, NoValue, Value};
use enforcer_model::condition::{Condition, Node, TextTest};

/// Whether the condition holds. One that has no value does not.
#[must_use]
pub fn holds(condition: &Condition, facts: &Facts<'_>) -> bool {
    evaluate(condition, facts) == Ok(true)
}

/// What the condition says.
///
/// # Errors
/// It says nothing.
pub fn evaluate(condition: &Condition, facts: &Facts<'_>) -> Result<bool, NoValue> {
    truth(&condition.root, facts)
}

fn truth(node: &Node, facts: &Facts<'_>) -> Result<bool, NoValue> {
    match node {
        Node::Not(inner) => truth(inner, facts).map(|value| !value),
        // Whichever operand is false decides, whatever the other is.
        Node::And(nodes) => decided(false, nodes, facts),
        Node::Or(nodes) => decided(true, nodes, facts),
        Node::Has(place) => Ok(facts.has(place)),
        Node::Equal(nodes) => {
            let [one, other] = both(nodes, facts)?;
            Ok(equal(&one, &other))
        }
        Node::Ordered(order, nodes) => {
            let [one, other] = both(nodes, facts)?;
            compare(&one, &other).map(|found| order.admits(found))
        }
        Node::In(nodes) => {
            let [element, list] = both(nodes, facts)?;
            contains(&list, &element)
        }
        Node::Text(test, nodes) => {
            let [text, part] = both(nodes, facts)?;
            let (text, part) = (text.text()?, part.text()?);
            Ok(match test {
                TextTest::StartsWith => text.starts_with(&*part),
                TextTest::EndsWith => text.ends_with(&*part),
                TextTest::Contains => text.contains(&*part),
            })
        }
        Node::Matches(text, regex) => Ok(regex.is_match(value(text, facts)?.text()?.as_bytes())),
        Node::InPrefix(prefix, address) => match value(address, facts)? {
            Value::Address(address) => Ok(prefix.contains(&IpAddr::to_canonical(&address))),
            _ => Err(NoValue),
        },
        node => match value(node, facts)? {
            Value::Bool(value) => Ok(value),
            _ => Err(NoValue),
        },
    }
}

/// Either operand that is `decisive` decides; else both must have a value.
fn decided(decisive: bool, [one, other]: &[Node; 2], facts: &Facts<'_>) -> Result<bool, NoValue> {
    let first = truth(one, facts);
    if first == Ok(decisive) {
        return first;
    }
    match truth(other, facts) {
        Ok(value) if value == decisive => Ok(value),
        second => first.and(second),
    }
}

fn both<'a>([one, other]: &'a [Node; 2], facts: &Facts<'a>) -> Result<[Value<'a>; 2], NoValue> {
    Ok([value(one, facts)?, value(other, facts)?])
}

fn value<'a>(node: &'a Node, facts: &Facts<'a>) -> Result<Value<'a>, NoValue> {
    match node {
        Node::Constant(constant) => Ok(Value::of_constant(constant)),
        Node::List(elements) => Ok(Value::List(List::Literal(elements))),
        Node::At(place) => facts.at(place),
        Node::If(nodes) => {
            let [question, yes, no] = &**nodes;
            value(if truth(question, facts)? { yes } else { no }, facts)
        }
        Node::Size(inner) => {
            let size = value(inner, facts)?.size()?;
            i64::try_from(size).map(Value::Int).map_err(|_| NoValue)
        }
        node => truth(node, facts).map(Value::Bool),
    }
}

impl<'a> Value<'a> {
    fn text(self) -> Result<Cow<'a, str>, NoValue> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(NoValue),
        }
    }

    /// Of a text its characters, of a list its elements.
    fn size(&self) -> Result<usize, NoValue> {
        Ok(match self {
            Self::Text(text) => text.chars().count(),
            Self::List(List::Literal(elements)) => elements.len(),
            Self::List(List::Scopes(scopes)) => scopes.iter().count(),
            Self::List(List::Names(names)) => names.len(),
            Self::List(List::Roles(roles)) => roles.len(),
            Self::List(List::Claim(elements)) => elements.len(),
            Self::Object(members) => members.len(),
            _ => return Err(NoValue),
        })
    }
}

/// Values of different types are not equal, but for numbers. Lists and objects are equal to nothing.
fn equal(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::Text(one), Value::Text(other)) => one == other,
        (Value::Address(one), Value::Address(other)) => one == other,
        (Value::Null, Value::Null) => true,
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            compare(one, other) == Ok(Ordering::Equal)
        }
        _ => false,
    }
}

fn compare(one: &Value<'_>, other: &Value<'_>) -> Result<Ordering, NoValue> {
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => Ok(one.cmp(other)),
        (Value::Int(one), Value::Int(other)) => Ok(one.cmp(other)),
        (Value::Float(one), Value::Float(other)) => one.partial_cmp(other).ok_or(NoValue),
        (Value::Int(one), Value::Float(other)) => mixed(*one, *other),
        (Value::Float(one), Value::Int(other)) => mixed(*other, *one).map(Ordering::reverse),
        _ => Err(NoValue),
    }
}

/// Exactly, also where a float cannot tell whole numbers apart.
fn mixed(whole: i64, float: f64) -> Result<Ordering, NoValue> {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        Err(NoValue)
    } else if float >= EDGE {
        Ok(Ordering::Less)
    } else if float < -EDGE {
        Ok(Ordering::Greater)
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "between the edges, without a fraction"
        )]
        let floor = float.floor() as i64;
        let fraction = float > float.floor();
        Ok(whole
            .cmp(&floor)
            .then(if fraction { Ordering::Less } else { Ordering::Equal }))
    }
}

fn contains(list: &Value<'_>, element: &Value<'_>) -> Result<bool, NoValue> {
    match list {
        Value::List(List::Literal(elements)) => Ok(elements
            .iter()
            .any(|each| equal(&Value::of_constant(each), element))),
        Value::List(List::Claim(elements)) => {
            Ok(elements.iter().any(|each| equal(&Value::of_json(each), element)))
        }
        Value::List(List::Scopes(scopes)) => {
            Ok(matches!(element, Value::Text(text) if scopes.contains(text)))
        }
        Value::List(List::Names(names)) => {
            Ok(matches!(element, Value::Text(text) if names.iter().any(|name| **name == **text)))
        }
        Value::List(List::Roles(roles)) => {
            Ok(matches!(element, Value::Text(text) if roles.iter().any(|role| **role == **text)))
        }
        Value::Object(members) => Ok(matches!(element, Value::Text(text) if members.contains_key(&**text))),
        _ => Err(NoValue),
    }
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
