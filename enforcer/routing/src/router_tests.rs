//! The router by itself, and against a reader that tries every rule.

use std::{path::PathBuf, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::fuzz::plain;
use enforcer_model::{Access, Condition, Destination, Mode, Origin, Part, Requirement, Routing, Rule, Test};

fn route(name: &str, hosts: Vec<HostPattern>, rules: Vec<(PathMatch, Vec<Method>)>) -> Arc<Route> {
    let rules = rules.into_iter().map(|(path, methods)| Rule {
        path,
        methods,
        require: Requirement::Anybody,
        access: Access::default(),
        limits: Vec::new(),
        destination: Destination::to("s".parse().unwrap()),
        timeout: Duration::from_secs(1),
        max_body: 0,
        routing: Routing::default(),
    });
    Arc::new(Route {
        name: name.parse().unwrap(),
        origin: Origin {
            file: PathBuf::from("test.yaml"),
            line: 1,
        },
        mode: Mode::Enforce,
        listeners: Vec::new(),
        hosts,
        rules: rules.collect(),
        passthrough: None,
    })
}

fn at(listener: &str) -> Name {
    listener.parse().unwrap()
}

fn served_at(route: &Arc<Route>, listeners: &[&str]) -> Arc<Route> {
    let listeners = listeners.iter().map(|name| at(name)).collect();
    Arc::new(Route {
        listeners,
        ..Route::clone(route)
    })
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn host(name: &str) -> HostPattern {
    match name.strip_prefix("*.") {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None if name == "*" => HostPattern::Any,
        None => HostPattern::Exact(name.into()),
    }
}

fn regex(text: &str) -> PathMatch {
    PathMatch::Regex(Pattern::new(text).unwrap())
}

/// The rule for a request without header fields and query.
fn find(router: &Router, host: &str, path: &str, method: &Method) -> Option<RuleIndex> {
    let asked = Asked {
        host,
        path,
        query: None,
        method,
        fields: &HeaderMap::new(),
        listener: &at("main"),
    };
    router.find(&asked, router.patterns()).unwrap()
}

fn found(router: &Router, host: &str, path: &str) -> Option<(usize, usize)> {
    find(router, host, path, &Method::GET).map(|at| (at.route, at.rule))
}

#[test]
fn the_most_specific_host_decides_alone() {
    let router = Router::new(&[
        route("a", vec![host("*")], vec![(prefix("/"), vec![])]),
        route("b", vec![host("*.example.com")], vec![(prefix("/b"), vec![])]),
        route(
            "c",
            vec![host("*.x.example.com"), host("api.example.com")],
            vec![(prefix("/c"), vec![])],
        ),
    ]);
    assert_eq!(found(&router, "other.org", "/b"), Some((0, 0)));
    assert_eq!(found(&router, "example.com", "/b"), Some((0, 0)));
    assert_eq!(found(&router, ".example.com", "/b"), Some((0, 0)));
    assert_eq!(found(&router, "w.example.com", "/b"), Some((1, 0)));
    assert_eq!(found(&router, "w.example.com", "/z"), None);
    assert_eq!(found(&router, "w.x.example.com", "/c"), Some((2, 0)));
    assert_eq!(found(&router, "w.x.example.com", "/b"), None);
    assert_eq!(found(&router, "api.example.com", "/c/d"), Some((2, 0)));
    assert_eq!(found(&router, "api.example.com", "/cd"), None);
}

#[test]
fn m5_a_route_is_served_at_its_listeners_alone() {
    let all = vec![(prefix("/"), vec![])];
    let passing = |name, listeners: &[&str]| {
        let route = served_at(&route(name, vec![host("db.example.com")], vec![]), listeners);
        let passthrough = Some(enforcer_model::Passthrough {
            proxy_protocol: false,
        });
        Arc::new(Route {
            passthrough,
            ..Route::clone(&route)
        })
    };
    let router = Router::new(&[
        served_at(&route("a", vec![host("api.example.com")], all.clone()), &["edge"]),
        served_at(
            &route("b", vec![host("api.example.com")], all.clone()),
            &["partners"],
        ),
        route("c", vec![host("*")], all),
        passing("d", &["edge", "partners"]),
        passing("e", &["main"]),
    ]);
    let found = |host: &str, listener: &str| {
        let asked = Asked {
            host,
            path: "/",
            query: None,
            method: &Method::GET,
            fields: &HeaderMap::new(),
            listener: &at(listener),
        };
        router.find(&asked, router.patterns()).unwrap().map(|at| at.route)
    };
    assert_eq!(found("api.example.com", "edge"), Some(0));
    assert_eq!(found("api.example.com", "partners"), Some(1));
    assert_eq!(found("api.example.com", "main"), None, "no catch-all opens it");
    assert_eq!(found("other.example.com", "main"), Some(2));
    for (listener, route) in [
        ("edge", Some(3)),
        ("partners", Some(3)),
        ("main", Some(4)),
        ("x", None),
    ] {
        let passed = router.passthrough("db.example.com", &at(listener));
        assert_eq!(passed.map(|at| at.route), route, "{listener}");
    }
}

#[test]
fn a_route_decides_by_its_first_rule_and_routes_by_the_most_specific_path() {
    let get = vec![Method::GET];
    let router = Router::new(&[
        route(
            "a",
            vec![host("h")],
            vec![(prefix("/admin"), vec![]), (exact("/admin/open"), vec![])],
        ),
        route(
            "b",
            vec![host("h")],
            vec![(prefix("/"), get), (prefix("/admin/x"), vec![])],
        ),
        route(
            "c",
            vec![host("h")],
            vec![(prefix("/admin/open"), vec![Method::POST])],
        ),
    ]);
    assert_eq!(
        found(&router, "h", "/admin/open"),
        Some((0, 0)),
        "the first rule shadows the second"
    );
    assert_eq!(
        found(&router, "h", "/admin/x"),
        Some((0, 0)),
        "b offers / by its first rule"
    );
    assert_eq!(found(&router, "h", "/"), Some((1, 0)));
    let post = |path| find(&router, "h", path, &Method::POST).map(|at| (at.route, at.rule));
    assert_eq!(post("/admin/x"), Some((1, 1)));
    assert_eq!(post("/admin/open/y"), Some((2, 0)));
    assert_eq!(post("/"), None);
}

/// How many look-ups a path costs at a host, and how many rules they find.
fn cost(router: &Router, host: &str, path: &str) -> (usize, usize) {
    let paths = router.paths(host).unwrap();
    let found: Vec<_> = paths.look_ups(path).collect();
    let rules = found.iter().flatten().map(|entries| entries.len()).sum();
    (found.len(), rules)
}

#[test]
fn ten_thousand_routes_cost_no_more_than_ten() {
    let many = |count: usize| {
        let routes: Vec<_> = (0..count)
            .map(|i| {
                let rules = vec![(prefix(&format!("/service/{i}/v1")), vec![])];
                route(
                    &format!("r{i}"),
                    vec![host("api.example.com"), host(&format!("h{i}.org"))],
                    rules,
                )
            })
            .collect();
        Router::new(&routes)
    };
    for count in [10, 10_000] {
        let (router, last) = (many(count), count - 1);
        let path = format!("/service/{last}/v1/orders/17");
        assert_eq!(found(&router, "api.example.com", &path), Some((last, 0)));
        // The exact path, the prefixes that are not longer than the longest, and the root.
        assert_eq!(cost(&router, "api.example.com", &path), (5, 1), "{count} routes");
        assert!(router.patterns().is_empty());
    }
}

#[test]
fn a_long_path_costs_no_more_than_the_longest_prefix() {
    let router = Router::new(&[route("a", vec![host("*")], vec![(prefix("/a/b"), vec![])])]);
    let path = "/x".repeat(8_000);
    assert_eq!(found(&router, "h", &path), None);
    // Hashing every prefix would be 64 MB of input.
    assert_eq!(cost(&router, "h", &path), (4, 0));
}

#[test]
fn regular_expressions_come_after_prefixes_and_in_written_order() {
    let router = Router::new(&[
        route("a", vec![host("h")], vec![(regex("/v[0-9]+/.*"), vec![])]),
        route(
            "b",
            vec![host("h")],
            vec![(prefix("/v1"), vec![]), (exact("/v2/x"), vec![])],
        ),
        route(
            "c",
            vec![host("h")],
            vec![(regex("/v2/.*|/w"), vec![]), (prefix("/v2"), vec![])],
        ),
    ]);
    for (path, expected) in [
        ("/v1/x", Some((1, 0))),
        ("/v2/x", Some((1, 1))),
        ("/v2/y", Some((0, 0))),
        ("/v2", Some((2, 1))),
        ("/w", Some((2, 0))),
        ("/w/", None),
        ("/v/x", None),
    ] {
        assert_eq!(found(&router, "h", path), expected, "{path}");
    }
}

#[test]
fn all_conditions_must_hold() {
    let header = |name: &'static str, test| Condition {
        part: Part::Header(http::HeaderName::from_static(name)),
        test,
    };
    let query = |name: &str, test| Condition {
        part: Part::Query(name.into()),
        test,
    };
    let pattern = |text: &str| Test::Regex(Pattern::new(text).unwrap());
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Condition, Fields<'_>, &str, bool); 18] = [
        (header("x-a", Test::Exact("1".into())), &[("x-a", "1")], "", true),
        (
            header("x-a", Test::Exact("1".into())),
            &[("x-a", "12")],
            "",
            false,
        ),
        (header("x-a", Test::Exact("1".into())), &[], "", false),
        (
            header("x-a", Test::Exact("1, 2".into())),
            &[("x-a", "1"), ("x-a", "2")],
            "",
            true,
        ),
        (
            header("x-a", Test::Exact("1".into())),
            &[("x-a", "1"), ("x-a", "2")],
            "",
            false,
        ),
        (
            header("x-a", Test::Prefix("ab".into())),
            &[("x-a", "abc")],
            "",
            true,
        ),
        (
            header("x-a", Test::Prefix("ab".into())),
            &[("x-a", "a")],
            "",
            false,
        ),
        (header("x-a", pattern("[ab]+")), &[("x-a", "abba")], "", true),
        (header("x-a", pattern("[ab]+")), &[("x-a", "abbc")], "", false),
        (header("x-a", Test::Present(true)), &[("x-a", "")], "", true),
        (header("x-a", Test::Present(true)), &[], "", false),
        (header("x-a", Test::Present(false)), &[("x-a", "1")], "", false),
        (header("x-a", Test::Present(false)), &[], "", true),
        (query("v", Test::Exact("a b/".into())), &[], "u=1&v=a+b%2f", true),
        (query("v", pattern("[0-9]")), &[], "w&v=7", true),
        (query("v", Test::Present(true)), &[], "v", true),
        (query("v", Test::Present(false)), &[], "w=v", true),
        (query("v", Test::Present(true)), &[], "vv=1", false),
    ];
    for (condition, fields, query, expected) in cases {
        let mut conditional = Route::clone(&route("a", vec![host("h")], vec![(prefix("/"), vec![])]));
        let wanted = format!("{condition:?} of {fields:?} and {query}");
        let never = header("x-other", Test::Present(true));
        conditional.rules[0].routing.conditions = vec![condition, header("x-all", Test::Present(true))];
        let router = Router::new(&[Arc::new(conditional.clone())]);
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().chain(&[("x-all", "")]) {
            map.append(*name, value.parse().unwrap());
        }
        let asked = Asked {
            host: "h",
            path: "/",
            query: Some(query),
            method: &Method::GET,
            fields: &map,
            listener: &at("main"),
        };
        let is_found = |router: &Router| router.find(&asked, router.patterns()).unwrap().is_some();
        assert_eq!(is_found(&router), expected, "{wanted}");
        conditional.rules[0].routing.conditions.push(never);
        assert!(!is_found(&Router::new(&[Arc::new(conditional)])), "{wanted}");
    }
}

#[test]
fn l12_no_rule_decides_by_one_of_several_values() {
    let with = |name: &str, test: Test| Condition {
        part: Part::Query(name.into()),
        test,
    };
    let paths = vec![(prefix("/a"), vec![Method::GET]), (prefix("/"), vec![])];
    let mut conditional = Route::clone(&route("a", vec![host("h")], paths));
    conditional.rules[0].routing.conditions = vec![
        with("v", Test::Exact("1".into())),
        with("w", Test::Present(true)),
        with("x", Test::Exact("y".into())),
    ];
    let routes = [Arc::new(conditional)];
    let router = Router::new(&routes);
    let fields = HeaderMap::new();
    let (unclear, narrow, wide) = (Err(Undecided::Repeated), Ok(Some(0)), Ok(Some(1)));
    for (method, path, query, expected) in [
        (Method::GET, "/a", "v=1&w&x=y", narrow),
        (Method::GET, "/a", "v=1&w&w&x=y", narrow),
        (Method::GET, "/a", "v=1&v=2&w&x=y", unclear),
        (Method::GET, "/a", "v=1&v=1&w&x=y", unclear),
        (Method::GET, "/a", "v=2&w&%76=1&x=y&x=y", unclear),
        // It does not fit, whichever of the values counts.
        (Method::GET, "/a", "v=1&v=2&x=y", wide),
        (Method::GET, "/a", "v=1&v=2&w&x=z", wide),
        (Method::POST, "/a", "v=1&v=2&w&x=y", wide),
        (Method::GET, "/b", "v=1&v=2&w&x=y", wide),
    ] {
        let asked = Asked {
            host: "h",
            path,
            query: Some(query),
            method: &method,
            fields: &fields,
            listener: &at("main"),
        };
        let found = router.find(&asked, router.patterns());
        assert_eq!(
            found.map(|found| found.map(|found| found.rule)),
            expected,
            "{method} {path}?{query}"
        );
        assert_eq!(found, plain(&routes, &asked), "{method} {path}?{query}");
    }
}

#[test]
fn l12_expressions_are_not_tried_on_long_paths() {
    let rules = vec![(regex("/(x|y)*"), vec![]), (prefix("/"), vec![])];
    let routes = [
        route("a", vec![host("h")], rules),
        route("b", vec![host("i")], vec![(prefix("/"), vec![])]),
    ];
    let router = Router::new(&routes);
    for (host, length, expected) in [
        ("h", LONGEST_FOR_REGEX, Ok(true)),
        ("h", LONGEST_FOR_REGEX + 1, Err(Undecided::TooLong)),
        ("i", LONGEST_FOR_REGEX + 1, Ok(true)),
    ] {
        let path = format!("/{}", "x".repeat(length - 1));
        let asked = Asked {
            host,
            path: &path,
            query: None,
            method: &Method::GET,
            fields: &HeaderMap::new(),
            listener: &at("main"),
        };
        let found = router.find(&asked, router.patterns());
        assert_eq!(found.map(|found| found.is_some()), expected, "{host} {length}");
        assert_eq!(found, plain(&routes, &asked));
    }
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["a", "b", "ab"], 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn some_match() -> impl Strategy<Value = PathMatch> {
    (some_path(), 0..5).prop_map(|(path, kind)| match kind {
        0 => regex(&format!("{path}.*")),
        1 | 2 => exact(&path),
        _ => prefix(&path),
    })
}

fn some_method() -> impl Strategy<Value = Method> {
    prop_oneof![Just(Method::GET), Just(Method::POST)]
}

fn some_host() -> impl Strategy<Value = HostPattern> {
    prop_oneof!["[ab]", "[ab]\\.[ab]", "\\*\\.[ab]", "\\*\\.[ab]\\.[ab]", "\\*"].prop_map(|name| host(&name))
}

proptest! {
    #[test]
    fn agrees_with_a_plain_reader(
        routes in prop::collection::vec(
            (
                prop::collection::vec(some_host(), 1..3),
                prop::collection::vec((some_match(), prop::collection::vec(some_method(), 0..2)), 1..4),
            ),
            0..8,
        ),
        name in "[ab](\\.[ab]){0,3}",
        path in some_path(),
        slash in any::<bool>(),
        method in some_method(),
        served in prop::collection::vec(prop::sample::subsequence(vec!["edge", "main"], 0..=2), 8),
        at_edge in any::<bool>(),
    ) {
        let routes: Vec<_> = routes
            .into_iter()
            .zip(served)
            .enumerate()
            .map(|(i, ((hosts, rules), served))| served_at(&route(&format!("r{i}"), hosts, rules), &served))
            .collect();
        let path = if slash && path != "/" { path + "/" } else { path };
        let router = Router::new(&routes);
        let (fields, listener) = (HeaderMap::new(), at(if at_edge { "edge" } else { "main" }));
        let asked = Asked { host: &name, path: &path, query: None, method: &method, fields: &fields, listener: &listener };
        prop_assert_eq!(router.find(&asked, router.patterns()), plain(&routes, &asked));
    }
}
