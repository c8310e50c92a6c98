//! What is answered where a service does not answer.

use std::{error::Error, time::Duration};

use http::StatusCode;

use crate::{
    body::Progress, clock, deadlines::Deadlines, refusal::Refusal, signal::Verdict, upstream::UpstreamError,
};

/// Waits until the request has taken too long, and says whose fault that is. The client has `within` to
/// deliver the body; a service that had the last piece late has `within` from then on. `impatient`: how long the
/// client waits if that is shorter, which is no fault of the service.
pub(super) async fn overdue(
    deadlines: &Deadlines,
    progress: &Progress,
    within: Duration,
    impatient: Option<Duration>,
) -> Refusal {
    let within = impatient.unwrap_or(within);
    let mut deadline = clock::now() + within;
    for _ in 0..2 {
        deadlines.reached(deadline, within).await;
        let Some(since) = progress.with_service_since() else {
            let detail = "the request's body did not come in time";
            return Refusal::new(Verdict::Invalid, StatusCode::REQUEST_TIMEOUT, detail);
        };
        deadline = since + within;
    }
    progress.overdue.set(impatient.is_none());
    let detail = "the service did not answer in time";
    Refusal::new(Verdict::Upstream, StatusCode::GATEWAY_TIMEOUT, detail)
}

/// What the client is told of a service's failure.
pub(super) fn refusal(error: &UpstreamError) -> Refusal {
    tracing::debug!(error = error as &dyn Error, "no response from a service");
    let status = match error {
        UpstreamError::Saturated(_) => {
            let detail = "the service has as many requests as it can take";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Refusal::new(Verdict::Saturated, status, detail).retry_after(1);
        }
        UpstreamError::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamError::ConnectTimeout { .. } | UpstreamError::TryTimeout { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        UpstreamError::Connect { .. }
        | UpstreamError::Tls { .. }
        | UpstreamError::Handshake { .. }
        | UpstreamError::Broken { .. }
        | UpstreamError::Head(_)
        | UpstreamError::Switched { .. } => StatusCode::BAD_GATEWAY,
    };
    // Addresses of endpoints are none of the client's business.
    let detail = match status {
        StatusCode::SERVICE_UNAVAILABLE => "no instance of the service is available",
        StatusCode::GATEWAY_TIMEOUT => "the service did not answer in time",
        _ => "the service gave no valid response",
    };
    Refusal::new(Verdict::Upstream, status, detail)
}
