//! A small OAuth2 authorization server: client credentials (RFC 6749 section 4.4), access tokens as JWT
//! (RFC 9068), metadata (RFC 8414) and keys (RFC 7517).

mod endpoints;
pub(crate) mod signing;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, anyhow};
use rustls::ServerConfig;

use crate::{resident::Resident, serve};
use signing::{Keys, now};

/// How long its tokens live.
const LIFETIME: Duration = Duration::from_secs(600);

/// What an issuer knows from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audience: String,
    pub clients: Vec<Client>,
}

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub secret: String,
    /// What it may ask for.
    pub scopes: Vec<String>,
}

/// A running issuer. It runs as long as its thread.
#[derive(Debug)]
pub struct Issuer {
    state: Arc<State>,
    thread: Resident,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    keys: Mutex<Keys>,
}

impl Issuer {
    /// Starts with one key and no listener.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn start(thread: Resident, settings: Settings) -> Result<Self> {
        let state = Arc::new(State {
            settings,
            keys: Mutex::new(Keys::create()?),
        });
        Ok(Self { state, thread })
    }

    /// Listens; may be called for several addresses.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn listen(&self, address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Result<SocketAddr> {
        let router = endpoints::router(Arc::clone(&self.state));
        serve::start(&self.thread, address, router, tls)
    }

    /// Signs with a new key from now on; the old ones stay published.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn rotate(&self) -> Result<()> {
        self.state
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rotate()
    }

    /// Signs a token without being asked over the network.
    ///
    /// # Errors
    /// If the client is unknown.
    pub fn mint(&self, client: &str, scopes: &[&str], lifetime: Duration) -> Result<String> {
        let client = self
            .state
            .client(client)
            .ok_or_else(|| anyhow!("no client is registered as {client}"))?;
        self.state.mint(client, &scopes.join(" "), lifetime)
    }

    /// A token that expired an hour ago.
    ///
    /// # Errors
    /// If the client is unknown.
    pub fn mint_expired(&self, client: &str, scopes: &[&str]) -> Result<String> {
        let client = self
            .state
            .client(client)
            .ok_or_else(|| anyhow!("no client is registered as {client}"))?;
        let issued = now().saturating_sub(2 * 3600);
        self.state.sign(client, &scopes.join(" "), issued, issued + 3600)
    }
}

impl State {
    fn client(&self, id: &str) -> Option<&Client> {
        self.settings.clients.iter().find(|client| client.id == id)
    }

    fn mint(&self, client: &Client, scope: &str, lifetime: Duration) -> Result<String> {
        let now = now();
        self.sign(client, scope, now, now + lifetime.as_secs())
    }

    fn sign(&self, client: &Client, scope: &str, issued: u64, expires: u64) -> Result<String> {
        let claims = signing::Claims {
            iss: &self.settings.issuer,
            sub: &client.id,
            aud: &self.settings.audience,
            client_id: &client.id,
            scope,
            iat: issued,
            exp: expires,
            jti: signing::token_id()?,
        };
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sign(&claims)
    }
}
