//! Texts that conditions compare with a request's path or method, and that no request has.

use cel::IdedExpr;

use super::{Fault, check::Checker};
use enforcer_http_rules::target::{spelling, spelling_of_part};
use enforcer_model::condition::{Constant, Node, Place, TextTest};
use enforcer_model::leaf::misspelt_literal;

impl Checker<'_> {
    /// `node`, which `expression` stands for, unless it compares the path with what is not in its normal form, or the
    /// method with one in small letters: that would be a condition about nothing.
    pub(super) fn spelled(&self, expression: &IdedExpr, node: Node) -> Result<Node, Fault> {
        match wrong(&node) {
            None => Ok(node),
            Some(Wrong { message, hint }) => {
                let fault = Fault::new(self.offset(expression), message);
                Err(match hint {
                    Some(right) => fault.with_hint(format!("write \"{right}\"")),
                    None => fault,
                })
            }
        }
    }
}

/// What no request has.
struct Wrong {
    message: String,
    /// What would be right, if anything is.
    hint: Option<String>,
}

impl Wrong {
    fn path(text: &str, right: String) -> Self {
        Self {
            message: format!("no request's path has `{text}`: paths are compared in their normal form"),
            hint: Some(right),
        }
    }
}

fn wrong(node: &Node) -> Option<Wrong> {
    match node {
        Node::Not(inner) => wrong(inner),
        Node::Equal(nodes) => match &**nodes {
            [Node::At(place), Node::Constant(constant)] | [Node::Constant(constant), Node::At(place)] => {
                whole(place, constant)
            }
            _ => None,
        },
        Node::In(nodes) => match &**nodes {
            [Node::At(place), Node::List(elements)] => elements.iter().find_map(|each| whole(place, each)),
            _ => None,
        },
        Node::Text(test, nodes) => match &**nodes {
            [Node::At(Place::Path), Node::Constant(Constant::Text(text))] => part(*test, text),
            _ => None,
        },
        Node::Matches(inner, regex) if matches!(**inner, Node::At(Place::Path)) => {
            misspelt_literal(regex.as_str()).map(|(literal, right)| Wrong::path(&literal, right))
        }
        _ => None,
    }
}

fn whole(place: &Place, constant: &Constant) -> Option<Wrong> {
    let Constant::Text(text) = constant else {
        return None;
    };
    match place {
        Place::Path => match spelling(text) {
            Ok(right) if right == **text => None,
            Ok(right) => Some(Wrong::path(text, right)),
            Err(error) => Some(Wrong {
                message: format!("no request has the path `{text}`: {error}"),
                hint: None,
            }),
        },
        Place::Method => {
            let upper = text.to_ascii_uppercase();
            (**text != upper).then(|| Wrong {
                message: format!("no request has the method `{text}`: methods are in capitals"),
                hint: Some(upper),
            })
        }
        _ => None,
    }
}

fn part(test: TextTest, text: &str) -> Option<Wrong> {
    if test == TextTest::StartsWith && !text.is_empty() && !text.starts_with('/') {
        return Some(Wrong {
            message: format!("no request's path begins with `{text}`: paths begin with /"),
            hint: Some(format!("/{text}")),
        });
    }
    let right = spelling_of_part(text);
    (right != text).then(|| Wrong::path(text, right))
}

#[cfg(test)]
mod tests {
    use crate::cel::{Scope, compile};

    const NOTHING: Scope = Scope {
        token: false,
        certificate: false,
        api_key: false,
    };

    #[test]
    fn m4_literals_that_no_path_has_are_refused_with_the_right_spelling() {
        for (condition, right) in [
            (
                r#"request.path == "/v1/users%3Adelete""#,
                r#"write "/v1/users:delete""#,
            ),
            (r#"request.path != "/%61dmin""#, r#"write "/admin""#),
            (r#""/caf%c3%a9" == request.path"#, r#"write "/caf%C3%A9""#),
            (r#"request.path in ["/a", "/a//b"]"#, r#"write "/a/b""#),
            (r#"request.path.startsWith("/v1/a%40b")"#, r#"write "/v1/a@b""#),
            (r#"request.path.startsWith("v1/")"#, r#"write "/v1/""#),
            (r#"request.path.endsWith("{id}")"#, r#"write "%7Bid%7D""#),
            (r#"!request.path.contains("%3a")"#, r#"write ":""#),
            (r#"request.path.matches("^/a%3Ab")"#, r#"write "/a:b""#),
            (r#"request.method == "delete""#, r#"write "DELETE""#),
            (r#"request.method in ["GET", "Put"]"#, r#"write "PUT""#),
        ] {
            let fault = compile(condition, NOTHING).unwrap_err();
            assert_eq!(
                fault.hint.as_deref(),
                Some(right),
                "{condition}: {}",
                fault.message
            );
        }
        for good in [
            r#"request.path == "/v1/users:delete" || request.path.startsWith("/caf%C3%A9")"#,
            r#"!request.path.contains("..") && !request.path.contains("//") && request.path.endsWith("%2")"#,
            r#"request.path.matches("^/a%[0-9A-F]{2}:\\.b") && request.method in ["GET"]"#,
            r#"request.headers["x-path"] == "/%61""#,
        ] {
            assert!(
                compile(good, NOTHING).is_ok(),
                "{good}: {:?}",
                compile(good, NOTHING)
            );
        }
    }
}
