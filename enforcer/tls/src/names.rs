//! What a client certificate says beside whom it names: DNS names, the subject's attributes, its serial number.

use std::{fmt::Write as _, sync::Arc};

use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, Oid},
};

use super::certificate::CertificateError;
use crate::config::Bounds;
use enforcer_model::{Attribute, CertificateNames};

/// As the certificate has them, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names (subject alternative names).
    pub dns: Vec<Box<str>>,
    /// Attributes of the subject of which rules may ask; those that are no text are left out.
    pub subject: Vec<(Attribute, Box<str>)>,
    /// In lower-case hexadecimal, two digits for each byte.
    pub serial: Box<str>,
}

impl Names {
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let alternative = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::AlternativeNames)?;
        let alternative = alternative.iter().flat_map(|names| &names.value.general_names);
        let dns = alternative.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).into()),
            _ => None,
        });
        let attributes = certificate.subject().iter_attributes();
        let subject =
            attributes.filter_map(|each| Some((attribute(each.attr_type())?, each.as_str().ok()?.into())));
        Ok(Self {
            dns: dns.collect(),
            subject: subject.collect(),
            serial: hexadecimal(certificate.raw_serial()),
        })
    }

    /// Leaves what is within `bounds`. Whether the subject is.
    pub fn within(&mut self, bounds: &Bounds) -> bool {
        self.dns
            .retain(|name| bounds.names.iter().any(|pattern| pattern.matches(name)));
        let fits = |(attribute, admitted): &(Attribute, Option<Vec<Arc<str>>>)| {
            let mut values = self.subject.iter().filter(|(of, _)| of == attribute).peekable();
            let is_admitted = |value: &str| {
                admitted
                    .as_ref()
                    .is_none_or(|all| all.iter().any(|one| **one == *value))
            };
            values.peek().is_some() && values.all(|(_, value)| is_admitted(value))
        };
        let named = !bounds.subject.is_empty() && bounds.subject.iter().all(fits);
        let is_bounded = |of: Attribute| bounds.subject.iter().any(|(attribute, _)| *attribute == of);
        self.subject.retain(|(of, _)| named && is_bounded(*of));
        named
    }

    /// Whether a rule that wants `wanted` has enough.
    #[must_use]
    pub fn suffice(&self, wanted: &CertificateNames) -> bool {
        let has_name = || {
            let admitted = |name: &str| wanted.dns.iter().any(|pattern| pattern.matches(name));
            self.dns.iter().any(|name| admitted(name))
        };
        let has = |(attribute, values): &(Attribute, Vec<Arc<str>>)| {
            let same = |(of, value): &(Attribute, Box<str>)| {
                of == attribute && values.iter().any(|wanted: &Arc<str>| **wanted == **value)
            };
            self.subject.iter().any(same)
        };
        (wanted.dns.is_empty() || has_name()) && wanted.subject.iter().all(has)
    }
}

fn attribute(oid: &Oid<'_>) -> Option<Attribute> {
    if *oid == OID_X509_COMMON_NAME {
        Some(Attribute::CommonName)
    } else if *oid == OID_X509_ORGANIZATION_NAME {
        Some(Attribute::Organization)
    } else if *oid == OID_X509_ORGANIZATIONAL_UNIT {
        Some(Attribute::OrganizationalUnit)
    } else {
        None
    }
}

/// Without the zero byte that only says that the number is positive (X.690, section 8.3).
fn hexadecimal(serial: &[u8]) -> Box<str> {
    let digits = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    };
    let mut text = String::with_capacity(2 * digits.len());
    for byte in digits {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;
    use crate::certificate::ClientCertificate;

    fn names(dns: &[&str], subject: &[(DnType, &str)], serial: &[u8]) -> Names {
        let dns = dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(dns).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.serial_number = Some(serial.to_vec().into());
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::from_der(der.der()).unwrap().names
    }

    #[test]
    fn names_are_read_and_compared() {
        let subject = [
            (DnType::CommonName, "cart"),
            (DnType::OrganizationName, "Shop"),
            (DnType::OrganizationalUnitName, "Web"),
            (DnType::CountryName, "AQ"),
        ];
        let names = names(&["cart.example.com", "b.example.org"], &subject, &[0x8f, 0x01]);
        assert_eq!(&*names.serial, "8f01");
        assert_eq!(names.subject.len(), 3, "{names:?}");
        let wanted = |dns: &[&str], subject: &[(Attribute, &[&str])]| CertificateNames {
            dns: dns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            subject: subject
                .iter()
                .map(|(attribute, values)| (*attribute, values.iter().map(|&value| value.into()).collect()))
                .collect(),
        };
        use Attribute::{CommonName, Organization, OrganizationalUnit};
        for (wanted, enough) in [
            (wanted(&[], &[]), true),
            (wanted(&["*.example.com"], &[]), true),
            (wanted(&["a.example.com", "b.example.org"], &[]), true),
            (wanted(&["*.example.net"], &[]), false),
            (wanted(&[], &[(CommonName, &["cart"])]), true),
            (wanted(&[], &[(CommonName, &["basket", "cart"])]), true),
            (wanted(&[], &[(CommonName, &["Cart"])]), false),
            (
                wanted(&[], &[(CommonName, &["cart"]), (Organization, &["Shop"])]),
                true,
            ),
            (
                wanted(&[], &[(CommonName, &["cart"]), (Organization, &["Bank"])]),
                false,
            ),
            (wanted(&[], &[(OrganizationalUnit, &["Shop"])]), false),
            (wanted(&["*.example.net"], &[(CommonName, &["cart"])]), false),
        ] {
            assert_eq!(names.suffice(&wanted), enough, "{wanted:?}");
        }
    }
}
