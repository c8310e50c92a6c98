//! Keeps the addresses of endpoints that are names.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use super::endpoint::SharedEndpoint;

/// How often names are resolved again.
pub(in crate::gateway) const EVERY: Duration = Duration::from_secs(30);
/// More addresses of one name are not used.
const MAX_ADDRESSES: usize = 64;

/// The addresses of `endpoint`, in a stable order.
///
/// # Errors
/// When the resolver knows none.
pub(in crate::gateway) async fn look_up(endpoint: &SharedEndpoint) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = tokio::net::lookup_host(endpoint.host_and_port())
        .await?
        .take(MAX_ADDRESSES)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Resolves `endpoint` now and then. A failure leaves the last addresses in use.
pub(in crate::gateway) async fn keep_resolved(endpoint: Arc<SharedEndpoint>) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        match look_up(&endpoint).await {
            Ok(addresses) if **endpoint.addresses() != addresses => endpoint.set_addresses(addresses),
            Ok(_) => {}
            Err(error) => {
                let (service, name) = (&endpoint.service, &endpoint.authority);
                tracing::warn!(%service, %name, %error, "an endpoint's name does not resolve");
            }
        }
    }
}
