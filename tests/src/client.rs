//! An HTTPS client that says exactly how a request failed.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::pki::Identity;

/// How long a connection or a request may take, unless the client is told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which HTTP the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Where requests go, and as whom.
#[derive(Clone)]
pub struct Client {
    target: SocketAddr,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    protocol: Protocol,
    patience: Duration,
    receive_buffer: Option<u32>,
    source: Option<IpAddr>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The server's alert, or why its certificate was not accepted.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("no answer in time")]
    TimedOut,
    /// The connection had ended, and the request was never sent over it.
    #[error("the connection takes no more requests")]
    Unsent,
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// An open connection.
pub struct Connection {
    sender: Sender,
    host: String,
    patience: Duration,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// A client of `host` at `target`, which trusts `authority` alone.
    ///
    /// # Errors
    /// If `host` is no DNS name or the identity's key does not fit its certificate.
    pub fn https(
        target: SocketAddr,
        host: &str,
        authority: CertificateDer<'static>,
        identity: Option<&Identity>,
        protocol: Protocol,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots
            .add(authority)
            .context("the authority's certificate is unusable")?;
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => config.with_client_auth_cert(identity.chain(), identity.key())?,
        };
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Self {
            target,
            host: host.to_owned(),
            tls: Some((TlsConnector::from(Arc::new(config)), name)),
            protocol,
            patience: PATIENCE,
            receive_buffer: None,
            source: None,
        })
    }

    /// A client without TLS, as for the admin address.
    #[must_use]
    pub fn plain(target: SocketAddr) -> Self {
        Self {
            target,
            host: target.to_string(),
            tls: None,
            protocol: Protocol::Http1,
            patience: PATIENCE,
            receive_buffer: None,
            source: None,
        }
    }

    /// The same client of another address.
    #[must_use]
    pub fn at(mut self, target: SocketAddr) -> Self {
        self.target = target;
        self
    }

    /// The same client, which begins each connection with a whole handshake (RFC 8446, 2.2, has the other one).
    #[must_use]
    pub fn without_resumption(mut self) -> Self {
        if let Some((connector, _)) = &mut self.tls {
            let mut config = ClientConfig::clone(connector.config());
            config.resumption = Resumption::disabled();
            *connector = TlsConnector::from(Arc::new(config));
        }
        self
    }

    /// The same client with another patience, for connecting and for each request.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same client, whose sockets take in at most some bytes that nobody has read (`SO_RCVBUF`).
    #[must_use]
    pub fn with_receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// The same client, whose connections come from this address.
    #[must_use]
    pub fn with_source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Why there is none. With TLS 1.3 a server that refuses the client's certificate says so only at
    /// the first request.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        timeout(self.patience, self.connect_unbounded())
            .await
            .map_err(|_elapsed| Failure::TimedOut)?
    }

    /// Sends one request over a connection of its own.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn once(&self, ask: &Ask) -> Result<Answer, Failure> {
        self.connect().await?.send(ask).await
    }

    async fn connect_unbounded(&self) -> Result<Connection, Failure> {
        let sender = match &self.tls {
            None => handshake(self.connect_tcp().await?, self.protocol).await?,
            Some(tls) => handshake(self.connect_tls(tls).await?, self.protocol).await?,
        };
        Ok(Connection {
            sender,
            host: self.host.clone(),
            patience: self.patience,
        })
    }

    /// Opens a connection for the caller to speak on; `None` for a client without TLS.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect_raw(&self) -> Result<Option<TlsStream<TcpStream>>, Failure> {
        match &self.tls {
            None => Ok(None),
            Some(tls) => timeout(self.patience, self.connect_tls(tls))
                .await
                .map_err(|_elapsed| Failure::TimedOut)?
                .map(Some),
        }
    }

    /// Opens a connection without a word of TLS.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect_tcp(&self) -> Result<TcpStream, Failure> {
        let stream = match (self.receive_buffer, self.source) {
            (None, None) => TcpStream::connect(self.target).await,
            _ => self.connect_prepared().await,
        };
        let stream = stream.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        Ok(stream)
    }

    /// The window is agreed on with the first packet, so that the buffer is set before.
    async fn connect_prepared(&self) -> io::Result<TcpStream> {
        let socket = match self.target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(self.target).await
    }

    async fn connect_tls(
        &self,
        (connector, name): &(TlsConnector, ServerName<'static>),
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let stream = self.connect_tcp().await?;
        let connecting = connector.connect(name.clone(), stream);
        connecting.await.map_err(|error| Failure::of(&error))
    }
}

impl Connection {
    /// The same connection once more, for requests at the same time. Only HTTP/2 has that.
    #[must_use]
    pub fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                host: self.host.clone(),
                patience: self.patience,
            }),
        }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// Why there is no response. The connection is of no use afterwards.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        timeout(self.patience, self.send_unbounded(ask))
            .await
            .map_err(|_elapsed| Failure::TimedOut)?
    }

    async fn send_unbounded(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let uri = match self.sender {
            Sender::Http1(_) => ask.path.clone(),
            Sender::Http2(_) => format!("https://{}{}", self.host, ask.path),
        };
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri.parse().map_err(Failure::broken)?;
        *request.headers_mut() = ask.headers.clone();
        if matches!(self.sender, Sender::Http1(_)) {
            let host = HeaderValue::from_str(&self.host).map_err(Failure::broken)?;
            // A request may name another host than the certificate has.
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(|error| Failure::of(&error))?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(|error| Failure::of(&error))?;
                sender.send_request(request).await
            }
        }
        .map_err(|error| Failure::of(&error))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Failure::of(&error))?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }
}

impl Ask {
    /// A GET of `path`.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A POST of `body`, as from a form.
    #[must_use]
    pub fn post_form(path: &str, body: &str) -> Self {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut ask = Self::get(path).with_header(header::CONTENT_TYPE, form);
        ask.method = Method::POST;
        ask.body = Bytes::copy_from_slice(body.as_bytes());
        ask
    }

    /// The same request with a header more.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same request with a bearer token (RFC 6750).
    ///
    /// # Errors
    /// If the token is no header value.
    pub fn with_token(self, token: &str) -> anyhow::Result<Self> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        Ok(self.with_header(header::AUTHORIZATION, value))
    }
}

impl Answer {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Failure {
    /// A word for counting.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timed out",
            Self::Unsent => "not sent",
            Self::Broken(_) => "connection broke",
        }
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }

    /// Finds the TLS error beneath, if that is what broke the connection.
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.clone());
            }
            if let Some(hyper) = error.downcast_ref::<hyper::Error>()
                && (hyper.is_canceled() || hyper.is_closed())
            {
                return Self::Unsent;
            }
            // An I/O error hides what it wraps from `source`.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = match wrapped {
                Some(wrapped) => Some(wrapped),
                None => error.source(),
            };
        }
        Self::Broken(chain(error))
    }
}

async fn handshake<S>(stream: S, protocol: Protocol) -> Result<Sender, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    // What breaks the connection is reported to the request under way.
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(stream)
                .await
                .map_err(|error| Failure::of(&error))?;
            drop(tokio::spawn(connection));
            Ok(Sender::Http1(sender))
        }
        Protocol::Http2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(|error| Failure::of(&error))?;
            drop(tokio::spawn(connection));
            Ok(Sender::Http2(sender))
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
