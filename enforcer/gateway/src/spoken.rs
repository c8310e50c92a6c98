//! Names that were proved, as services are told them. They are the same for many requests, and written once for these.

use std::net::IpAddr;

use http::HeaderValue;

use super::identity::token::VerifiedToken;
use enforcer_model::ApiKey;
use enforcer_tls::certificate::ClientCertificate;

/// A proven name that no header field can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proven identity has a control character and cannot be told to the service")]
pub(super) struct UnspeakableIdentity;

/// A name as the value of a field, if it can be one.
#[derive(Clone, Debug)]
pub(super) struct Spoken(Option<HeaderValue>);

impl Spoken {
    pub(super) fn new(name: &str) -> Self {
        Self(HeaderValue::from_bytes(name.as_bytes()).ok())
    }

    /// The value, which costs no copy.
    ///
    /// # Errors
    /// When the name has control characters.
    pub(super) fn value(&self) -> Result<HeaderValue, UnspeakableIdentity> {
        self.0.clone().ok_or(UnspeakableIdentity)
    }
}

/// What services are told of a client by its connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: Spoken,
    /// The client certificate's.
    pub(super) identity: Option<Spoken>,
    /// The name of the authority that vouches for it.
    pub(super) authority: Option<Spoken>,
}

impl Peer {
    pub(super) fn of(address: IpAddr, certificate: Option<&ClientCertificate>) -> Self {
        Self {
            address: Spoken::new(&address.to_string()),
            identity: certificate.map(|certificate| Spoken::new(&certificate.identity)),
            authority: certificate
                .and_then(|certificate| certificate.authority.as_ref()?.name())
                .map(|name| Spoken::new(name.as_str())),
        }
    }
}

/// What services are told of a token and an API key.
#[derive(Clone, Debug, Default)]
pub(super) struct Proven {
    /// The name of the document about the token's issuer.
    pub(super) issuer: Option<Spoken>,
    /// The token's `sub`.
    pub(super) subject: Option<Spoken>,
    /// The token's `client_id`.
    pub(super) client: Option<Spoken>,
    /// Whose the API key is.
    pub(super) owner: Option<Spoken>,
    /// Which it is.
    pub(super) key: Option<Spoken>,
}

impl Proven {
    pub(super) fn by(token: Option<&VerifiedToken>, key: Option<&ApiKey>) -> Self {
        Self {
            issuer: token.map(|token| Spoken::new(token.issuer.as_str())),
            subject: token.map(|token| Spoken::new(&token.subject)),
            client: token
                .and_then(|token| token.client_id.as_deref())
                .map(Spoken::new),
            owner: key.map(|key| Spoken::new(&key.owner)),
            key: key.map(|key| Spoken::new(&key.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_they_are_or_not_at_all() {
        for (name, told) in [
            ("spiffe://example.com/a", true),
            ("", true),
            ("b\u{e9}\tc", true),
            ("a\r\nx-enforcer-client: root", false),
            ("a\0", false),
            ("\u{7f}", false),
        ] {
            let value = Spoken::new(name).value();
            let value = value.as_ref().map(HeaderValue::as_bytes).ok();
            assert_eq!(value, told.then_some(name.as_bytes()), "{name:?}");
        }
    }
}
