//! Tables of texts and the one problem that each has.
//!
//! `▶` marks the place that the problem must name; it is taken out before loading.

use std::fs;

use enforcer_policy::Problem;
use tempfile::TempDir;

pub(crate) const MARK: char = '▶';

/// A document of that kind, named `x`, with that `spec`.
pub(crate) fn document(kind: &str, spec: &str) -> String {
    let head = format!("apiVersion: enforcer.dev/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n");
    spec.lines().fold(head, |text, line| format!("{text}  {line}\n"))
}

pub(crate) fn packet(spec: &str) -> String {
    document("PacketPolicy", &format!("interfaces: [eth0]\n{spec}"))
}

/// A packet policy with one limit of these fields.
pub(crate) fn limit(fields: &str) -> String {
    packet(&format!("limits:\n- {fields}"))
}

pub(crate) const SERVICE: &str = "---\napiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: orders}\nspec: {endpoints: ['http://10.0.0.7:80']}\n";

pub(crate) const ISSUER: &str = "---\napiVersion: enforcer.dev/v1\nkind: Issuer\nmetadata: {name: corp}\nspec: {issuer: i, jwks: {url: 'https://i/k'}, audiences: a, algorithms: ES256}\n";

/// A route with one rule of these fields, beside a service `orders` and an issuer `corp`.
pub(crate) fn rule(fields: &str) -> String {
    let route = document("Route", &format!("hosts: [a.example.com]\nrules:\n- {fields}"));
    format!("{route}{SERVICE}{ISSUER}")
}

pub(crate) fn service(spec: &str) -> String {
    document("Service", spec)
}

pub(crate) fn issuer(changed: &str) -> String {
    let mut spec = String::new();
    for (key, line) in [
        ("issuer:", "issuer: https://idp.example.com"),
        ("jwks:", "jwks: {url: 'https://idp.example.com/jwks'}"),
        ("audiences:", "audiences: [a]"),
        ("algorithms:", "algorithms: [ES256]"),
    ] {
        if !changed.contains(key) {
            spec += line;
            spec += "\n";
        }
    }
    document("Issuer", &format!("{spec}{changed}"))
}

/// Every problem of one file with that text.
pub(crate) fn problems(yaml: &str) -> Vec<Problem> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, yaml).unwrap();
    match enforcer_policy::load(&[file]) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems.into_vec(),
    }
}

/// The text without its mark, and the mark's line and column.
pub(crate) fn marked(yaml: &str) -> (String, u64, u64) {
    let at = yaml.find(MARK).expect("the case has no mark");
    let before = &yaml[..at];
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    (yaml.replace(MARK, ""), line, column)
}

/// Checks that each text has exactly one problem: at the mark, of that field, with that sentence.
pub(crate) fn each_has_one(cases: &[(String, &str, &str)]) {
    for (yaml, path, fragment) in cases {
        let (yaml, line, column) = marked(yaml);
        let found = problems(&yaml);
        let [problem] = &found[..] else {
            let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            panic!(
                "{} problems instead of one:\n{yaml}\n{}",
                found.len(),
                shown.join("\n")
            );
        };
        let shown = problem.to_string();
        assert_eq!(
            (problem.line, problem.column),
            (line, column),
            "\n{yaml}\n{shown}"
        );
        assert_eq!(problem.path, *path, "\n{yaml}\n{shown}");
        assert!(shown.contains(fragment), "no `{fragment}` in\n{shown}\n{yaml}");
    }
}
