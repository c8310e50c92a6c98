//! What all proxies share: a namespace, certificates, tokens, the upstream and the load's thread.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{
    client::{Client, Protocol},
    demo::policies::{AUDIENCE, CLIENT_SPIFFE, HOST, ISSUER, SCOPE},
    issuer::signing::{Claims, Keys, now, token_id},
    netns::{Namespace, PREFIX},
    pki::{Authority, Identity},
    resident::Resident,
    sys,
    workspace::Workspace,
};

/// The processor of the load and the upstream; proxies have [`PROXY_PROCESSOR`].
const LOAD_PROCESSOR: usize = 1;
pub(super) const PROXY_PROCESSOR: usize = 0;
pub(super) const ORIGIN: SocketAddr = loopback(8080);
/// What a small response says: 70 bytes.
const SMALL: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";
const LIFETIME: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Fields are dropped in this order: the threads first, the namespace last.
pub(super) struct Ground {
    pub(super) load: Resident,
    /// The load's neighbours: see [`super::crowd`].
    pub(super) crowd: Resident,
    _origin: Resident,
    keys: Keys,
    authority: Authority,
    client: Identity,
    pub(super) peers: PathBuf,
    pub(super) workspace: Workspace,
    pub(super) namespace: Namespace,
}

impl Ground {
    pub(super) fn make(peers: &Path) -> Result<Self> {
        let namespace = Namespace::create(&format!("{PREFIX}{}-gateway", std::process::id()))?;
        let workspace = Workspace::create()?;
        let folder = workspace.path();
        let authority = Authority::create("Bench CA")?;
        let server = authority.server(&[HOST], &[ORIGIN.ip()])?;
        let client = authority.client(CLIENT_SPIFFE)?;
        authority.write(folder, "ca")?;
        let files = server.write(folder, "server")?;
        let both = [&files.certificate, &files.key].map(std::fs::read_to_string);
        let [certificate, key] = both;
        std::fs::write(folder.join("server-both.pem"), certificate? + &key?)?;
        let keys = Keys::create()?;
        std::fs::write(folder.join("jwks.json"), keys.published().to_string())?;
        std::fs::write(folder.join("token.pem"), keys.public_pem())?;
        let origin = Resident::start(&namespace, "origin")?;
        origin.wait(serve())??;
        let load = Resident::start(&namespace, "load")?;
        let crowd = Resident::start(&namespace, "crowd")?;
        for resident in [&load, &crowd] {
            resident.wait(async { sys::stay_on(LOAD_PROCESSOR) })??;
        }
        Ok(Self {
            load,
            crowd,
            _origin: origin,
            keys,
            authority,
            client,
            peers: peers.to_owned(),
            workspace,
            namespace,
        })
    }

    /// A client of a proxy, with its certificate.
    pub(super) fn client(&self, proxy: SocketAddr, protocol: Protocol) -> Result<Client> {
        let authority = self.authority.certificate();
        let client = Client::https(proxy, HOST, authority, Some(&self.client), protocol)?;
        Ok(client.with_patience(PATIENCE))
    }

    /// A token that nobody has seen.
    pub(super) fn token(&self) -> Result<String> {
        let now = now();
        self.keys.sign(&Claims {
            iss: ISSUER,
            sub: "shop",
            aud: AUDIENCE,
            client_id: "shop",
            scope: SCOPE,
            iat: now,
            exp: now + LIFETIME.as_secs(),
            jti: token_id()?,
        })
    }
}

/// What large responses are cut from: more than the sockets on the way hold.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'x'; 32 << 20].into());

/// Serves what the load asks for: `/small`, `/SIZE` bytes, and what is posted is counted.
async fn serve() -> Result<()> {
    sys::stay_on(LOAD_PROCESSOR)?;
    let listener = TcpListener::bind(ORIGIN)
        .await
        .with_context(|| format!("cannot listen on {ORIGIN}"))?;
    drop(tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            // Answers are small and should not wait for more.
            let _ = stream.set_nodelay(true);
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            drop(tokio::spawn(connection));
        }
    }));
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let size = request.uri().path().trim_start_matches('/').parse::<usize>();
    let body = match size {
        _ if request.method() == Method::POST => {
            let mut bytes = 0;
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            Bytes::from(bytes.to_string())
        }
        Ok(size) => LARGE.slice(..size.min(LARGE.len())),
        Err(_) => Bytes::from_static(SMALL.as_bytes()),
    };
    Ok(Response::new(Full::new(body)))
}
