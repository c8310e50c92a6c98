//! What a rule is judged by is what its service gets, however a client writes it.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use enforcer_model::{Credential, PolicySet, Revocation};
use enforcer_tls::config::ClientCertificates;
use http::{HeaderName, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::data_path::{
    api_keys::{document, key, load},
    hostile_http2::{DATA, END_HEADERS, END_STREAM, GET, HEADERS, exchange, fields, frame},
    support::{
        Lab, Plan,
        client::{self, Client, H1, H2, Reply, get},
        in_time,
        origin::Origin,
    },
};

/// What a route with these rules, and services at `origin`, loads as.
fn set(origin: SocketAddr, rules: &str) -> PolicySet {
    let service = format!("  endpoints: [\"http://{origin}\"]");
    load(
        &[
            document("Service", "orders", &service),
            document("Route", "main", &format!("  hosts: [\"*\"]\n  rules:\n{rules}")),
        ]
        .concat(),
    )
}

const OPEN: &str = "    - {service: orders, require: {anonymous: true}}\n";

/// A rule that admits nobody.
fn closed(matched: &str) -> String {
    format!("    - {{match: {{{matched}}}, service: orders, require: {{anonymous: false}}}}\n")
}

async fn with(client: &mut Client, path: &str, more: &[(&str, &str)]) -> Reply {
    let mut request = get(path);
    for (name, value) in more {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    in_time(path, client.send(request)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_an_escape_is_judged_and_forwarded_like_the_character() {
    let origin = Origin::start().await;
    let rules = [
        closed("path: {exact: '/v1/users:delete'}"),
        closed("path: {prefix: '/a@b'}"),
        closed("path: {regex: '/r[(]x[)].*'}"),
        "    - {match: {path: {prefix: /when}}, service: orders, require: {anonymous: true, when: 'request.path != \"/when/$,=\"'}}\n".to_owned(),
        OPEN.to_owned(),
    ];
    let lab = Plan::default().start(set(origin.address, &rules.concat()));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for path in [
            "/v1/users:delete",
            "/v1/users%3Adelete",
            "/v1/users%3adelete",
            "/%761/users%3adelete?x",
            "/a%40b",
            "/a@b/c",
            "/r%28x%29",
            "/r(x%29/y",
            "/when/$,=",
            "/when/%24%2c%3D",
        ] {
            assert_eq!(client.get(path).await.status, 403, "{path}");
        }
        for (path, forwarded) in [
            (
                "/v1/users%21%24%26%27%28%29%2a%2B%2c%3d%3A%40",
                "/v1/users!$&'()*+,=:@",
            ),
            (
                "/x%7b%7C%7d%22%5b%5D%5e%60%3c%3E",
                "/x%7B%7C%7D%22%5B%5D%5E%60%3C%3E",
            ),
            ("/x{|}\"[]^", "/x%7B%7C%7D%22%5B%5D%5E"),
            ("/caf%c3%a9?q=%c3%a9%3a", "/caf%C3%A9?q=%c3%a9%3a"),
            ("/x%25%3a", "/x%25:"),
        ] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
            assert_eq!(origin.last().target, forwarded, "{path}");
        }
        for path in ["/x%2Fy", "/x%5Cy", "/x%00", "/x%3By", "/x%zz", "/../x"] {
            assert_eq!(client.get(path).await.status, 400, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_methods_that_are_others_but_for_case_are_not_served() {
    let origin = Origin::start().await;
    let rules = closed("methods: [DELETE, PURGE]") + OPEN;
    let lab = Plan::default().start(set(origin.address, &rules));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (method, status) in [
            ("DELETE", 403),
            ("delete", 501),
            ("Delete", 501),
            ("get", 501),
            ("purge", 501),
            ("PURGE", 403),
            ("propFind", 501),
            ("PROPFIND", 200),
            ("LIST", 200),
            ("list", 200),
        ] {
            let mut request = get("/");
            *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
            let reply = in_time(method, client.send(request)).await.unwrap();
            assert_eq!(reply.status, status, "{method}");
            if status == 501 {
                assert_eq!(reply.headers["content-type"], "application/problem+json");
                let body = str::from_utf8(&reply.body).unwrap();
                assert!(
                    body.contains(&format!("write {}", method.to_uppercase())),
                    "{body}"
                );
            }
        }
    }
    assert_eq!(origin.requests(), 2 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_fields_that_connection_names_are_not_judged() {
    let origin = Origin::start().await;
    let rules = [
        "    - {match: {headers: [{name: x-tier, exact: gold}]}, service: orders, require: {anonymous: true}}\n",
        "    - {match: {path: {prefix: /when}}, service: orders, require: {anonymous: true, when: 'request.headers[\"x-tier\"] == \"lead\"'}}\n",
        "    - {match: {path: {prefix: /per}}, service: orders, require: {anonymous: true}, limits: [{per: {header: x-user}, rate: 2/h}]}\n",
        "    - {match: {path: {prefix: /open}}, service: orders, require: {anonymous: true}}\n",
        &closed("path: {prefix: /}"),
    ];
    let lab = Plan::default().start(set(origin.address, &rules.concat()));
    let mut client = Client::connect(&lab, H1).await;
    let gold = ("x-tier", "gold");
    let ask =
        async |client: &mut Client, path: &str, more: &[(&str, &str)]| with(client, path, more).await.status;
    assert_eq!(ask(&mut client, "/", &[gold]).await, 200);
    for connection in ["x-tier", "keep-alive, X-Tier", "x-tier,,te"] {
        let named = ("connection", connection);
        assert_eq!(ask(&mut client, "/", &[gold, named]).await, 403, "{connection}");
        let lead = [("x-tier", "lead"), named];
        assert_eq!(ask(&mut client, "/when", &lead[..1]).await, 200);
        assert_eq!(ask(&mut client, "/when", &lead).await, 403, "{connection}");
    }
    // Whoever could choose the key would have a budget of its own for each.
    let mut admitted = 0;
    for user in ["a", "b", "c", "d"] {
        let more = [("x-user", user), ("connection", "x-user")];
        admitted += usize::from(ask(&mut client, "/per", &more).await == 200);
    }
    assert!((2..4).contains(&admitted), "{admitted}");
    // The gateway's own use of them is as it was.
    let more = [("connection", "te, host"), ("te", "trailers")];
    assert_eq!(ask(&mut client, "/open", &more).await, 200);
    let seen = origin.last().headers;
    assert_eq!(
        (&seen["te"], seen.contains_key("host")),
        (&"trailers".parse().unwrap(), true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_other_spellings_of_a_field_that_a_rule_mentions_reach_nobody() {
    let origin = Origin::start().await;
    let rules = [
        "    - {match: {headers: [{name: x-tenant, exact: a}]}, service: orders, require: {anonymous: true}}\n",
        "    - {match: {path: {prefix: /set}}, service: orders, require: {anonymous: true}, requestHeaders: {set: {x-role: user, x_mark: mine}, remove: [x-debug]}}\n",
        "    - {match: {path: {prefix: /when}}, service: orders, require: {anonymous: true, when: 'request.headers[\"x-zone\"] == \"eu\"'}}\n",
        OPEN,
    ];
    let lab = Plan::default().start(set(origin.address, &rules.concat()));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for path in ["/", "/set", "/when"] {
            let mut more = vec![("x-zone", "eu")];
            let aliases = ["x_tenant", "x.tenant", "x_role", "x.debug", "x-mark", "x_zone"];
            more.extend(aliases.map(|name| (name, "forged")));
            more.extend([("x_other", "kept"), ("x-tenants", "kept")]);
            assert_eq!(with(&mut client, path, &more).await.status, 200, "{path}");
            let seen = origin.last().headers;
            for name in aliases {
                assert!(!seen.contains_key(name), "{path}: {name}");
            }
            assert_eq!(
                (&seen["x_other"], &seen["x-tenants"]),
                (&"kept".parse().unwrap(), &"kept".parse().unwrap())
            );
            if path == "/set" {
                assert_eq!(
                    (&seen["x-role"], &seen["x_mark"]),
                    (&"user".parse().unwrap(), &"mine".parse().unwrap())
                );
            }
        }
    }
}

/// An origin that keeps what it reads, and answers each request that ends in a last chunk.
async fn reader() -> (SocketAddr, Arc<Mutex<VecDeque<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::new(Mutex::new(VecDeque::new()));
    let kept = Arc::clone(&read);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            loop {
                let length = stream.read(&mut buffer).await.unwrap_or(0);
                if length == 0 {
                    break;
                }
                let ends = {
                    let mut kept = kept.lock().unwrap();
                    kept.extend(&buffer[..length]);
                    let all = kept.make_contiguous();
                    all.ends_with(b"\r\n\r\n") && all.windows(3).any(|three| three == b"0\r\n")
                };
                if ends {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    });
    (address, read)
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_trailers_have_no_field_that_a_rule_mentions() {
    let (address, read) = reader().await;
    let rules = [
        "    - {match: {headers: [{name: x-tenant, exact: a}]}, service: orders, require: {anonymous: true}}\n",
        "    - {service: orders, require: {anonymous: true}, requestHeaders: {set: {x-role: user}, remove: [x-debug]}}\n",
    ];
    let lab = Plan::default().start(set(address, &rules.concat()));
    let trailers = "x-tenant: forged\r\nx_tenant: forged\r\nx-role: forged\r\nx.role: forged\r\nx_debug: forged\r\nx-kept: yes\r\n";
    let message = format!(
        "POST / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\ntrailer: x-tenant, x_tenant, x-role, x.role, x_debug, x-kept\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n"
    );
    let answer = client::raw(&lab, message.as_bytes()).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let seen = String::from_utf8(read.lock().unwrap().iter().copied().collect()).unwrap();
    assert!(!seen.contains("forged"), "{seen}");
    assert!(
        seen.contains("x-role: user") && seen.contains("x-kept: yes"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_a_revoked_certificate_says_nothing_in_shadow_whatever_is_wrong_first() {
    let origin = Origin::start().await;
    let his = key("his", "");
    let rules = [
        "    - {match: {path: {prefix: /when}}, service: orders, mode: shadow, require: {mtls: {}, when: 'request.method == \"PUT\"'}}\n",
        "    - {match: {path: {prefix: /key}}, service: orders, mode: shadow, require: {mtls: {}, apiKey: {keys: partners}}}\n",
        "    - {match: {path: {prefix: /from}}, service: orders, mode: shadow, require: {mtls: {}, from: [192.0.2.0/24]}}\n",
        "    - {match: {path: {prefix: /only}}, service: orders, mode: shadow, require: {mtls: {}}}\n",
    ];
    let keys = document("ApiKeys", "partners", &format!("  keys:\n{}", his.entry));
    let service = format!("  endpoints: [\"http://{}\"]", origin.address);
    let route = format!("  hosts: [\"*\"]\n  rules:\n{}", rules.concat());
    let set = load(
        &[
            keys,
            document("Service", "orders", &service),
            document("Route", "main", &route),
        ]
        .concat(),
    );
    let lab = Plan {
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    }
    .start(set);
    let certificate = lab.pki.client("spiffe://example.com/alice");
    let parsed = enforcer_tls::certificate::ClientCertificate::from_der(&certificate.certificate);
    let config = lab.pki.client_config(Some(certificate), H1);
    let told = async |lab: &Lab, path: &str| {
        let stream = client::tls(lab.address, Arc::clone(&config)).await.unwrap();
        let mut client = Client::over(stream).await;
        assert_eq!(client.get(path).await.status, StatusCode::OK, "{path}");
        origin.last().headers.contains_key("x-enforcer-identity")
    };
    let paths = ["/when", "/key", "/from", "/only"];
    for path in paths {
        assert!(told(&lab, path).await, "{path}");
    }
    let revocation = Revocation {
        what: Credential::Certificate(parsed.unwrap().fingerprint_sha256),
        reason: None,
        until: None,
    };
    lab.policies.revocations().add(revocation).unwrap();
    for path in paths {
        assert!(!told(&lab, path).await, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_equal_lengths_become_one_and_different_ones_are_refused() {
    let (address, read) = reader().await;
    let lab = Plan::default().start(set(address, OPEN));
    let ask = |lengths: &[&str]| {
        let mut head = GET.to_vec();
        head[0].1 = "POST";
        head.extend(lengths.iter().map(|length| ("content-length", *length)));
        // The origin answers what ends so.
        let body = frame(DATA, END_STREAM, 1, b"0\r\n\r\n");
        [frame(HEADERS, END_HEADERS, 1, &fields(&head)), body].concat()
    };
    let kinds = exchange(&lab, &ask(&["5", "5", "5"])).await;
    assert!(kinds.contains(&HEADERS), "{kinds:?}");
    let seen = String::from_utf8(read.lock().unwrap().iter().copied().collect()).unwrap();
    assert_eq!(seen.matches("content-length: 5\r\n").count(), 1, "{seen}");
    exchange(&lab, &ask(&["5", "6"])).await;
    exchange(&lab, &ask(&["5", "5", "05"])).await;
    let again = String::from_utf8(read.lock().unwrap().iter().copied().collect()).unwrap();
    assert_eq!(again, seen, "no other request comes to the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_a_parameter_that_decides_comes_once() {
    let origin = Origin::start().await;
    let rules = [
        "    - {match: {path: {prefix: /v}, query: [{name: version, exact: \"1\"}]}, service: orders, require: {anonymous: true}}\n",
        "    - {match: {path: {prefix: /v}, query: [{name: debug, present: true}]}, service: orders, require: {anonymous: false}}\n",
        OPEN,
    ];
    let lab = Plan::default().start(set(origin.address, &rules.concat()));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (path, status) in [
            ("/v?version=1", 200),
            ("/v?version=2", 200),
            ("/v?version=1&version=2", 400),
            ("/v?version=2&%76ersion=1", 400),
            ("/v?version=1&version=1", 400),
            ("/v?x=1&x=2", 200),
            ("/v?debug&debug", 403),
            ("/other?version=1&version=2", 200),
        ] {
            assert_eq!(client.get(path).await.status, status, "{path}");
        }
    }
}
