//! Keeps the addresses of endpoints that are names.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use super::endpoint::SharedEndpoint;

/// How often names are resolved again.
const EVERY: Duration = Duration::from_secs(30);
/// How soon a name is tried again of which no address is known.
const SOON: Duration = Duration::from_secs(1);
/// More addresses of one name are not used.
const MAX_ADDRESSES: usize = 64;

/// The addresses of `endpoint`, in a stable order.
///
/// # Errors
/// When the resolver knows none.
async fn look_up(endpoint: &SharedEndpoint) -> io::Result<Vec<SocketAddr>> {
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

/// Resolves `endpoint` now and then. A failure, also an answer that there is no such name, leaves the
/// last addresses in use.
pub(in crate::gateway) async fn keep_resolved(endpoint: Arc<SharedEndpoint>) {
    let mut failing = false;
    loop {
        match look_up(&endpoint).await {
            Ok(addresses) => {
                failing = false;
                if **endpoint.addresses() != addresses {
                    let (service, name) = (&endpoint.service, &endpoint.authority);
                    tracing::info!(%service, %name, ?addresses, "an endpoint's name has other addresses");
                    endpoint.set_addresses(addresses);
                }
            }
            Err(error) => {
                let (service, name) = (&endpoint.service, &endpoint.authority);
                // Once, until it resolves again.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%service, %name, %error, "an endpoint's name does not resolve");
                }
            }
        }
        let unknown = endpoint.addresses().is_empty();
        tokio::time::sleep(if unknown { SOON } else { EVERY }).await;
    }
}
