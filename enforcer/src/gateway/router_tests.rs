//! The router against a matcher that tries every rule.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::policy::model::{Access, Mode, Origin, Requirement, Routing, Rule};

fn route(name: &str, hosts: Vec<HostPattern>, rules: Vec<(PathMatch, Vec<Method>)>) -> Arc<Route> {
    let rules = rules.into_iter().map(|(path, methods)| Rule {
        path,
        methods,
        require: Requirement::Anybody,
        access: Access::default(),
        limits: Vec::new(),
        service: "s".parse().unwrap(),
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
        hosts,
        rules: rules.collect(),
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

fn found(router: &Router, host: &str, path: &str) -> Option<(usize, usize)> {
    router
        .find(host, path, &Method::GET)
        .map(|at| (at.route, at.rule))
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
    let post = |path| {
        router
            .find("h", path, &Method::POST)
            .map(|at| (at.route, at.rule))
    };
    assert_eq!(post("/admin/x"), Some((1, 1)));
    assert_eq!(post("/admin/open/y"), Some((2, 0)));
    assert_eq!(post("/"), None);
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
    let time = |router: &Router, last: usize| {
        let path = format!("/service/{last}/v1/orders/17");
        let fastest = (0..20).map(|_| {
            let start = Instant::now();
            for _ in 0..500 {
                let at = std::hint::black_box(router).find("api.example.com", &path, &Method::GET);
                assert_eq!(at, Some(RuleIndex { route: last, rule: 0 }));
            }
            start.elapsed()
        });
        fastest.min().unwrap()
    };
    let (few, many) = (time(&many(10), 9), time(&many(10_000), 9_999));
    assert!(many < few * 10, "10 routes: {few:?}, 10,000 routes: {many:?}");
}

#[test]
fn a_long_path_costs_no_more_than_the_longest_prefix() {
    let router = Router::new(&[route("a", vec![host("*")], vec![(prefix("/a/b"), vec![])])]);
    let path = "/x".repeat(8_000);
    let start = Instant::now();
    assert_eq!(found(&router, "h", &path), None);
    // Hashing every prefix would be 64 MB of input.
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
}

/// The documented order, literally.
fn naive(routes: &[Arc<Route>], name: &str, path: &str, method: &Method) -> Option<RuleIndex> {
    let specificity = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(_) => (2, 0),
        HostPattern::Suffix(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    };
    let fitting = |route: &Route| -> Option<(i32, usize)> {
        route
            .hosts
            .iter()
            .filter(|host| host.matches(name))
            .map(specificity)
            .max()
    };
    let best = routes.iter().filter_map(|route| fitting(route)).max()?;
    let mut offers = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        if !route
            .hosts
            .iter()
            .any(|host| host.matches(name) && specificity(host) == best)
        {
            continue;
        }
        let first = route.rules.iter().position(|rule| {
            rule.path.matches(path) && (rule.methods.is_empty() || rule.methods.contains(method))
        });
        if let Some(rule) = first {
            let length = match &route.rules[rule].path {
                PathMatch::Exact(_) => usize::MAX,
                PathMatch::Prefix(prefix) => prefix.len(),
            };
            offers.push((std::cmp::Reverse(length), RuleIndex { route: index, rule }));
        }
    }
    offers.into_iter().min().map(|(_, at)| at)
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["a", "b", "ab"], 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn some_match() -> impl Strategy<Value = PathMatch> {
    (some_path(), any::<bool>())
        .prop_map(|(path, is_exact)| if is_exact { exact(&path) } else { prefix(&path) })
}

fn some_method() -> impl Strategy<Value = Method> {
    prop_oneof![Just(Method::GET), Just(Method::POST)]
}

fn some_host() -> impl Strategy<Value = HostPattern> {
    prop_oneof!["[ab]", "[ab]\\.[ab]", "\\*\\.[ab]", "\\*\\.[ab]\\.[ab]", "\\*"].prop_map(|name| host(&name))
}

proptest! {
    #[test]
    fn agrees_with_the_naive_matcher(
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
    ) {
        let routes: Vec<_> = routes
            .into_iter()
            .enumerate()
            .map(|(i, (hosts, rules))| route(&format!("r{i}"), hosts, rules))
            .collect();
        let path = if slash && path != "/" { path + "/" } else { path };
        let router = Router::new(&routes);
        prop_assert_eq!(router.find(&name, &path, &method), naive(&routes, &name, &path, &method));
    }
}
