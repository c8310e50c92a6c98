//! Paths that policies write, and how clients get around them.

use enforcer_policy::Severity;

use crate::problems::table::{MARK, SERVICE, document, each_has_one, problems, rule};

#[test]
fn m4_paths_are_written_in_their_normal_form() {
    let with = |matched: &str| {
        rule(&format!(
            "{{service: orders, require: {{anonymous: true}}, match: {{path: {matched}}}}}"
        ))
    };
    let at = |key: &'static str| -> &'static str {
        match key {
            "exact" => "spec.rules[0].match.path.exact",
            "prefix" => "spec.rules[0].match.path.prefix",
            _ => "spec.rules[0].match.path.regex",
        }
    };
    each_has_one(&[
        (
            with("{exact: ▶'/v1/users%3Adelete'}"),
            at("exact"),
            "write `/v1/users:delete`",
        ),
        (with("{prefix: ▶'/%61dmin'}"), at("prefix"), "write `/admin`"),
        (with("{exact: ▶'/caf%c3%a9'}"), at("exact"), "write `/caf%C3%A9`"),
        (with("{exact: ▶'/a;b'}"), at("exact"), "has no normal form"),
        (
            with("{regex: ▶'/v[0-9]/users%3Adelete'}"),
            at("regex"),
            "write `/users:delete`",
        ),
        (
            rule("{service: orders, require: {anonymous: true, when: 'request.path ▶== \"/%61\"'}}"),
            "spec.rules[0].require.when",
            "write \"/a\"",
        ),
    ]);
}

/// `check` calls it an error; an agent that is upgraded starts all the same, for one release.
#[test]
fn m4_an_agent_takes_other_escapes_for_the_normal_form_and_warns() {
    let route =
        rule("{service: orders, require: {anonymous: true}, match: {path: {exact: '/v1/users%3Adelete'}}}");
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("route.yaml"), route.replace(MARK, "")).unwrap();
    let loaded = enforcer_policy::load(&[folder.path().to_owned()]).unwrap();
    let rule = &loaded.set.routes[0].rules[0];
    assert_eq!(rule.path.to_string(), "/v1/users:delete");
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings)
    };
    assert!(
        warning.to_string().contains("write `/v1/users:delete`"),
        "{warning}"
    );
}

/// The warnings of a route with these rules.
fn warnings(rules: &str) -> Vec<String> {
    let route = document("Route", &format!("hosts: [a.example.com]\nrules:\n{rules}"));
    let mut all = Vec::new();
    for problem in problems(&format!("{route}{SERVICE}{}", crate::problems::table::ISSUER)) {
        assert_eq!(problem.severity, Severity::Warning, "{problem}");
        all.push(problem.message);
    }
    all
}

const TOKEN: &str = "service: orders, require: {token: {issuer: corp";

#[test]
fn m4_exact_paths_that_a_slash_or_other_case_gets_around_are_told() {
    let scoped = |path: &str| format!("- {{{TOKEN}, scopes: [admin]}}}}, match: {{path: {path}}}}}\n");
    let any = format!("- {{{TOKEN}}}}}}}\n");
    for (rules, told) in [
        (
            scoped("{exact: /admin}") + &any,
            &["`/admin/` (rules[1] of the route `x`) and `/ADMIN` (rules[1]"][..],
        ),
        (scoped("{exact: /admin/}") + &any, &["`/admin` (rules[1]"]),
        (scoped("{exact: /7}") + &any, &["gets `/7/` (rules[1]"]),
        (
            scoped("{exact: /admin}") + &scoped("{regex: '(?i)/admin/?'}") + &any,
            &[],
        ),
        (scoped("{regex: '(?i)/admin/?'}") + &any, &[]),
        (scoped("{exact: /admin}") + &scoped("{prefix: /}"), &[]),
        (scoped("{exact: /admin}"), &[]),
        // The other rule requires more.
        (
            format!("- {{{TOKEN}}}}}, match: {{path: {{exact: /a}}}}}}\n") + &scoped("{prefix: /}"),
            &[],
        ),
        (
            scoped("{exact: /admin}") + "- {redirect: {path: {replace: /}}, require: {anonymous: true}}\n",
            &[],
        ),
        (
            "- {service: orders, require: {anonymous: true}, match: {path: {exact: /a}}}\n".to_owned() + &any,
            &[],
        ),
        (
            "- {service: orders, require: {anonymous: true, from: [10.0.0.0/8]}, match: {path: {exact: /a}}}\n"
                .to_owned()
                + "- {service: orders, require: {anonymous: true}}\n",
            &["`/a/` (rules[1] of the route `x`) and `/A` (rules[1]"],
        ),
    ] {
        let found = warnings(&rules);
        assert_eq!(found.len(), told.len(), "{rules}: {found:?}");
        for (found, told) in found.iter().zip(told) {
            assert!(found.contains(told), "{rules}: {found}");
        }
    }
}

#[test]
fn a_path_without_how_it_is_matched_is_the_only_problem() {
    let rules = "- {service: orders, require: {anonymous: true}, match: {path: ▶/health}}\n\
                 - {service: orders, require: {anonymous: true}, match: {path: {prefix: /v1}}}\n\
                 - {service: orders, require: {anonymous: true}}\n";
    let route = document("Route", &format!("hosts: [a.example.com]\nrules:\n{rules}"));
    let found = problems(&format!("{route}{SERVICE}").replace(MARK, ""));
    let messages: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{messages:?}");
    assert!(
        messages[0].contains("`{exact: /health}`") && messages[0].contains("`{prefix: /health}`"),
        "{messages:?}"
    );
}

#[test]
fn shadow_that_lets_everybody_in_is_told() {
    let shadow = |mode: &str, rule: &str| {
        let route = document(
            "Route",
            &format!("{mode}hosts: [a.example.com]\nrules:\n- {{{rule}}}"),
        );
        let found = problems(&format!("{route}{SERVICE}{}", crate::problems::table::ISSUER));
        found
            .iter()
            .filter(|problem| problem.message.contains("everybody is let in"))
            .map(|problem| problem.path.clone())
            .collect::<Vec<_>>()
    };
    let token = &format!("{TOKEN}}}}}");
    let open = "service: orders, require: {anonymous: true}";
    assert_eq!(shadow("mode: shadow\n", token), ["spec.mode"]);
    assert_eq!(
        shadow("", &format!("{token}, mode: shadow")),
        ["spec.rules[0].mode"]
    );
    assert_eq!(
        shadow("mode: shadow\n", &format!("{token}, mode: enforce")),
        [""; 0]
    );
    assert_eq!(shadow("mode: shadow\n", open), [""; 0]);
    assert_eq!(shadow("", token), [""; 0]);
}

#[test]
fn other_mistakes_of_rules_say_what_was_meant() {
    each_has_one(&[
        (
            rule("{service: orders, require: {anonymous: true}, ▶retries: 3}"),
            "spec.rules[0].retries",
            "belongs to the Service",
        ),
        (
            rule("{service: orders, require: {anonymous: true, when: 'request.headers[\"x\"] ▶= \"a\"'}}"),
            "spec.rules[0].require.when",
            "did you mean `==`?",
        ),
    ]);
    let found = problems("admin: {address: 127.0.0.1:9600}\ngateway: {listeners: []}\npolicies: [a]\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .message
            .contains("an agent's configuration, not a policy")
    );
}
