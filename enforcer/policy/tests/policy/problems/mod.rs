//! What is written badly is refused at its place, with a sentence that helps, and all of it at once.

use std::{fs, path::PathBuf};

use enforcer_policy::Severity;
use table::{packet, problems, rule, service};
use tempfile::TempDir;

mod access;
mod credentials;
mod destinations;
mod documents;
mod limits;
mod matching;
mod packets;
mod paths;
mod routes;
mod services;
mod table;

#[test]
fn what_is_no_yaml_is_said_with_its_place() {
    for (yaml, fragment) in [
        ("a: [1, 2\nb: 3", "this is no YAML"),
        ("a: 1\na: 2", "this is no YAML"),
        ("a: *nowhere", "this is no YAML"),
    ] {
        let found = problems(yaml);
        assert_eq!(found.len(), 1, "{yaml}: {found:?}");
        assert!(found[0].line > 0 && found[0].column > 0, "{yaml}: {found:?}");
        assert!(found[0].message.contains(fragment), "{yaml}: {found:?}");
    }
}

#[test]
fn what_stands_before_the_document_that_is_no_yaml_is_judged() {
    let yaml = format!(
        "{}---\n{}---\na: [\n",
        service("endpoints: [x]"),
        packet("mod: shadow")
    );
    let paths: Vec<String> = problems(&yaml).into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["spec.endpoints[0]", "spec.mod", ""]);
}

#[test]
fn four_mistakes_in_one_document_are_four_problems_in_one_run() {
    let yaml = "
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: edge}
spec:
  interfaces: [eth0]
  allow: [10.0.0.300/8]
  limits:
    - rate: 0/s
      bursts: 5
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {name: orders}
spec: {endpoints: ['http://a:1']}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [a.example.com]
  rules:
    - servce: orders
      require: {anonymous: true}
    - service: order
      require: {mtls: {spiffe: ['spiffe://A/b']}, token: {}}
      timeout: 1 fortnight
      limits:
        - {per: token.sub, rate: 1/y}
";
    let found: Vec<(u64, u64, String)> = problems(yaml)
        .into_iter()
        .map(|problem| (problem.line, problem.column, problem.path))
        .collect();
    let expected = [
        (7, 11, "spec.allow[0]"),
        (9, 13, "spec.limits[0].rate"),
        (10, 7, "spec.limits[0].bursts"),
        (23, 7, "spec.rules[0].servce"),
        (25, 16, "spec.rules[1].service"),
        (26, 33, "spec.rules[1].require.mtls.spiffe[0]"),
        (26, 58, "spec.rules[1].require.token.issuer"),
        (27, 16, "spec.rules[1].timeout"),
        (29, 34, "spec.rules[1].limits[0].rate"),
    ]
    .map(|(line, column, path)| (line, column, path.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn problems_of_all_files_come_together_in_order() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a.yaml", &packet("modes: shadow\nports: [x]"));
    write("b.yaml", "[");
    write("c.yaml", &service("endpoints: [x]"));
    let missing = directory.path().join("missing.yaml");
    let problems = enforcer_policy::load(&[directory.path().to_owned(), missing.clone()]).unwrap_err();
    let files: Vec<PathBuf> = problems
        .into_iter()
        .map(|problem| problem.file.strip_prefix(directory.path()).unwrap().to_owned())
        .collect();
    assert_eq!(
        files,
        ["a.yaml", "a.yaml", "b.yaml", "c.yaml", "missing.yaml"].map(PathBuf::from)
    );
}

#[test]
fn a_broken_service_is_no_reason_to_blame_its_routes() {
    let yaml = rule("{service: orders, require: {mtls: {}}}").replace("'http://10.0.0.7:80'", "nonsense");
    let found = problems(&yaml);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, "spec.endpoints[0]");
}

#[test]
fn names_that_an_unreadable_file_may_give_are_not_called_unknown() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a.yaml", &rule("{service: elsewhere, require: {mtls: {}}}"));
    write("b.yaml", "[");
    let problems = enforcer_policy::load(&[directory.path().to_owned()]).unwrap_err();
    assert_eq!(problems.as_slice().len(), 1, "{problems}");
    assert!(problems.as_slice()[0].file.ends_with("b.yaml"), "{problems}");
    write("b.yaml", "# mended");
    let problems = enforcer_policy::load(&[directory.path().to_owned()]).unwrap_err();
    assert!(
        problems.as_slice()[0].message.contains("no service `elsewhere`"),
        "{problems}"
    );
}

#[test]
fn warnings_do_not_hinder() {
    let found = problems(&rule("{service: orders}"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity, Severity::Warning);
}

#[test]
fn what_is_too_large_is_refused_quickly() {
    let directory = TempDir::new().unwrap();
    let large = directory.path().join("large.yaml");
    fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
    let problems = enforcer_policy::load(&[large]).unwrap_err();
    assert!(
        problems.to_string().contains("is larger than 1024 KiB"),
        "{problems}"
    );
}

#[test]
fn bombs_of_aliases_nesting_and_documents_do_not_explode() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        aliases += &format!("a{level}: &a{level} [{inner}]\n");
    }
    let nested = "[".repeat(100_000);
    let documents = "a: 1\n---\n".repeat(10_001);
    for (name, bomb) in [
        ("aliases", aliases),
        ("nesting", nested),
        ("documents", documents),
    ] {
        let started = std::time::Instant::now();
        let found = problems(&bomb);
        assert_eq!(found.len(), 1, "{name}");
        assert!(
            found[0].message.contains("this is no YAML"),
            "{name}: {}",
            found[0]
        );
        assert!(started.elapsed().as_secs() < 10, "{name}");
    }
}

#[test]
fn a_flood_of_problems_is_counted_not_kept() {
    let broken = format!("{}---\n", service("endpoints: [x]"));
    let found = problems(&broken.repeat(2000));
    assert_eq!(found.len(), enforcer_policy::problem::MAX_PROBLEMS + 1);
    assert!(
        found
            .last()
            .unwrap()
            .message
            .contains("more problems are not shown")
    );
}

#[test]
fn an_error_behind_a_flood_of_warnings_still_hinders() {
    let warned = |count: usize| {
        let routes = (0..count).map(|index| {
            rule("{service: orders}")
                .replace("name: x", &format!("name: r{index}"))
                .replace("a.example.com", &format!("h{index}.example.com"))
                .split(table::SERVICE)
                .next()
                .unwrap_or_default()
                .to_owned()
        });
        routes.collect::<Vec<_>>().join("---\n") + table::SERVICE
    };
    let count = enforcer_policy::problem::MAX_PROBLEMS + 5;
    let errors = |yaml: &str| {
        problems(yaml)
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count()
    };
    assert_eq!(errors(&warned(count)), 0);
    let broken = format!("{}---\n{}", warned(count), packet("mode: x"));
    assert_eq!(errors(&broken), 1);
}

#[test]
fn no_text_panics() {
    use proptest::prelude::*;
    let sample = rule(
        "{service: orders, require: {token: {issuer: corp}}, limits: [{per: token.sub, rate: 1/s, exceed: {queue: 1s}}]}",
    );
    let cut = (0..sample.len(), 0..sample.len(), "[\\[\\]{}:,&*!|>'\"\\n -]{0,4}");
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&cut, |(from, to, put)| {
            let (from, to) = (from.min(to), from.max(to));
            let text = format!("{}{put}{}", &sample[..from], &sample[to..]);
            for problem in problems(&text) {
                prop_assert!(!problem.message.is_empty());
            }
            Ok(())
        })
        .unwrap();
}
