//! How an issuer's keys are read: rotation, outages, floods of unknown keys, hostile servers.

use std::{
    cell::RefCell,
    fs,
    future::Future,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::tokens::{
    issuer::{NOW, SigningKey, claims, key_set, policy},
    trust::Trust,
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use enforcer_gateway::identity::{
    cache::TokenCache,
    source::{self, MAX_DOCUMENT, SourceError},
    token::TokenError,
    verifier::Verifier,
};
use enforcer_model::{CheckedBy, Jwks, JwksSource, Name};
use jsonwebtoken::Algorithm;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Handle,
    time::{sleep, timeout},
};

#[derive(Default)]
struct Server {
    answer: Mutex<(u16, String)>,
    readings: AtomicUsize,
}

impl Server {
    async fn start() -> (Arc<Self>, JwksSource) {
        let server = Arc::new(Self::default());
        let routes = Router::new()
            .route("/jwks", get(answer))
            .with_state(Arc::clone(&server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (
            server,
            JwksSource::Url {
                url: url.parse().unwrap(),
                ca: None,
            },
        )
    }

    fn publish(&self, keys: &[&SigningKey]) {
        self.answer(200, key_set(keys).to_string());
    }

    fn answer(&self, status: u16, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    fn readings(&self) -> usize {
        self.readings.load(Ordering::SeqCst)
    }
}

async fn answer(State(server): State<Arc<Server>>) -> Response {
    server.readings.fetch_add(1, Ordering::SeqCst);
    let (status, body) = server.answer.lock().unwrap().clone();
    let location = [(header::LOCATION, "/elsewhere")];
    (StatusCode::from_u16(status).unwrap(), location, body).into_response()
}

/// A worker that trusts the server's keys.
struct Worker {
    issuer: Name,
    verifier: Verifier,
    cache: RefCell<TokenCache>,
}

impl Worker {
    async fn start(source: JwksSource, refresh: Duration) -> Self {
        let mut policy = policy(source.clone(), &[Algorithm::ES256]);
        policy.checked_by = CheckedBy::Keys(Jwks { source, refresh });
        let issuer = policy.name.clone();
        let verifier = Verifier::new(&[Arc::new(policy)], None, &Handle::current());
        verifier.first_attempts().await;
        let cache = RefCell::new(TokenCache::new(64).unwrap());
        Self {
            issuer,
            verifier,
            cache,
        }
    }

    async fn verify(&self, token: &str) -> Result<(), TokenError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let source = Ipv4Addr::LOCALHOST.into();
        self.verifier
            .verify_or_refresh(&self.cache, &self.issuer, token, source, now)
            .await
            .map(|_| ())
    }
}

/// Waits until `condition` holds, at most 20 s.
async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let holds = async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), holds).await.is_ok(), "{what}");
}

const SELDOM: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_rotated_key_is_found_by_the_first_token_that_needs_it() {
    let (server, source) = Server::start().await;
    let [old, new] = [SigningKey::es256("old"), SigningKey::es256("new")];
    server.publish(&[&old]);
    let worker = Worker::start(source, SELDOM).await;
    assert_eq!(worker.verify(&old.good_token()).await, Ok(()));
    server.publish(&[&new]);
    assert_eq!(
        worker.verify(&old.good_token()).await,
        Ok(()),
        "nothing was read since"
    );
    assert_eq!(worker.verify(&new.good_token()).await, Ok(()));
    assert_eq!(server.readings(), 2);
}

#[tokio::test]
async fn what_a_withdrawn_key_has_signed_is_no_longer_cached() {
    let (server, source) = Server::start().await;
    let [old, new] = [SigningKey::es256("old"), SigningKey::es256("new")];
    server.publish(&[&old, &new]);
    let worker = Worker::start(source, Duration::from_secs(1)).await;
    let token = old.good_token();
    assert_eq!(worker.verify(&token).await, Ok(()));
    server.publish(&[&new]);
    let refused = || async { worker.verify(&token).await == Err(TokenError::UnknownKey) };
    eventually("the key is withdrawn with the next reading", refused).await;
}

#[tokio::test]
async fn the_same_keys_leave_cached_tokens_alone() {
    let (server, source) = Server::start().await;
    let key = SigningKey::es256("e");
    server.publish(&[&key]);
    let worker = Worker::start(source, Duration::from_secs(1)).await;
    let token = key.good_token();
    assert_eq!(worker.verify(&token).await, Ok(()));
    eventually("it is read again", || async {
        worker.verifier.status()[0].state.attempts > 1
    })
    .await;
    assert_eq!(worker.verify(&token).await, Ok(()));
    assert_eq!(worker.cache.borrow().hits_and_misses(), (1, 1));
}

#[tokio::test]
async fn an_outage_keeps_the_last_good_keys() {
    let (server, source) = Server::start().await;
    let key = SigningKey::es256("e");
    server.publish(&[&key]);
    let worker = Worker::start(source, Duration::from_secs(1)).await;
    let error = || worker.verifier.status()[0].state.last_error.clone();
    for (status, body, reason) in [
        (500, String::new(), "500"),
        (302, String::new(), "redirects are not followed"),
        (200, "<html>".to_owned(), "no JSON Web Key Set"),
        (200, r#"{"keys":[]}"#.to_owned(), "`keys` is empty"),
        (200, " ".repeat(MAX_DOCUMENT + 1), "larger than"),
    ] {
        server.answer(status, body);
        let noticed = || async { error().is_some_and(|error| error.contains(reason)) };
        eventually(reason, noticed).await;
        // A fresh token each time, so that no cache helps.
        assert_eq!(worker.verify(&key.good_token()).await, Ok(()), "{reason}");
    }
    server.publish(&[&key]);
    eventually("it recovers", || async { error().is_none() }).await;
}

#[tokio::test]
async fn nobody_is_blamed_for_a_new_key_during_an_outage() {
    let (server, source) = Server::start().await;
    let [old, new] = [SigningKey::es256("old"), SigningKey::es256("new")];
    server.publish(&[&old]);
    let worker = Worker::start(source, Duration::from_secs(1)).await;
    server.answer(500, String::new());
    for _ in 0..2 {
        let error = worker.verify(&new.good_token()).await.unwrap_err();
        assert_eq!(error, TokenError::KeysOutdated);
        assert!(!error.is_clients());
        assert_eq!(worker.verify(&old.good_token()).await, Ok(()));
    }
    server.publish(&[&old]);
    let blamed = || async { worker.verify(&new.good_token()).await == Err(TokenError::UnknownKey) };
    eventually("once the keys are read again, it counts", blamed).await;
}

#[tokio::test]
async fn a_storm_of_unknown_keys_causes_one_reading() {
    let (server, source) = Server::start().await;
    let key = SigningKey::es256("e");
    server.publish(&[&key]);
    let worker = Worker::start(source, SELDOM).await;
    assert_eq!(server.readings(), 1);
    let tokens: Vec<String> = (0..200)
        .map(|number| {
            let mut header = key.header();
            header["kid"] = format!("unknown-{number}").into();
            key.token(&header, &claims())
        })
        .collect();
    for _ in 0..3 {
        let all = tokens.iter().map(|token| worker.verify(token));
        for result in futures_util::future::join_all(all).await {
            assert_eq!(result, Err(TokenError::UnknownKey));
        }
    }
    assert_eq!(server.readings(), 2);
    assert_eq!(worker.verify(&key.good_token()).await, Ok(()));
}

#[tokio::test]
async fn tokens_wait_for_the_first_reading() {
    let (server, source) = Server::start().await;
    let key = SigningKey::es256("e");
    server.answer(503, String::new());
    let worker = Worker::start(source, SELDOM).await;
    server.publish(&[&key]);
    assert_eq!(worker.verify(&key.good_token()).await, Ok(()));
    assert_eq!(server.readings(), 2);
}

#[tokio::test]
async fn a_dropped_verifier_reads_no_more() {
    let (server, source) = Server::start().await;
    server.publish(&[&SigningKey::es256("e")]);
    let worker = Worker::start(source, Duration::from_secs(1)).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    drop(worker);
    eventually("the task ends", || async { tasks() < before }).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    // Nobody accepts: the kernel does, and no answer ever comes. The paused clock runs ahead.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let source = JwksSource::Url {
        url: url.parse().unwrap(),
        ca: None,
    };
    assert!(matches!(source::read(&source).await, Err(SourceError::Timeout)));
}

#[tokio::test]
async fn files_are_read_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    let source = JwksSource::File(path.clone());
    assert!(
        matches!(source::read(&source).await, Err(SourceError::File { .. })),
        "it is not there"
    );
    fs::write(&path, vec![b' '; MAX_DOCUMENT]).unwrap();
    assert_eq!(source::read(&source).await.unwrap().len(), MAX_DOCUMENT);
    fs::write(&path, vec![b' '; MAX_DOCUMENT + 1]).unwrap();
    assert!(
        source::read(&source)
            .await
            .unwrap_err()
            .to_string()
            .contains("larger than")
    );
    let folder = JwksSource::File(directory.path().into());
    assert!(
        source::read(&folder)
            .await
            .unwrap_err()
            .to_string()
            .contains("no regular file")
    );
}

#[tokio::test]
async fn a_file_that_changes_is_read_long_before_its_refresh() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let trust = Trust::in_keys(&[&old]).await;
    let (of_old, of_new) = (old.good_token(), new.good_token());
    let path = trust.directory.path().join("jwks.json");
    let eventually = async |what: &str, condition: &dyn Fn() -> bool| {
        let wait = async {
            while !condition() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), wait).await.is_ok(), "{what}");
    };
    assert!(trust.verify(&of_old).is_ok() && trust.verify(&of_new).is_err());
    // In place, right after it was read.
    fs::write(&path, key_set(&[&new]).to_string()).unwrap();
    eventually("the key is another", &|| {
        trust.verify(&of_new).is_ok() && trust.verify(&of_old).is_err()
    })
    .await;
    // By a renamed file, as tools replace files.
    let beside = trust.directory.path().join("jwks.new");
    fs::write(&beside, key_set(&[&old]).to_string()).unwrap();
    fs::rename(&beside, &path).unwrap();
    eventually("the key is the first again", &|| trust.verify(&of_old).is_ok()).await;
    // What cannot be read changes nothing.
    fs::write(&path, "{").unwrap();
    eventually("the mistake is noticed", &|| {
        let status = trust.verifier.status();
        status.iter().any(|issuer| issuer.state.last_error.is_some())
    })
    .await;
    assert!(trust.verify(&of_old).is_ok());
}

/// A TLS server with a certificate of its own, which answers every connection with a key set.
async fn start_tls(body: String) -> (String, String) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = certified.signing_key.serialize_der();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.try_into().unwrap())
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/jwks", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, certified.cert.pem())
}

#[tokio::test]
async fn https_needs_an_authority_that_vouches() {
    let document = key_set(&[&SigningKey::es256("e")]).to_string();
    let (url, pem) = start_tls(document.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let read = |ca: PathBuf| {
        let source = JwksSource::Url {
            url: url.parse().unwrap(),
            ca: Some(ca),
        };
        async move { source::read(&source).await }
    };
    assert_eq!(read(write("ours.pem", &pem)).await.unwrap(), document.as_bytes());
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let error = read(write("other.pem", &other.cert.pem()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let empty = read(write("empty.pem", "")).await;
    assert!(matches!(empty, Err(SourceError::Authorities { .. })));
}
