//! Clients: hyper's for well-formed requests, bare bytes for others.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Lab, in_time, pki::HOST};

pub(crate) const H1: &[&[u8]] = &[b"http/1.1"];
pub(crate) const H2: &[&[u8]] = &[b"h2", b"http/1.1"];

pub(crate) type Content = BoxBody<Bytes, io::Error>;

/// A connection to the gateway.
pub(crate) enum Client {
    Http1(http1::SendRequest<Content>),
    Http2(http2::SendRequest<Content>),
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A TLS connection, with its handshake done as far as the client sees.
pub(crate) async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    named(address, config, HOST).await
}

/// The same, with a host of that name.
pub(crate) async fn named(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    host: &'static str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config)
        .connect(ServerName::try_from(host).unwrap(), stream)
        .await
}

impl Client {
    /// With TLS, without a client certificate.
    pub(crate) async fn connect(lab: &Lab, alpn: &[&[u8]]) -> Self {
        Self::over(tls(lab.address, lab.pki.client_config(None, alpn)).await.unwrap()).await
    }

    /// With what TLS negotiated.
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Self {
        Self::try_over(stream).await.unwrap()
    }

    /// The same, over a connection that the gateway may already have closed.
    pub(crate) async fn try_over(stream: TlsStream<TcpStream>) -> hyper::Result<Self> {
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Self::Http1(sender))
        }
    }

    /// Sends a request to [`HOST`] whose target is a path; waits for the response's head.
    pub(crate) async fn start(&mut self, request: Request<Content>) -> hyper::Result<Response<Incoming>> {
        let mut request = request;
        match self {
            Self::Http1(sender) => {
                if !request.headers().contains_key("host") {
                    request.headers_mut().insert("host", HOST.parse().unwrap());
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                let absolute = format!("https://{HOST}{}", request.uri());
                *request.uri_mut() = absolute.parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Content>) -> hyper::Result<Reply> {
        let (head, body) = self.start(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        in_time(path, self.send(get(path))).await.unwrap()
    }

    /// Waits until the gateway has ended the connection, or announced that it does.
    pub(crate) async fn closed(&self) {
        let is_closed = || match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        };
        while !is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn get(path: &str) -> Request<Content> {
    Request::get(path).body(full("")).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Content> {
    Request::post(path).body(full(body)).unwrap()
}

pub(crate) fn full(body: impl Into<Bytes>) -> Content {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

/// `body` without its length, so that it is sent in chunks.
pub(crate) fn chunked(body: impl Into<Bytes>) -> Content {
    struct Unsized(Content);

    impl Body for Unsized {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(context)
        }
    }

    Unsized(full(body)).boxed()
}

/// Writes `bytes` to the gateway over TLS and returns all that it answers until it closes.
pub(crate) async fn raw(lab: &Lab, bytes: &[u8]) -> Vec<u8> {
    let mut stream = tls(lab.address, lab.pki.client_config(None, H1)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let read = in_time("the gateway closes", stream.read_to_end(&mut answer)).await;
    drop(read);
    answer
}
