//! A condition that has been checked.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use regex::bytes::Regex;

use crate::leaf::ClaimPath;

/// A condition of a rule. Clones share nothing that is written while it is evaluated.
#[derive(Clone, Debug)]
pub struct Condition {
    /// As it was written.
    pub text: Arc<str>,
    pub root: Node,
}

/// A part of a condition. The loader has checked that its operands have the right types, as far as these are known
/// before there is a request.
#[derive(Clone, Debug)]
pub enum Node {
    Constant(Constant),
    List(Box<[Constant]>),
    /// What a request, token or certificate says.
    At(Place),
    /// Whether it says that.
    Has(Place),
    Not(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    /// Condition, then, else.
    If(Box<[Node; 3]>),
    Equal(Box<[Node; 2]>),
    Ordered(Order, Box<[Node; 2]>),
    /// Whether the second, a list, has the first.
    In(Box<[Node; 2]>),
    Text(TextTest, Box<[Node; 2]>),
    /// About bytes: classes like `\w` are ASCII, as RE2 has them.
    Matches(Box<Node>, Regex),
    Size(Box<Node>),
    InPrefix(IpNet, Box<Node>),
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Address(IpAddr),
    Null,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Method,
    Path,
    Host,
    Source,
    Header(HeaderName),
    /// A parameter of the query.
    Query(Box<str>),
    Subject,
    Client,
    Scopes,
    Claim(ClaimPath),
    Spiffe,
    DnsNames,
    CertificateSubject,
    Serial,
    KeyId,
    KeyOwner,
    KeyTier,
    KeyRoles,
}

/// How two values are to follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A test of a text by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

impl Condition {
    /// The claims that it looks at.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimPath> {
        let mut places = Vec::new();
        self.root.places(&mut places);
        places.into_iter().filter_map(|place| match place {
            Place::Claim(path) => Some(path),
            _ => None,
        })
    }
}

impl Condition {
    /// The header fields that it looks at.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let mut places = Vec::new();
        self.root.places(&mut places);
        places.into_iter().filter_map(|place| match place {
            Place::Header(name) => Some(name),
            _ => None,
        })
    }
}

impl Node {
    fn places<'a>(&'a self, into: &mut Vec<&'a Place>) {
        let mut all = |nodes: &'a [Node]| nodes.iter().for_each(|node| node.places(into));
        match self {
            Self::Constant(_) | Self::List(_) => {}
            Self::At(place) | Self::Has(place) => into.push(place),
            Self::Not(node) | Self::Matches(node, _) | Self::Size(node) | Self::InPrefix(_, node) => {
                node.places(into);
            }
            Self::And(nodes)
            | Self::Or(nodes)
            | Self::Equal(nodes)
            | Self::Ordered(_, nodes)
            | Self::In(nodes)
            | Self::Text(_, nodes) => all(&**nodes),
            Self::If(nodes) => all(&**nodes),
        }
    }
}

impl Order {
    /// Whether a value that compares so passes.
    #[must_use]
    pub fn admits(self, found: Ordering) -> bool {
        match self {
            Self::Less => found.is_lt(),
            Self::LessOrEqual => found.is_le(),
            Self::Greater => found.is_gt(),
            Self::GreaterOrEqual => found.is_ge(),
        }
    }
}
