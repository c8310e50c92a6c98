//! The stream of events, as JSON lines.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::{
    guard::Trusted,
    places::Seat,
    readers::{Place, Readers},
};
use crate::agent::{
    events::{EventLine, EventView, READERS, Reader},
    state::Shared,
};

/// Which events are wanted.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Also those to come, without end.
    #[serde(default)]
    follow: bool,
    /// Of this source alone.
    source: Option<IpAddr>,
}

impl EventsQuery {
    fn line(self, event: &EventView) -> Option<Bytes> {
        let wanted = self
            .source
            .is_none_or(|source| event.source == Some(source.to_canonical()));
        wanted.then(|| line(&EventLine::Event(Box::new(event.clone()))))?
    }
}

/// `GET /v1/events?follow=true&source=192.0.2.1`
pub async fn events(
    State(shared): State<Arc<Shared>>,
    Extension(readers): Extension<Arc<Readers>>,
    Extension(Trusted(trusted)): Extension<Trusted>,
    Extension(seat): Extension<Arc<Seat>>,
    Query(query): Query<EventsQuery>,
) -> Response {
    let place = match query.follow {
        true => readers.take(seat, trusted).await.map(Some),
        false => Some(None),
    };
    let (Some(place), Some((recent, reader))) = (place, shared.journal.listen()) else {
        let text = format!("{READERS} are listening to events already, which is the bound\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let recent = recent.into_iter().filter_map(move |event| query.line(&event));
    let recent: Bytes = recent.collect::<Vec<_>>().concat().into();
    let body = if query.follow {
        let begin = (Some(recent), following(reader, place), query);
        Body::from_stream(stream::unfold(begin, |(first, mut reader, query)| async move {
            let bytes = match first {
                Some(recent) => recent,
                None => next(&mut reader.0, query).await?,
            };
            Some((Ok::<_, Infallible>(bytes), (None, reader, query)))
        }))
    } else {
        Body::from(recent)
    };
    ([(CONTENT_TYPE, "application/jsonl")], body).into_response()
}

/// A reader and its place, which is freed after it: the next one finds room in the journal.
fn following(reader: Reader, place: Option<Place>) -> (Reader, Option<Place>) {
    (reader, place)
}

/// The next line. A reader that is too slow is told how many it has lost.
async fn next(reader: &mut Reader, query: EventsQuery) -> Option<Bytes> {
    loop {
        let line = match reader.recv().await {
            Ok(event) => query.line(&event),
            Err(RecvError::Lagged(lost)) => line(&EventLine::Lost(lost)),
            Err(RecvError::Closed) => return None,
        };
        if line.is_some() {
            return line;
        }
    }
}

fn line(line: &EventLine) -> Option<Bytes> {
    let mut bytes = serde_json::to_vec(line).ok()?;
    bytes.push(b'\n');
    Some(bytes.into())
}
