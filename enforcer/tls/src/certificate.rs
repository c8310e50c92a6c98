//! Who a client certificate names.
//!
//! The TLS stack has verified the chain, the validity and the key's possession; this only reads.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::X509Name,
};

use super::{names::Names, spiffe};
use crate::config::Authority;
use enforcer_model::flow::AuthorityId;

/// A verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// What the client is called in limits, logs and metrics: its SPIFFE identity, else its subject,
    /// else `sha256:` and its fingerprint.
    pub identity: Arc<str>,
    /// The SPIFFE identity (X.509-SVID).
    pub spiffe: Option<Arc<str>>,
    /// Why a certificate that seems meant to carry a SPIFFE identity has none.
    pub spiffe_problem: Option<SpiffeProblem>,
    /// As RFC 4514 writes it, but in the certificate's order; empty if the certificate has none.
    pub subject: Arc<str>,
    /// What else it says of the client.
    pub names: Names,
    /// SHA-256 of the DER: `x5t#S256` (RFC 8705, section 3.1).
    pub fingerprint_sha256: [u8; 32],
    /// The issuer's name, as [`Self::subject`].
    pub issuer: Arc<str>,
    /// The serial number: big endian, without zeros in front.
    pub serial: Arc<[u8]>,
    /// From then on the certificate is not valid.
    pub not_after: SystemTime,
    /// Which authority vouches for it, where the configuration tells several apart.
    pub authority: Option<AuthorityId>,
}

/// An authority has signed a certificate for somebody for whom it may not vouch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the authority of the client certificate may not vouch for whom it names")]
pub struct NotVouchedFor;

/// Why a certificate has no SPIFFE identity although one of its URI names claims one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpiffeProblem {
    /// SPIFFE X.509-SVID, section 2: exactly one.
    #[error("the certificate has several URI names, and a SPIFFE identity must be the only one")]
    SeveralUris,
    /// Not of the grammar of SPIFFE-ID, or a trust domain without a path.
    #[error("the certificate's URI name begins with `spiffe:` and is no SPIFFE identity of a workload")]
    Malformed,
    /// A certificate authority is no workload (SPIFFE X.509-SVID, section 5.2).
    #[error("the certificate is an authority's, which cannot stand for a workload")]
    Authority,
}

/// Why a certificate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not DER, or something follows it.
    #[error("the client certificate is no well-formed X.509 certificate")]
    Malformed,
    /// The subject alternative names are malformed or given twice.
    #[error("the client certificate's subject alternative names are malformed")]
    AlternativeNames,
}

impl ClientCertificate {
    /// Reads the leaf of a chain that has been verified.
    ///
    /// # Errors
    /// If the DER is malformed.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let fingerprint_sha256 = sha256(der);
        let (spiffe, spiffe_problem) = match spiffe_identity(&certificate)? {
            Ok(identity) => (identity, None),
            Err(problem) => (None, Some(problem)),
        };
        let subject = distinguished_name(certificate.subject());
        let identity = spiffe.clone().unwrap_or_else(|| {
            if subject.is_empty() {
                fingerprint_name(&fingerprint_sha256)
            } else {
                subject.as_str().into()
            }
        });
        let serial = certificate.raw_serial();
        let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Self {
            identity,
            spiffe,
            spiffe_problem,
            subject: subject.into(),
            names: Names::of(&certificate)?,
            fingerprint_sha256,
            issuer: distinguished_name(certificate.issuer()).into(),
            serial: serial[zeros..].into(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0)),
            authority: None,
        })
    }

    /// What `authority` vouches for of it: names beyond its bounds are taken out, so that no rule, limit or service
    /// takes the client for somebody else.
    ///
    /// # Errors
    /// Nothing is left that it may be called.
    pub fn vouched_for_by(mut self, authority: &Authority) -> Result<Self, NotVouchedFor> {
        self.authority.clone_from(&authority.id);
        let Some(bounds) = &authority.bounds else {
            return Ok(self);
        };
        let named = self.names.within(bounds);
        if !named {
            self.subject = "".into();
        }
        match &self.spiffe {
            Some(identity) if bounds.trust_domains.iter().any(|domain| domain.has(identity)) => {}
            Some(_) => return Err(NotVouchedFor),
            None if named => self.identity = Arc::clone(&self.subject),
            None => self.identity = self.names.dns.first().ok_or(NotVouchedFor)?.as_ref().into(),
        }
        Ok(self)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn spiffe_identity(
    certificate: &X509Certificate<'_>,
) -> Result<Result<Option<Arc<str>>, SpiffeProblem>, CertificateError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::AlternativeNames)?;
    let names = || names.iter().flat_map(|names| &names.value.general_names);
    // A name that cannot be read might be a second URI.
    if names().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(CertificateError::AlternativeNames);
    }
    let uris: Vec<&str> = names()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    if !uris.iter().any(|uri| claims_spiffe(uri)) {
        return Ok(Ok(None));
    }
    Ok(match uris[..] {
        [_] if certificate.is_ca() => Err(SpiffeProblem::Authority),
        [uri] if spiffe::is_workload(uri) => Ok(Some(uri.into())),
        [_] => Err(SpiffeProblem::Malformed),
        _ => Err(SpiffeProblem::SeveralUris),
    })
}

fn claims_spiffe(uri: &str) -> bool {
    uri.as_bytes()
        .get(.."spiffe:".len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
}

/// Escaped (RFC 4514, section 2.4), so that no value can pass for several attributes.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for (position, set) in name.iter_rdn().enumerate() {
        for (index, attribute) in set.iter().enumerate() {
            if index > 0 {
                text.push('+');
            } else if position > 0 {
                text.push(',');
            }
            match oid2abbrev(attribute.attr_type(), oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => hexadecimal(attribute.as_slice(), &mut text),
            }
        }
    }
    text
}

fn escape(value: &str, out: &mut String) {
    for (position, character) in value.char_indices() {
        let last = position + character.len_utf8() == value.len();
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => out.extend(['\\', character]),
            '#' if position == 0 => out.push_str("\\#"),
            ' ' if position == 0 || last => out.push_str("\\ "),
            control if control.is_control() => {
                for byte in control.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            other => out.push(other),
        }
    }
}

fn hexadecimal(bytes: &[u8], out: &mut String) {
    out.push('#');
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
}

fn fingerprint_name(fingerprint: &[u8]) -> Arc<str> {
    let mut text = String::new();
    hexadecimal(fingerprint, &mut text);
    text.replacen('#', "sha256:", 1).into()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

    use super::*;
    use crate::config::Bounds;

    fn certificate(uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["client.example.com".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "cart");
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().unwrap()));
        }
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn read(der: &[u8]) -> ClientCertificate {
        ClientCertificate::from_der(der).unwrap()
    }

    #[test]
    fn a_single_spiffe_uri_is_the_identity() {
        let uri = "spiffe://example.com/ns/shop/sa/cart";
        let der = certificate(&[uri], |_| ());
        let read = read(&der);
        assert_eq!(read.spiffe.as_deref(), Some(uri));
        assert_eq!(&*read.identity, uri);
        assert_eq!(&*read.subject, "CN=cart");
        assert_eq!(read.spiffe_problem, None);
        assert_eq!(
            read.fingerprint_sha256,
            digest(&SHA256, &der).as_ref(),
            "x5t#S256 is the SHA-256 of the DER"
        );
    }

    #[test]
    fn doubtful_spiffe_identities_are_none() {
        let uri = "spiffe://example.com/a";
        for (uris, problem) in [
            (
                vec![uri, "spiffe://example.com/b"],
                Some(SpiffeProblem::SeveralUris),
            ),
            (
                vec![uri, "https://example.com/a"],
                Some(SpiffeProblem::SeveralUris),
            ),
            (vec!["spiffe://example.com"], Some(SpiffeProblem::Malformed)),
            (vec!["SPIFFE://example.com/a"], Some(SpiffeProblem::Malformed)),
            (vec!["https://example.com/a"], None),
            (vec![], None),
        ] {
            let read = read(&certificate(&uris, |_| ()));
            assert_eq!(read.spiffe, None, "{uris:?}");
            assert_eq!(read.spiffe_problem, problem, "{uris:?}");
            assert_eq!(&*read.identity, "CN=cart");
        }
        let authority = certificate(&[uri], |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        assert_eq!(read(&authority).spiffe_problem, Some(SpiffeProblem::Authority));
    }

    #[test]
    fn a_subject_cannot_pass_for_several_attributes() {
        let der = certificate(&[], |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::CommonName, " #a,O=Bank+\n\\\"ü ");
            params.distinguished_name.push(DnType::OrganizationName, "#Shop");
        });
        let read = read(&der);
        assert_eq!(&*read.subject, "CN=\\ #a\\,O\\=Bank\\+\\0a\\\\\\\"ü\\ ,O=\\#Shop");
    }

    #[test]
    fn without_a_subject_the_fingerprint_is_the_identity() {
        let der = certificate(&[], |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
        });
        let read = read(&der);
        assert_eq!(&*read.subject, "");
        assert!(read.identity.starts_with("sha256:"));
        assert_eq!(read.identity.len(), "sha256:".len() + 64);
    }

    #[test]
    fn malformed_certificates_are_refused() {
        let mut der = certificate(&[], |_| ());
        assert_eq!(
            ClientCertificate::from_der(&der[..der.len() - 1]),
            Err(CertificateError::Malformed)
        );
        der.push(0);
        assert_eq!(
            ClientCertificate::from_der(&der),
            Err(CertificateError::Malformed)
        );
        assert_eq!(ClientCertificate::from_der(b""), Err(CertificateError::Malformed));
    }

    #[test]
    fn the_end_of_validity_is_read() {
        let der = certificate(&[], |params| {
            params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        });
        let seconds = 1_927_843_200;
        assert_eq!(
            read(&der).not_after,
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        );
    }

    #[test]
    fn m5_of_a_bound_authoritys_certificate_its_names_within_the_bounds_are_left() {
        use enforcer_model::Attribute::{CommonName, Organization};
        let bounds = |domains: &[&str], names: &[&str], subject: &[(_, Option<&[&str]>)]| Bounds {
            trust_domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            subject: subject
                .iter()
                .map(|(of, values)| {
                    let values = values.map(|values| values.iter().map(|value| (*value).into()).collect());
                    (*of, values)
                })
                .collect(),
        };
        let spiffe = certificate(&["spiffe://example.com/a"], |_| ());
        let plain = certificate(&[], |params| {
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Partner");
        });
        let partner: &[&str] = &["Partner"];
        // What the certificate is, the bounds, and what is left: identity, subject, DNS names, attributes.
        let cases = [
            (
                &spiffe,
                bounds(&["example.com"], &[], &[]),
                Some(("spiffe://example.com/a", "", 0, 0)),
            ),
            (&spiffe, bounds(&["example.co"], &["*.example.com"], &[]), None),
            (&spiffe, bounds(&[], &["*.example.com"], &[]), None),
            (
                &spiffe,
                bounds(&["example.com"], &["*.example.com"], &[(CommonName, None)]),
                Some(("spiffe://example.com/a", "CN=cart", 1, 1)),
            ),
            (&plain, bounds(&["example.com"], &[], &[]), None),
            (
                &plain,
                bounds(&[], &["*.example.com"], &[]),
                Some(("client.example.com", "", 1, 0)),
            ),
            (&plain, bounds(&[], &["*.example.org"], &[]), None),
            (
                &plain,
                bounds(&[], &[], &[(Organization, Some(partner))]),
                Some(("CN=cart,O=Partner", "CN=cart,O=Partner", 0, 1)),
            ),
            (
                &plain,
                bounds(&[], &[], &[(Organization, Some(partner)), (CommonName, None)]),
                Some(("CN=cart,O=Partner", "CN=cart,O=Partner", 0, 2)),
            ),
            (&plain, bounds(&[], &[], &[(Organization, Some(&["Corp"]))]), None),
            (&spiffe, bounds(&[], &[], &[(Organization, Some(partner))]), None),
        ];
        for (der, bounds, expected) in cases {
            let authority = Authority {
                id: Some(AuthorityId::Name("partner".parse().unwrap())),
                file: "partner.pem".into(),
                bounds: Some(bounds),
            };
            let left = read(der).vouched_for_by(&authority).ok();
            let told = left.as_ref().map(|left| {
                let names = &left.names;
                (
                    &*left.identity,
                    &*left.subject,
                    names.dns.len(),
                    names.subject.len(),
                )
            });
            assert_eq!(told, expected, "{:?}", authority.bounds);
            assert!(left.is_none_or(|left| left.authority == authority.id));
        }
    }

    #[test]
    fn m5_a_second_value_of_a_bound_attribute_is_not_smuggled_in() {
        let der = certificate(&[], |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Partner");
            let organisation = vec![2, 5, 4, 10];
            params
                .distinguished_name
                .push(DnType::CustomDnType(organisation), "Corp");
        });
        let both = read(&der);
        assert_eq!(&*both.subject, "O=Partner,O=Corp", "the certificate has both");
        let authority = Authority {
            id: None,
            file: "partner.pem".into(),
            bounds: Some(Bounds {
                subject: vec![(
                    enforcer_model::Attribute::Organization,
                    Some(vec!["Partner".into()]),
                )],
                ..Bounds::default()
            }),
        };
        assert_eq!(both.vouched_for_by(&authority), Err(NotVouchedFor));
    }
}
