//! Whose requests share a limiter.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::HeaderMap;

use crate::identity::token::VerifiedToken;
use enforcer_model::{ApiKey, Name, RequestKey, flow::AuthorityId};
use enforcer_tls::certificate::ClientCertificate;

/// What a request's keys are made of. Limits by rule and by service need nothing of it: a limit
/// belongs to one rule, and that to one service.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// The peer's address.
    pub source: IpAddr,
    /// The client certificate's identity.
    pub certificate: Option<&'a str>,
    /// Which authority vouches for it, where several may.
    pub authority: Option<&'a AuthorityId>,
    /// The token's issuer and `sub`.
    pub token_subject: Option<(&'a Name, &'a str)>,
    /// The token's issuer and `client_id`.
    pub token_client: Option<(&'a Name, &'a str)>,
    /// What the credentials entitle to.
    pub tier: Option<&'a str>,
    /// The request's header fields, as the client wrote them.
    pub fields: Option<&'a HeaderMap>,
    /// The API key's id.
    pub api_key: Option<&'a str>,
}

impl<'a> KeyParts<'a> {
    /// The parts of a request from `source` with these proofs.
    #[must_use]
    pub fn new(
        source: IpAddr,
        certificate: Option<&'a ClientCertificate>,
        token: Option<&'a VerifiedToken>,
    ) -> Self {
        Self {
            source,
            certificate: certificate.map(|certificate| &*certificate.identity),
            authority: certificate.and_then(|certificate| certificate.authority.as_ref()),
            token_subject: token.map(|token| (&token.issuer, &*token.subject)),
            token_client: token.and_then(|token| Some((&token.issuer, token.client_id.as_deref()?))),
            tier: token.and_then(|token| token.tier.as_deref()),
            fields: None,
            api_key: None,
        }
    }

    /// With the request's header fields.
    #[must_use]
    pub fn with_fields(self, fields: &'a HeaderMap) -> Self {
        Self {
            fields: Some(fields),
            ..self
        }
    }

    /// With the request's API key, and the tier that its owner has.
    #[must_use]
    pub fn with_api_key(self, key: Option<&'a ApiKey>) -> Self {
        Self {
            api_key: key.map(|key| &*key.id),
            tier: key.and_then(|key| key.tier.as_deref()).or(self.tier),
            ..self
        }
    }

    /// Hashes the parts that `per` names, for the limit `id`.
    ///
    /// A part that the request lacks is replaced by its source: clients without an identity must not
    /// share one limiter, where one could starve all others.
    pub(super) fn hash(&self, hasher: &RandomState, id: u64, per: &[RequestKey]) -> u64 {
        let mut state = hasher.build_hasher();
        id.hash(&mut state);
        for part in per {
            match part {
                RequestKey::Source { ipv4, ipv6 } => {
                    (0_u8, prefix(self.source, *ipv4, *ipv6)).hash(&mut state);
                }
                RequestKey::Certificate => match self.certificate {
                    Some(identity) => (1_u8, self.authority, identity).hash(&mut state),
                    None => self.hash_source(&mut state),
                },
                RequestKey::TokenSubject => match self.token_subject {
                    Some((issuer, subject)) => (2_u8, issuer.as_str(), subject).hash(&mut state),
                    None => self.hash_source(&mut state),
                },
                RequestKey::TokenClient => match self.token_client {
                    Some((issuer, client)) => (3_u8, issuer.as_str(), client).hash(&mut state),
                    None => self.hash_source(&mut state),
                },
                RequestKey::Header(name) => match self.fields.filter(|fields| fields.contains_key(name)) {
                    Some(fields) => {
                        4_u8.hash(&mut state);
                        for value in fields.get_all(name) {
                            value.as_bytes().hash(&mut state);
                        }
                    }
                    None => self.hash_source(&mut state),
                },
                RequestKey::Tier => (5_u8, self.tier).hash(&mut state),
                RequestKey::ApiKey => match self.api_key {
                    Some(id) => (6_u8, id).hash(&mut state),
                    None => self.hash_source(&mut state),
                },
                RequestKey::Rule | RequestKey::Service => {}
            }
        }
        state.finish()
    }

    fn hash_source(&self, state: &mut impl Hasher) {
        (0_u8, source_prefix(self.source)).hash(state);
    }
}

/// The addresses that one client has, as [`RequestKey::SOURCE`] says.
pub(crate) fn source_prefix(address: IpAddr) -> IpAddr {
    prefix(address, 32, 64)
}

/// The first bits of an address, by its family.
fn prefix(address: IpAddr, ipv4: u8, ipv6: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(ipv4.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !rest).into()
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(ipv6.into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !rest).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymous(source: &str) -> KeyParts<'static> {
        KeyParts::new(source.parse().unwrap(), None, None)
    }

    #[test]
    fn sources_are_told_apart_by_address_and_by_64() {
        let hasher = RandomState::new();
        let hash = |source: &str| anonymous(source).hash(&hasher, 0, &[RequestKey::SOURCE]);
        assert_eq!(hash("2001:db8::1"), hash("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
        assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
    }

    #[test]
    fn every_part_counts() {
        let hasher = RandomState::new();
        let (corp, other): (Name, Name) = ("corp".parse().unwrap(), "other".parse().unwrap());
        let base = KeyParts {
            certificate: Some("cart"),
            token_subject: Some((&corp, "alice")),
            token_client: Some((&corp, "app")),
            api_key: Some("partner"),
            ..anonymous("192.0.2.1")
        };
        let all = [
            RequestKey::SOURCE,
            RequestKey::Certificate,
            RequestKey::TokenSubject,
            RequestKey::TokenClient,
            RequestKey::ApiKey,
        ];
        let reference = base.hash(&hasher, 0, &all);
        assert_eq!(base.hash(&hasher, 0, &all), reference);
        assert_ne!(base.hash(&hasher, 1, &all), reference, "the limit");
        assert_ne!(base.hash(&RandomState::new(), 0, &all), reference, "the secret");
        for (what, changed) in [
            (
                "source",
                KeyParts {
                    source: "192.0.2.2".parse().unwrap(),
                    ..base
                },
            ),
            (
                "certificate",
                KeyParts {
                    certificate: Some("shop"),
                    ..base
                },
            ),
            (
                "authority",
                KeyParts {
                    authority: Some(&AuthorityId::Name(corp.clone())),
                    ..base
                },
            ),
            (
                "subject",
                KeyParts {
                    token_subject: Some((&corp, "bob")),
                    ..base
                },
            ),
            (
                "issuer",
                KeyParts {
                    token_subject: Some((&other, "alice")),
                    ..base
                },
            ),
            (
                "client",
                KeyParts {
                    token_client: Some((&corp, "web")),
                    ..base
                },
            ),
            (
                "key",
                KeyParts {
                    api_key: Some("intern"),
                    ..base
                },
            ),
        ] {
            assert_ne!(changed.hash(&hasher, 0, &all), reference, "{what}");
        }
    }

    #[test]
    fn clients_without_the_identity_are_told_apart_by_source() {
        let hasher = RandomState::new();
        for key in [
            RequestKey::Certificate,
            RequestKey::TokenSubject,
            RequestKey::TokenClient,
            RequestKey::ApiKey,
        ] {
            let per = [key];
            let hash = |source: &str| anonymous(source).hash(&hasher, 0, &per);
            assert_eq!(hash("192.0.2.1"), hash("192.0.2.1"));
            assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
        }
    }
}
