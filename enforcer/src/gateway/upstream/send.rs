//! Sends one request to one endpoint of a service, and once more where that is safe.

use std::{cell::Cell, rc::Rc, sync::Arc};

use http::{Request, Response, StatusCode, header::UPGRADE, request::Parts};
use hyper::body::Incoming;

use super::{
    UpstreamError, balance, http2,
    pool::{Lease, LocalEndpoint, Sender},
};
use crate::{
    gateway::{body::RequestBody, counters::Exchange},
    policy::model::{Protocol, Service},
};

/// A service, as one worker sees it.
#[derive(Debug)]
pub(in crate::gateway) struct Upstream {
    pub(in crate::gateway) service: Arc<Service>,
    pub(in crate::gateway) endpoints: Vec<Rc<LocalEndpoint>>,
    turn: Cell<usize>,
}

/// How one attempt ended without a response.
enum Failed {
    /// The endpoint has seen nothing of the request.
    Unsent(Box<Request<RequestBody>>, UpstreamError),
    /// It may have.
    Sent(UpstreamError),
}

impl Upstream {
    #[must_use]
    pub(in crate::gateway) fn new(service: Arc<Service>, endpoints: Vec<Rc<LocalEndpoint>>) -> Self {
        Self {
            service,
            endpoints,
            turn: Cell::new(0),
        }
    }

    /// Sends `request` and waits for the response's head.
    ///
    /// It is sent a second time, on a new connection, only if the first endpoint cannot have acted
    /// on it: it accepted no connection, or the connection was gone before a byte was written; or if
    /// a kept connection broke under a request without body whose method is idempotent (RFC 9110
    /// section 9.2.2), because the endpoint may have closed that connection just before.
    ///
    /// # Errors
    /// Why there is no response.
    pub(in crate::gateway) async fn send(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        if self.service.protocol == Protocol::Http2 {
            http2::head(&mut request)?;
        }
        let progress = request.body().progress();
        let first = self.choose(None).ok_or(UpstreamError::NoEndpoint)?;
        let kept = first.take_idle(self.service.protocol).await;
        let copy = (kept.is_some() && repeatable(&request)).then(|| copy(&request));
        let was_kept = kept.is_some();
        let failed = match self.attempt(&first, kept, request).await {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        let (request, next) = match (failed, copy) {
            (Failed::Unsent(request, error), _) => {
                // A kept connection that is gone says nothing about the endpoint.
                let next = if was_kept {
                    Some(first)
                } else {
                    self.choose(Some(&first))
                };
                (*request, next.ok_or(error)?)
            }
            (Failed::Sent(UpstreamError::Broken { .. }), Some(parts)) => {
                (Request::from_parts(parts, RequestBody::empty(progress)), first)
            }
            (Failed::Sent(error), _) => return Err(error),
        };
        self.attempt(&next, None, request)
            .await
            .map_err(|failed| match failed {
                Failed::Unsent(_, error) | Failed::Sent(error) => error,
            })
    }

    /// An endpoint for the next request, other than `but`.
    fn choose(&self, but: Option<&Rc<LocalEndpoint>>) -> Option<Rc<LocalEndpoint>> {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let load = |index: usize| {
            let endpoint = &self.endpoints[index];
            let usable = endpoint.shared.is_healthy() && but.is_none_or(|but| !Rc::ptr_eq(but, endpoint));
            usable.then(|| endpoint.under_way())
        };
        let index = balance::choose(self.service.balance, self.endpoints.len(), turn, load)?;
        Some(Rc::clone(&self.endpoints[index]))
    }

    async fn attempt(
        &self,
        endpoint: &Rc<LocalEndpoint>,
        kept: Option<Sender>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let mut lease = Lease::new(Rc::clone(endpoint), request.body().progress());
        let counted = endpoint.cells.guard();
        let sender = match kept {
            Some(sender) => sender,
            None => match endpoint
                .connect(self.service.protocol, self.service.connect_timeout)
                .await
            {
                Ok(sender) => sender,
                Err(error) => {
                    counted.end(Exchange::Connect);
                    return Err(Failed::Unsent(Box::new(request), error));
                }
            },
        };
        let switches = request.headers().contains_key(UPGRADE);
        let name = || endpoint.shared.authority.to_string();
        match lease.hold(sender).send(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !switches => {
                counted.end(Exchange::Broken);
                Err(Failed::Sent(UpstreamError::Switched { endpoint: name() }))
            }
            Ok(response) => {
                counted.end(Exchange::Answered);
                Ok((response, lease))
            }
            Err(mut error) => {
                counted.end(Exchange::Broken);
                let message = error.take_message();
                let error = UpstreamError::Broken {
                    endpoint: name(),
                    source: error.into_error(),
                };
                Err(match message {
                    Some(request) => Failed::Unsent(Box::new(request), error),
                    None => Failed::Sent(error),
                })
            }
        }
    }
}

/// Whether sending the request twice does what sending it once does.
fn repeatable(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent() && request.body().progress().ended.get()
}

/// The request's head once more. Extensions belong to the connection and are left out.
fn copy(request: &Request<RequestBody>) -> Parts {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.into_parts().0
}
