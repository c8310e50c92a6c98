//! Active health checks: one checker for each endpoint in the whole process.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::endpoint::SharedEndpoint;
use crate::wire::Wire;
use enforcer_model::Health;

/// A health response's body is read up to this many bytes, then the connection is closed.
const MAX_BODY: usize = 64 * 1024;

/// Runs of equal results, and what they make of the endpoint.
#[derive(Debug)]
struct Streak {
    healthy: bool,
    /// Results in a row that speak against `healthy`.
    against: u32,
}

impl Streak {
    /// Takes one result in. True when the endpoint's state has changed.
    fn add(&mut self, passed: bool, health: &Health) -> bool {
        if passed == self.healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if passed {
            health.healthy_after
        } else {
            health.unhealthy_after
        };
        if self.against < needed {
            return false;
        }
        *self = Self {
            healthy: passed,
            against: 0,
        };
        true
    }
}

/// Checks `endpoint` for as long as this is polled, and sets its state and `gauge`.
pub(crate) async fn keep_checked(endpoint: Arc<SharedEndpoint>, health: Health, gauge: IntGauge) {
    let mut streak = Streak {
        healthy: endpoint.is_healthy(),
        against: 0,
    };
    let mut ticks = tokio::time::interval(health.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let passed = tokio::time::timeout(health.timeout, check(&endpoint, &health.path)).await;
        if streak.add(passed.is_ok_and(|passed| passed), &health) {
            endpoint.set_healthy(streak.healthy);
            gauge.set(i64::from(streak.healthy));
            let (service, name, healthy) = (&endpoint.service, &endpoint.authority, streak.healthy);
            if healthy {
                tracing::info!(%service, endpoint = %name, "an endpoint is healthy again");
            } else {
                tracing::warn!(%service, endpoint = %name, "an endpoint is unhealthy: its checks fail");
            }
        }
    }
}

/// Whether the endpoint answers with success or a redirection.
async fn check(endpoint: &SharedEndpoint, path: &str) -> bool {
    exchange(endpoint, path).await.unwrap_or_else(|error| {
        let (service, name) = (&endpoint.service, &endpoint.authority);
        tracing::debug!(%service, endpoint = %name, %error, "a health check failed");
        false
    })
}

async fn exchange(
    endpoint: &SharedEndpoint,
    path: &str,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let addresses = endpoint.known_addresses().await;
    let stream = Wire::new(TcpStream::connect(&**addresses).await?);
    match &endpoint.tls {
        None => ask(endpoint, path, stream).await,
        Some(tls) => {
            ask(
                endpoint,
                path,
                tls.connect(endpoint.authority.host(), stream).await?,
            )
            .await
        }
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    endpoint: &SharedEndpoint,
    path: &str,
    stream: S,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, endpoint.authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
            if read > MAX_BODY {
                break;
            }
        }
        Ok(status.is_success() || status.is_redirection())
    };
    tokio::select! {
        passed = exchange => passed,
        // The connection ends first only when it breaks.
        broken = connection => Err(broken.map_or_else(Into::into, |()| "closed before its response".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_streak_changes_the_state() {
        let health = Health {
            path: "/".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        };
        let mut streak = Streak {
            healthy: true,
            against: 0,
        };
        let changes: Vec<_> = [false, false, true, false, false, false, true, false, true, true]
            .into_iter()
            .map(|passed| streak.add(passed, &health))
            .collect();
        let expected = [false, false, false, false, false, true, false, false, false, true];
        assert_eq!(changes, expected);
        assert!(streak.healthy);
    }
}
