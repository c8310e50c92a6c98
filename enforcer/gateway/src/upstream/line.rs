//! Connections to endpoints for bytes that the gateway does not look at. They are balanced and bounded as requests are,
//! and each is a connection and a request of its service for as long as it lasts.

use std::{rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{
    Bound, UpstreamError,
    pool::{Lease, Seat, Slot},
    seen::End,
    send::{Sender, Tries, Upstream},
};
use crate::{
    body::Progress,
    counters::{Exchange, RetryCause},
    wire::{Wire, reads_by, writes_by},
};

/// An endpoint's connection, and its places in the counts.
#[derive(Debug)]
pub(crate) struct Line {
    stream: Wire,
    _slot: Slot,
    _lease: Lease,
}

impl Upstream {
    /// A new connection to an endpoint; to another where one accepts none, as for requests. `patience`: how long it
    /// waits where there are as many as there may be.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn line(
        &self,
        sender: Sender<'_>,
        patience: Option<Duration>,
    ) -> Result<Line, UpstreamError> {
        let until = patience.map(|patience| Instant::now() + patience);
        let place = self.place(sender.room)?;
        let law = &self.service.retries;
        let mut tries = Tries::new(self.key_of(sender.address), law);
        tries.fresh = true;
        let within = self.service.connect_timeout;
        loop {
            let seat = self.seat(&tries);
            let (index, seat) = match until {
                None => seat.await?,
                Some(until) => tokio::time::timeout_at(until, seat)
                    .await
                    .map_err(|_| self.local.saturated(Bound::Connections))??,
            };
            let endpoint = &self.endpoints[index];
            let slot = match seat {
                Seat::New(slot) => slot,
                Seat::Kept(connection) => {
                    // All of its connections are there for the requests of others, of which one may wait for this.
                    drop(connection);
                    self.local.free();
                    return Err(self.local.saturated(Bound::Connections));
                }
            };
            let mut lease = Lease::new(Rc::clone(endpoint), Rc::new(Progress::new(true)));
            let name = || endpoint.shared.authority.to_string();
            let error = match tokio::time::timeout(within, endpoint.open(within)).await {
                Ok(Ok((stream, _))) => {
                    endpoint.cells.count(Exchange::Answered);
                    endpoint.saw(End::Good, self.service.outliers.as_ref());
                    lease.place = Some(place);
                    return Ok(Line {
                        stream,
                        _slot: slot,
                        _lease: lease,
                    });
                }
                Ok(Err(source)) => UpstreamError::Connect {
                    endpoint: name(),
                    source,
                },
                Err(_) => UpstreamError::ConnectTimeout {
                    endpoint: name(),
                    within,
                },
            };
            endpoint.cells.count(Exchange::Connect);
            endpoint.saw(End::Failure, self.service.outliers.as_ref());
            if tries.left == 0 || !self.is_elsewhere(&tries, index) {
                return Err(error);
            }
            self.local.cells.retry(RetryCause::Connect);
            tries.failed(index);
            if self.all_failed(&tries) {
                tries.wait(law).await;
            }
        }
    }
}

reads_by!(Line, stream);
writes_by!(Line, stream);
