//! The issuer's HTTP interface.

use std::sync::{Arc, PoisonError};

use axum::{
    Form, Json, Router, extract,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::{Client, LIFETIME, State};

type Shared = extract::State<Arc<State>>;

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/token", post(token))
        .route("/jwks", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .with_state(state)
}

/// RFC 6749, section 4.4.2, with the client's credentials of section 2.3.1.
#[derive(Debug, Deserialize)]
struct TokenRequest {
    grant_type: String,
    scope: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// RFC 6749, section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    InvalidClient,
    UnsupportedGrantType,
    InvalidScope,
    ServerError,
}

impl Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::InvalidScope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        let mut response = (status, Json(json!({ "error": error }))).into_response();
        if self == Self::InvalidClient {
            let challenge = http::HeaderValue::from_static("Basic realm=\"lab\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn token(
    extract::State(state): Shared,
    headers: HeaderMap,
    Form(request): Form<TokenRequest>,
) -> Response {
    let granted = grant(&state, &headers, &request);
    let mut response = granted.unwrap_or_else(Refusal::into_response);
    let no_store = http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

fn grant(state: &State, headers: &HeaderMap, request: &TokenRequest) -> Result<Response, Refusal> {
    let client = authenticate(state, headers, request).ok_or(Refusal::InvalidClient)?;
    if request.grant_type != "client_credentials" {
        return Err(Refusal::UnsupportedGrantType);
    }
    let scope = match &request.scope {
        None => client.scopes.join(" "),
        Some(scope) => {
            let allowed = |asked: &str| client.scopes.iter().any(|scope| scope == asked);
            if !scope.split_ascii_whitespace().all(allowed) {
                return Err(Refusal::InvalidScope);
            }
            scope.clone()
        }
    };
    let token = state
        .mint(client, &scope, LIFETIME)
        .map_err(|_error| Refusal::ServerError)?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": LIFETIME.as_secs(),
        "scope": scope,
    }))
    .into_response())
}

/// `client_secret_basic`, else `client_secret_post`.
fn authenticate<'a>(state: &'a State, headers: &HeaderMap, request: &TokenRequest) -> Option<&'a Client> {
    let (id, secret) = match headers.get(header::AUTHORIZATION) {
        Some(value) => basic(value.to_str().ok()?)?,
        None => (request.client_id.clone()?, request.client_secret.clone()?),
    };
    state.client(&id).filter(|client| client.secret == secret)
}

fn basic(value: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

async fn jwks(extract::State(state): Shared) -> Json<serde_json::Value> {
    Json(
        state
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .published(),
    )
}

async fn metadata(extract::State(state): Shared) -> Json<serde_json::Value> {
    let issuer = &state.settings.issuer;
    Json(json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "response_types_supported": [],
    }))
}
