//! Which rule decides, by what a request says in its header fields and query.

use enforcer_model::{Condition, Part, PathMatch, Pattern, PolicySet, Requirement, Rule, Test};
use http::{HeaderName, StatusCode};

use crate::data_path::support::{
    Plan,
    client::{Client, H1, H2, get},
    in_time,
    origin::Origin,
    policy,
};

/// Names and values.
type Fields<'a> = &'a [(&'a str, &'a str)];

fn header(name: &'static str, test: Test) -> Condition {
    Condition {
        part: Part::Header(HeaderName::from_static(name)),
        test,
    }
}

/// A rule that nobody passes, for requests that meet the conditions.
fn closed(conditions: Vec<Condition>) -> Rule {
    let mut rule = policy::open_rule();
    rule.require = Requirement::Nobody;
    rule.routing.conditions = conditions;
    rule
}

fn rules(origin: &Origin) -> PolicySet {
    let mut by_path = closed(Vec::new());
    by_path.path = PathMatch::Regex(Pattern::new("/v[0-9]+/internal(/.*)?").unwrap());
    let query = Condition {
        part: Part::Query("debug".into()),
        test: Test::Present(true),
    };
    let rules = vec![
        by_path,
        closed(vec![header("x-canary", Test::Exact("b".into()))]),
        closed(vec![header(
            "cookie",
            Test::Regex(Pattern::new("(.*; )?canary=1(;.*)?").unwrap()),
        )]),
        closed(vec![query, header("x-user", Test::Present(false))]),
        policy::open_rule(),
    ];
    policy::set(rules, policy::service(&[origin.address]))
}

#[tokio::test]
async fn conditions_choose_the_rule_with_http1_and_http2() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(rules(&origin));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        let cases: [(&str, Fields<'_>, bool); 13] = [
            ("/v1/internal", &[], false),
            ("/v1/internal/x", &[], false),
            ("/v1/%69nternal", &[], false),
            ("/v1/internals", &[], true),
            ("/v1/x", &[("x-canary", "b")], false),
            ("/v1/x", &[("x-canary", "a")], true),
            ("/v1/x", &[("x-canary", "b"), ("x-canary", "b")], true),
            // HTTP/2 may split a cookie; the rule sees one all the same.
            ("/v1/x", &[("cookie", "a=b"), ("cookie", "canary=1")], false),
            ("/v1/x", &[("cookie", "a=b; canary=1")], false),
            ("/v1/x?debug", &[], false),
            ("/v1/x?x&%64ebug=0", &[], false),
            ("/v1/x?debugger", &[], true),
            ("/v1/x?debug", &[("x-user", "1")], true),
        ];
        for (path, fields, admitted) in cases {
            let mut request = get(path);
            for (name, value) in fields {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            let reply = in_time(path, client.send(request)).await.unwrap();
            let expected = if admitted {
                StatusCode::OK
            } else {
                StatusCode::FORBIDDEN
            };
            assert_eq!(reply.status, expected, "{path} {fields:?}");
        }
    }
}

#[tokio::test]
async fn a_reload_changes_conditions_for_connections_that_stand() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(rules(&origin));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/v1/internal").await.status, StatusCode::FORBIDDEN);
    let mut changed = closed(Vec::new());
    changed.path = PathMatch::Regex(Pattern::new("/v1/other").unwrap());
    let rules = vec![changed, policy::open_rule()];
    lab.policies
        .replace(policy::set(rules, policy::service(&[origin.address])));
    assert_eq!(client.get("/v1/internal").await.status, StatusCode::OK);
    assert_eq!(client.get("/v1/other").await.status, StatusCode::FORBIDDEN);
}
