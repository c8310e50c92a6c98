//! What a condition may look at of one request.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Method};
use serde_json::Value as Json;

use super::{scope::Scopes, token::VerifiedToken};
use enforcer_model::{
    ApiKey,
    condition::{Constant, Place},
};
use enforcer_tls::certificate::ClientCertificate;

/// A request, and what it has proved.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub method: &'a Method,
    /// Normalised, as it is matched.
    pub path: &'a str,
    pub host: &'a str,
    /// As it was sent.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub source: IpAddr,
    pub token: Option<&'a VerifiedToken>,
    pub certificate: Option<&'a ClientCertificate>,
    pub key: Option<&'a ApiKey>,
}

/// A value while a condition is evaluated.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Address(IpAddr),
    Null,
    List(List<'a>),
    /// A claim that is an object.
    Object(&'a serde_json::Map<String, Json>),
}

/// A list of values.
#[derive(Clone, Copy, Debug)]
pub(super) enum List<'a> {
    Literal(&'a [Constant]),
    Scopes(&'a Scopes),
    Names(&'a [Box<str>]),
    Roles(&'a [Arc<str>]),
    Claim(&'a [Json]),
}

/// Why there is no value: nothing is there, or not one thing of the right type. The request is denied unless the
/// rest of the condition decides without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoValue;

impl<'a> Facts<'a> {
    /// What stands there.
    pub(super) fn at(&self, place: &'a Place) -> Result<Value<'a>, NoValue> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        let token = || self.token.ok_or(NoValue);
        let certificate = || self.certificate.ok_or(NoValue);
        let key = || self.key.ok_or(NoValue);
        match place {
            Place::Method => Ok(text(self.method.as_str())),
            Place::Path => Ok(text(self.path)),
            Place::Host => Ok(text(self.host)),
            Place::Source => Ok(Value::Address(self.source)),
            Place::Header(name) => self.header(name).map(text),
            Place::Query(name) => self.parameter(name).map(Value::Text),
            Place::Subject => Ok(text(&token()?.subject)),
            Place::Client => token()?.client_id.as_deref().map(text).ok_or(NoValue),
            Place::Scopes => Ok(Value::List(List::Scopes(&token()?.scopes))),
            Place::Claim(path) => path.find(&token()?.claims).map(Value::of_json).ok_or(NoValue),
            Place::Spiffe => certificate()?.spiffe.as_deref().map(text).ok_or(NoValue),
            Place::DnsNames => Ok(Value::List(List::Names(&certificate()?.names.dns))),
            Place::CertificateSubject => Ok(text(&certificate()?.subject)),
            Place::Serial => Ok(text(&certificate()?.names.serial)),
            Place::KeyId => Ok(text(&key()?.id)),
            Place::KeyOwner => Ok(text(&key()?.owner)),
            Place::KeyTier => key()?.tier.as_deref().map(text).ok_or(NoValue),
            Place::KeyRoles => Ok(Value::List(List::Roles(&key()?.roles))),
        }
    }

    /// Whether something stands there, even if it cannot be used.
    pub(super) fn has(&self, place: &Place) -> bool {
        match place {
            Place::Header(name) => self.headers.contains_key(name),
            Place::Query(name) => self.parameters().any(|(key, _)| *key == **name),
            Place::Claim(path) => self.token.is_some_and(|token| path.find(&token.claims).is_some()),
            Place::Client => self.token.is_some_and(|token| token.client_id.is_some()),
            Place::Subject | Place::Scopes => self.token.is_some(),
            Place::Spiffe => self
                .certificate
                .is_some_and(|certificate| certificate.spiffe.is_some()),
            Place::DnsNames | Place::CertificateSubject | Place::Serial => self.certificate.is_some(),
            Place::KeyTier => self.key.is_some_and(|key| key.tier.is_some()),
            Place::KeyId | Place::KeyOwner | Place::KeyRoles => self.key.is_some(),
            Place::Method | Place::Path | Place::Host | Place::Source => true,
        }
    }

    /// The one value of a header. Of several a service might read another than this.
    fn header(&self, name: &HeaderName) -> Result<&'a str, NoValue> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => str::from_utf8(value.as_bytes()).map_err(|_| NoValue),
            _ => Err(NoValue),
        }
    }

    /// The one value of a parameter, for the same reason.
    fn parameter(&self, name: &str) -> Result<Cow<'a, str>, NoValue> {
        let mut found = self.parameters().filter(|(key, _)| **key == *name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value),
            _ => Err(NoValue),
        }
    }

    /// Names and values, decoded as they are for matches.
    fn parameters(&self) -> form_urlencoded::Parse<'a> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
    }
}

impl<'a> Value<'a> {
    pub(super) fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number
                .as_i64()
                .map_or_else(|| Self::Float(number.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(elements) => Self::List(List::Claim(elements)),
            Json::Object(members) => Self::Object(members),
        }
    }

    pub(super) fn of_constant(constant: &'a Constant) -> Self {
        match constant {
            Constant::Bool(value) => Self::Bool(*value),
            Constant::Int(value) => Self::Int(*value),
            Constant::Float(value) => Self::Float(*value),
            Constant::Text(text) => Self::Text(Cow::Borrowed(text)),
            Constant::Address(address) => Self::Address(*address),
            Constant::Null => Self::Null,
        }
    }
}
