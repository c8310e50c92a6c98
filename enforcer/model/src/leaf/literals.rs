//! What a regular expression for paths wants to find as it is written.

use regex_syntax::{
    ParserBuilder,
    hir::{Hir, HirKind},
};

use enforcer_http_rules::target::spelling_of_part;

/// A literal of the expression that is in no normalised path, and how such a path has it. Nothing where the
/// expression has none, as far as can be told: `%3[Aa]` is none.
#[must_use]
pub fn misspelt_literal(expression: &str) -> Option<(String, String)> {
    let parsed = ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(expression);
    find(&parsed.ok()?)
}

/// The parser bounds how deep expressions nest.
fn find(part: &Hir) -> Option<(String, String)> {
    match part.kind() {
        HirKind::Literal(literal) => {
            let text = str::from_utf8(&literal.0).ok()?;
            let right = spelling_of_part(text);
            (right != text).then(|| (text.to_owned(), right))
        }
        HirKind::Repetition(repeated) => find(&repeated.sub),
        HirKind::Capture(group) => find(&group.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().find_map(find),
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m4_literals_of_expressions_are_those_of_normal_paths() {
        for (expression, right) in [
            ("/v[0-9]+/users%3Adelete", Some("/users:delete")),
            ("/(a|x%c3%a9)?", Some("x%C3%A9")),
            ("/a b/.*", Some("/a%20b/")),
            ("/users:[a-z]+", None),
            ("/a%[0-9A-F]{2}", None),
            ("/a%3[Aa]b", None),
            (r"/v1\.2/%C3%A9", None),
            ("(", None),
        ] {
            let found = misspelt_literal(expression).map(|(_, right)| right);
            assert_eq!(found.as_deref(), right, "{expression}");
        }
    }
}
