//! What is changed on the way, and where requests go.

use std::{collections::HashMap, fs, num::NonZeroU16, sync::Arc};

use enforcer_model::{
    Destination, FieldChanges, PathChange, PathMatch, Pattern, PolicySet, Redirect, Requirement, Rewrite,
    Rule, Service, Template, Weighted,
};
use enforcer_policy as loader;
use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};
use tempfile::TempDir;

use crate::data_path::support::{
    Lab, Plan,
    client::{Client, H1, H2, get, post},
    eventually, in_time,
    origin::Origin,
    pki::HOST,
    policy,
};

fn field(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

fn prefix(path: &str) -> Rule {
    let mut rule = policy::open_rule();
    rule.path = PathMatch::Prefix(path.into());
    rule
}

fn redirecting(path: &str, redirect: Redirect) -> Rule {
    let mut rule = prefix(path);
    rule.destination = Destination::Redirect(redirect);
    rule
}

fn elsewhere() -> Redirect {
    Redirect {
        status: StatusCode::FOUND,
        scheme: None,
        host: None,
        port: None,
        path: None,
    }
}

#[tokio::test]
async fn services_get_what_the_rule_makes_of_a_request() {
    let origin = Origin::start().await;
    let mut shop = prefix("/shop");
    shop.routing.rewrite = Rewrite {
        path: Some(PathChange::Prefix {
            from: "/shop".into(),
            to: "/v2".into(),
        }),
        host: Some(HeaderValue::from_static("internal.example.com:8080")),
    };
    shop.routing.request_fields = FieldChanges {
        remove: vec![HeaderName::from_static("authorization")],
        set: vec![field("x-version", "2")],
        add: vec![field("x-tag", "gateway")],
    };
    shop.routing.response_fields = FieldChanges {
        remove: vec![HeaderName::from_static("x-kept")],
        set: vec![field("cache-control", "no-store")],
        add: vec![],
    };
    let mut user = prefix("/user");
    let pattern = Pattern::new("/user/([0-9]+)/(.*)").unwrap();
    let with = Template::new("/$2/$1", &pattern).unwrap();
    user.routing.rewrite.path = Some(PathChange::Regex { pattern, with });
    // What is forwarded is not what another rule is about: the rule was chosen before.
    let mut closed = prefix("/v2");
    closed.require = Requirement::Nobody;
    let lab = Plan::default().start(policy::set(
        vec![shop, user, closed, policy::open_rule()],
        policy::service(&[origin.address]),
    ));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (path, target) in [
            ("/shop/cart?a=b", "/v2/cart?a=b"),
            ("/%73hop/../shop", "/v2"),
            ("/user/7/orders", "/orders/7"),
            ("/user/x/orders?q", "/user/x/orders?q"),
            ("/other", "/other"),
        ] {
            assert_eq!(client.get(path).await.status, StatusCode::OK, "{path}");
            assert_eq!(origin.last().target, target, "{path}");
        }
        assert_eq!(client.get("/v2/cart").await.status, StatusCode::FORBIDDEN);

        let mut request = get("/shop/x");
        for (name, value) in [
            ("authorization", "secret"),
            ("x-version", "1"),
            ("x-tag", "client"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let reply = in_time("fields", client.send(request)).await.unwrap();
        assert_eq!(reply.headers["cache-control"], "no-store");
        let seen = origin.last().headers;
        assert!(!seen.contains_key("authorization"));
        assert_eq!(seen["x-version"], "2");
        let tags: Vec<_> = seen.get_all("x-tag").iter().collect();
        assert_eq!(tags, ["client", "gateway"]);
        assert_eq!(seen["host"], "internal.example.com:8080");
        assert_eq!(seen["x-forwarded-host"], HOST);
    }
}

#[tokio::test]
async fn fields_of_responses_are_changed_and_those_of_refusals_are_not() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.max_body = 3;
    rule.routing.response_fields = FieldChanges {
        remove: vec![HeaderName::from_static("x-kept")],
        set: vec![field("x-new", "1")],
        add: vec![],
    };
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut client = Client::connect(&lab, H1).await;
    let reply = client.get("/hop").await;
    assert_eq!(
        (reply.headers.get("x-kept"), &reply.headers["x-new"]),
        (None, &HeaderValue::from_static("1"))
    );
    let reply = in_time("too large", client.send(post("/", "four")))
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!reply.headers.contains_key("x-new"));
}

#[tokio::test]
async fn clients_are_told_where_else_to_ask_once_they_are_admitted() {
    let origin = Origin::start().await;
    let mut closed = redirecting(
        "/closed",
        Redirect {
            host: Some("login.example.com".into()),
            ..elsewhere()
        },
    );
    closed.require = Requirement::Nobody;
    let mut whole = redirecting(
        "/whole",
        Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            scheme: Some(Scheme::HTTP),
            host: Some("old.example.com".into()),
            port: NonZeroU16::new(8080),
            path: Some(PathChange::Whole("/new".into())),
        },
    );
    whole.routing.response_fields.set = vec![field("cache-control", "max-age=60")];
    let pattern = Pattern::new("/p/(.*)").unwrap();
    let with = Template::new("/$1", &pattern).unwrap();
    let rules = vec![
        closed,
        whole,
        redirecting(
            "/p",
            Redirect {
                path: Some(PathChange::Regex { pattern, with }),
                ..elsewhere()
            },
        ),
        redirecting(
            "/scheme",
            Redirect {
                status: StatusCode::MOVED_PERMANENTLY,
                scheme: Some(Scheme::HTTPS),
                ..elsewhere()
            },
        ),
    ];
    let lab = Plan::default().start(policy::set(rules, policy::service(&[origin.address])));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (path, status, location) in [
            ("/whole/x?a=b", 308, "http://old.example.com:8080/new?a=b"),
            ("/scheme/x?a=b", 301, "https://api.example.com/scheme/x?a=b"),
            ("/p/a", 302, "/a"),
            // Never a reference to another host, which begins with two slashes.
            ("/p//evil.example.org", 302, "/evil.example.org"),
            ("/p/%2e/evil.example.org", 302, "/evil.example.org"),
        ] {
            let reply = client.get(path).await;
            assert_eq!(reply.status.as_u16(), status, "{path}");
            assert_eq!(reply.headers["location"], location, "{path}");
            assert!(reply.body.is_empty());
        }
        assert_eq!(client.get("/whole").await.headers["cache-control"], "max-age=60");
        let reply = client.get("/closed").await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert!(!reply.headers.contains_key("location"));
    }
    assert_eq!(origin.requests(), 0);
    eventually("they are counted without a service", async || {
        let line = r#"enforcer_requests_total{code_class="3xx",route="main",service="",verdict="allowed"}"#;
        lab.metrics().contains(line)
    })
    .await;
}

fn named(name: &str, origin: &Origin) -> Arc<Service> {
    let mut service = policy::service(&[origin.address]);
    service.name = policy::name(name);
    Arc::new(service)
}

/// All requests go to `one` and `two` by their weights.
fn weighted(one: (u32, &Origin), two: (u32, &Origin)) -> PolicySet {
    let mut rule = policy::open_rule();
    let services = [("one", one.0), ("two", two.0)].map(|(name, weight)| Weighted {
        service: policy::name(name),
        weight,
    });
    rule.destination = Destination::Services(services.into());
    let mut set = policy::set(vec![rule], policy::service(&[one.1.address]));
    set.services = vec![named("one", one.1), named("two", two.1)];
    set
}

/// How many requests were counted for each service.
fn counted(lab: &Lab) -> HashMap<String, usize> {
    let metrics = lab.metrics();
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("enforcer_requests_total{"));
    lines
        .map(|line| {
            let service = line
                .split("service=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap();
            (
                service.to_owned(),
                line.rsplit(' ').next().unwrap().parse().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn weights_share_out_requests_and_metrics_name_the_chosen_service() {
    let [one, two] = [Origin::start().await, Origin::start().await];
    let lab = Plan::default().start(weighted((1, &one), (3, &two)));
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..400 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    // 100 are expected, and six standard deviations are 52.
    let at_one = one.requests();
    assert!((48..=152).contains(&at_one), "{at_one} of 400");
    assert_eq!(at_one + two.requests(), 400);
    eventually("each is counted where it went", async || {
        let counted = counted(&lab);
        counted.get("one") == Some(&at_one) && counted.get("two") == Some(&(400 - at_one))
    })
    .await;

    // The same connection goes on under other weights.
    lab.policies.replace(weighted((1, &one), (0, &two)));
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    assert_eq!(one.requests(), at_one + 50);
    assert_eq!(one.state.connections.load(std::sync::atomic::Ordering::SeqCst), 1);

    // What was counted for a service that the rule no longer leads to is taken out.
    let mut set = weighted((1, &one), (0, &two));
    let mut rule = policy::open_rule();
    rule.destination = Destination::to(policy::name("one"));
    set.routes = policy::set(vec![rule], policy::service(&[one.address])).routes;
    lab.policies.replace(set);
    eventually("it is forgotten", async || !counted(&lab).contains_key("two")).await;
}

#[tokio::test]
async fn limits_by_service_are_those_of_the_chosen_one() {
    let [one, two] = [Origin::start().await, Origin::start().await];
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    let service = |name: &str, origin: &Origin| {
        let endpoint = origin.address;
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: ['http://{endpoint}']}}\n---\n"
        )
    };
    let limited = "require: {anonymous: true}, limits: [{rate: 5/h, per: service}]";
    let route = format!(
        "apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: main}}\nspec:\n  hosts: [{HOST}]\n  rules:\n  \
         - {{match: {{path: {{prefix: /both}}}}, services: [{{service: one}}, {{service: two}}], {limited}}}\n  \
         - {{service: one, {limited}}}\n"
    );
    fs::write(&file, service("one", &one) + &service("two", &two) + &route).unwrap();
    let lab = Plan::default().start(loader::load(&[file]).unwrap().set);
    let mut client = Client::connect(&lab, H2).await;
    // That one of them is chosen less than five times in a hundred happens to nobody.
    let mut admitted = 0;
    for _ in 0..100 {
        admitted += usize::from(client.get("/both").await.status == StatusCode::OK);
    }
    assert_eq!((admitted, one.requests(), two.requests()), (10, 5, 5));
    assert_eq!(client.get("/").await.status, StatusCode::TOO_MANY_REQUESTS);
}
