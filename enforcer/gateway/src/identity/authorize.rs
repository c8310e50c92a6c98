//! Whether what a client has proved suffices for a rule.

use std::{net::IpAddr, sync::Arc};

use http::StatusCode;
use thiserror::Error;

use super::{
    challenge::Challenge,
    reason::Reason,
    token::{Binding, VerifiedToken},
};
use crate::signal::Verdict;
use enforcer_model::{
    Access, ApiKey, ApiKeyRequirement, CertificateRequirement, ClaimRequirement, Name, Requirement,
    RolesRequirement, TokenRequirement, access::names_role, flow::AuthorityId,
};
use enforcer_tls::certificate::ClientCertificate;

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denial<'a> {
    /// The rule has no `require`.
    #[error("the rule admits nobody: it says nothing under `require`")]
    Nobody,
    #[error("the rule admits no requests from this address")]
    SourceNotAdmitted,
    #[error("a client certificate is required and none was sent")]
    CertificateMissing,
    /// Also if the certificate has no SPIFFE identity.
    #[error("the client certificate's SPIFFE identity is none of those that the rule admits")]
    CertificateNotAdmitted,
    #[error("the authority of the client certificate is none of those that the rule admits")]
    AuthorityNotAdmitted,
    /// DNS names or the subject.
    #[error("the client certificate's names are none of those that the rule admits")]
    NamesNotAdmitted,
    #[error("this connection's client certificate has expired: connect anew")]
    CertificateExpired,
    #[error("a token is required and none was sent")]
    TokenMissing,
    /// The caller verified it with another issuer than the rule's.
    #[error("the token is from another issuer than the rule's")]
    TokenOfOtherIssuer,
    /// RFC 8705, section 3.
    #[error("the token is bound to a key that the client has not proved to have")]
    TokenBound,
    #[error("the token lacks a scope that the rule requires")]
    ScopesMissing(&'a [Arc<str>]),
    #[error("the token lacks a claim that the rule requires, or has another there")]
    ClaimsNotAdmitted,
    /// Of which proof.
    #[error("the {0} lacks a role that the rule requires")]
    RolesMissing(&'static str),
    /// It is false, or has no value.
    #[error("the rule's condition does not hold")]
    ConditionFails,
}

impl Denial<'_> {
    /// How the denial counts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.status() {
            StatusCode::UNAUTHORIZED => Verdict::Unauthenticated,
            _ => Verdict::Forbidden,
        }
    }

    /// What metrics say of it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Nobody => Reason::Nobody,
            Self::SourceNotAdmitted => Reason::Source,
            Self::CertificateMissing => Reason::CertificateMissing,
            Self::CertificateNotAdmitted => Reason::CertificateIdentity,
            Self::AuthorityNotAdmitted => Reason::CertificateAuthority,
            Self::NamesNotAdmitted => Reason::CertificateNames,
            Self::CertificateExpired => Reason::CertificateExpired,
            Self::TokenMissing => Reason::TokenMissing,
            Self::TokenOfOtherIssuer => Reason::TokenIssuer,
            Self::TokenBound => Reason::TokenBound,
            Self::ScopesMissing(_) => Reason::Scopes,
            Self::ClaimsNotAdmitted => Reason::Claims,
            Self::RolesMissing(_) => Reason::Roles,
            Self::ConditionFails => Reason::Condition,
        }
    }

    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.challenge()
            .map_or(StatusCode::FORBIDDEN, |challenge| challenge.status())
    }

    /// What to ask for; nothing if no further proof would help.
    #[must_use]
    pub fn challenge(&self) -> Option<Challenge<'_>> {
        match self {
            Self::Nobody
            | Self::SourceNotAdmitted
            | Self::CertificateNotAdmitted
            | Self::AuthorityNotAdmitted
            | Self::NamesNotAdmitted
            | Self::ClaimsNotAdmitted
            | Self::RolesMissing(_)
            | Self::ConditionFails => None,
            Self::CertificateMissing | Self::CertificateExpired => Some(Challenge::CertificateWanted),
            Self::TokenMissing => Some(Challenge::TokenWanted),
            Self::TokenOfOtherIssuer => Some(Challenge::TokenRefused(super::token::TokenError::Issuer)),
            Self::TokenBound => Some(Challenge::TokenBound),
            Self::ScopesMissing(scopes) => Some(Challenge::ScopesWanted(scopes)),
        }
    }
}

/// Decides by where a request comes from, before anything is spent on its proofs.
///
/// # Errors
/// The rule admits nothing from there.
pub fn admit_source(access: &Access, source: IpAddr) -> Result<(), Denial<'static>> {
    if access.admits_source(source) {
        Ok(())
    } else {
        Err(Denial::SourceNotAdmitted)
    }
}

/// Decides by the proofs of one request: the certificate of its connection and its verified token, which
/// must have passed `Verifier::prove` with this request.
///
/// # Errors
/// What is missing first.
pub fn authorize<'a>(
    requirement: &'a Requirement,
    certificate: Option<&ClientCertificate>,
    token: Option<&VerifiedToken>,
) -> Result<(), Denial<'a>> {
    match requirement {
        Requirement::Anybody => Ok(()),
        // The loader makes no such proof; without anything to prove, nobody has proved it.
        Requirement::Nobody
        | Requirement::Proof {
            mtls: None,
            token: None,
            api_key: None,
        } => Err(Denial::Nobody),
        // Whether the request has one of the API keys is the caller's to verify (`KeyRing::verify`).
        Requirement::Proof {
            mtls, token: wanted, ..
        } => {
            if let Some(wanted) = mtls {
                check_certificate(wanted, certificate)?;
            }
            if let Some(wanted) = wanted {
                check_token(wanted, certificate, token)?;
            }
            Ok(())
        }
    }
}

/// Decides by what the verified API key of a request may do.
///
/// # Errors
/// It lacks a role.
pub fn authorize_key(wanted: &ApiKeyRequirement, key: &ApiKey) -> Result<(), Denial<'static>> {
    if wanted.roles.iter().all(|role| key.roles.contains(role)) {
        Ok(())
    } else {
        Err(Denial::RolesMissing("API key"))
    }
}

fn check_certificate<'a>(
    wanted: &CertificateRequirement,
    certificate: Option<&ClientCertificate>,
) -> Result<(), Denial<'a>> {
    let certificate = certificate.ok_or(Denial::CertificateMissing)?;
    let authority = certificate.authority.as_ref().and_then(AuthorityId::name);
    let is_wanted = |name: &Name| wanted.authorities.contains(name);
    if !wanted.authorities.is_empty() && !authority.is_some_and(is_wanted) {
        return Err(Denial::AuthorityNotAdmitted);
    }
    let admitted = |identity: &Arc<str>| wanted.spiffe.iter().any(|pattern| pattern.matches(identity));
    if !wanted.spiffe.is_empty() && !certificate.spiffe.as_ref().is_some_and(admitted) {
        return Err(Denial::CertificateNotAdmitted);
    }
    if certificate.names.suffice(&wanted.names) {
        Ok(())
    } else {
        Err(Denial::NamesNotAdmitted)
    }
}

fn check_token<'a>(
    wanted: &'a TokenRequirement,
    certificate: Option<&ClientCertificate>,
    token: Option<&VerifiedToken>,
) -> Result<(), Denial<'a>> {
    let token = token.ok_or(Denial::TokenMissing)?;
    if token.issuer != wanted.issuer {
        return Err(Denial::TokenOfOtherIssuer);
    }
    let proved = match token.binding {
        Binding::Bearer => true,
        Binding::Certificate(fingerprint) => {
            certificate.is_some_and(|certificate| certificate.fingerprint_sha256 == fingerprint)
        }
        // Without its proof, the token is not shown here: see `Verifier::prove`.
        Binding::Key(_) => true,
        Binding::Unsupported => false,
    };
    if !proved {
        return Err(Denial::TokenBound);
    }
    if !wanted.scopes.iter().all(|scope| token.scopes.contains(scope)) {
        return Err(Denial::ScopesMissing(&wanted.scopes));
    }
    let claim = |claim: &ClaimRequirement| {
        let value = claim.path.find(&token.claims);
        value.is_some_and(|value| claim.admits(value))
    };
    if !wanted.content.claims.iter().all(claim) {
        return Err(Denial::ClaimsNotAdmitted);
    }
    let has_roles = |roles: &RolesRequirement| {
        let claim = roles.claim.find(&token.claims);
        claim.is_some_and(|claim| roles.all.iter().all(|role| names_role(claim, role)))
    };
    if wanted.content.roles.as_ref().is_none_or(has_roles) {
        Ok(())
    } else {
        Err(Denial::RolesMissing("token"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Map, json};

    use super::*;
    use crate::identity::scope::Scopes;
    use enforcer_model::{CertificateNames, ClaimValue, TokenContent};
    use enforcer_tls::names::Names;

    fn certificate(spiffe: Option<&str>) -> ClientCertificate {
        ClientCertificate {
            identity: spiffe.unwrap_or("CN=cart").into(),
            spiffe: spiffe.map(Arc::from),
            spiffe_problem: None,
            subject: "CN=cart".into(),
            names: Names::default(),
            fingerprint_sha256: [7; 32],
            issuer: "CN=authority".into(),
            serial: [1].as_slice().into(),
            not_after: SystemTime::UNIX_EPOCH,
            authority: None,
        }
    }

    fn token(scope: &str) -> VerifiedToken {
        let claims = json!({ "scope": scope });
        VerifiedToken {
            issuer: "corp".parse().unwrap(),
            subject: "alice".into(),
            client_id: None,
            scopes: Scopes::of_claims(claims.as_object().unwrap()).unwrap(),
            expires: SystemTime::UNIX_EPOCH,
            holds_until: None,
            id: None,
            binding: Binding::Bearer,
            tier: None,
            claims: Map::new(),
        }
    }

    fn mtls(patterns: &[&str]) -> CertificateRequirement {
        CertificateRequirement {
            authorities: Vec::new(),
            spiffe: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            names: CertificateNames::default(),
        }
    }

    fn scopes(scopes: &[&str]) -> TokenRequirement {
        TokenRequirement {
            issuer: "corp".parse().unwrap(),
            scopes: scopes.iter().map(|&scope| scope.into()).collect(),
            content: TokenContent::default(),
        }
    }

    #[test]
    fn who_requires_nothing_admits_nobody_or_everybody() {
        let (certificate, token) = (certificate(Some("spiffe://a/b")), token("x"));
        let empty = Requirement::Proof {
            mtls: None,
            token: None,
            api_key: None,
        };
        for requirement in [Requirement::Nobody, empty] {
            let denial = authorize(&requirement, Some(&certificate), Some(&token)).unwrap_err();
            assert_eq!((&denial, denial.status().as_u16()), (&Denial::Nobody, 403));
            assert_eq!((denial.verdict(), denial.challenge()), (Verdict::Forbidden, None));
        }
        assert_eq!(authorize(&Requirement::Anybody, None, None), Ok(()));
    }

    #[test]
    fn certificates_must_be_there_and_match() {
        let any = Requirement::Proof {
            mtls: Some(mtls(&[])),
            token: None,
            api_key: None,
        };
        let shop = [
            "spiffe://example.com/ns/shop/sa/*",
            "spiffe://example.com/ns/ops/sa/probe",
        ];
        let shop = Requirement::Proof {
            mtls: Some(mtls(&shop)),
            token: None,
            api_key: None,
        };
        let decide = |requirement, spiffe| {
            let decision = authorize(requirement, Some(&certificate(spiffe)), Some(&token("x")));
            decision.map_err(|denial: Denial<'_>| denial.status().as_u16())
        };
        assert_eq!(decide(&any, None), Ok(()));
        assert_eq!(
            decide(&shop, Some("spiffe://example.com/ns/shop/sa/cart")),
            Ok(())
        );
        assert_eq!(
            decide(&shop, Some("spiffe://example.com/ns/ops/sa/probe")),
            Ok(())
        );
        assert_eq!(
            decide(&shop, Some("spiffe://example.com/ns/ops/sa/cart")),
            Err(403)
        );
        assert_eq!(
            decide(&shop, Some("spiffe://example.org/ns/shop/sa/cart")),
            Err(403)
        );
        assert_eq!(decide(&shop, None), Err(403));
        let denial = authorize(&shop, None, Some(&token("x"))).unwrap_err();
        assert_eq!(
            (&denial, denial.status().as_u16()),
            (&Denial::CertificateMissing, 401)
        );
        assert_eq!(denial.verdict(), Verdict::Unauthenticated);
        assert_eq!(denial.challenge(), Some(Challenge::CertificateWanted));
    }

    #[test]
    fn tokens_must_be_there_and_have_all_scopes() {
        let requirement = Requirement::Proof {
            mtls: None,
            token: Some(scopes(&["a", "b"])),
            api_key: None,
        };
        let decide = |token: Option<&VerifiedToken>| authorize(&requirement, None, token);
        assert_eq!(decide(Some(&token("c b a"))), Ok(()));
        assert_eq!(decide(None), Err(Denial::TokenMissing));
        assert_eq!(
            decide(None).unwrap_err().challenge(),
            Some(Challenge::TokenWanted)
        );
        for lacking in ["", "a", "b", "a:b ab A B"] {
            let denial = decide(Some(&token(lacking))).unwrap_err();
            assert!(matches!(denial, Denial::ScopesMissing([_, _])), "{lacking}");
            assert_eq!(
                (denial.status().as_u16(), denial.verdict()),
                (403, Verdict::Forbidden)
            );
        }
        let foreign = VerifiedToken {
            issuer: "other".parse().unwrap(),
            ..token("a b")
        };
        let denial = decide(Some(&foreign)).unwrap_err();
        assert_eq!(
            (&denial, denial.status().as_u16()),
            (&Denial::TokenOfOtherIssuer, 401)
        );
    }

    #[test]
    fn tokens_must_have_all_claims_and_roles() {
        let claim = |path: &str, value: ClaimValue| ClaimRequirement {
            path: path.parse().unwrap(),
            values: vec![value],
        };
        let roles = |all: &[&str]| RolesRequirement {
            claim: "realm.roles".parse().unwrap(),
            all: all.iter().map(|&role| role.into()).collect(),
        };
        let decide = |claims: &[ClaimRequirement], roles: Option<RolesRequirement>, of: serde_json::Value| {
            let mut wanted = scopes(&[]);
            wanted.content = TokenContent {
                claims: claims.to_vec(),
                roles,
            };
            let requirement = Requirement::Proof {
                mtls: None,
                token: Some(wanted),
                api_key: None,
            };
            let mut token = token("");
            token.claims = of.as_object().unwrap().clone();
            let decision = authorize(&requirement, None, Some(&token));
            decision.map_err(|denial| (denial.reason(), denial.status().as_u16()))
        };
        let eu = claim("region", ClaimValue::Text("eu".into()));
        let level = claim("acr.level", ClaimValue::Integer(2));
        let both = [eu, level];
        assert_eq!(
            decide(&both, None, json!({"region": ["us", "eu"], "acr": {"level": 2}})),
            Ok(())
        );
        for lacking in [
            json!({"region": "eu"}),
            json!({"region": "eu", "acr": 2}),
            json!({"region": "us", "acr": {"level": 2}}),
            json!({"acr": {"level": 2}}),
        ] {
            assert_eq!(decide(&both, None, lacking), Err((Reason::Claims, 403)));
        }
        let admin = || Some(roles(&["admin", "auditor"]));
        let named = |names: &[&str]| json!({"realm": {"roles": names}});
        assert_eq!(decide(&[], admin(), named(&["auditor", "x", "admin"])), Ok(()));
        for lacking in [
            named(&["admin"]),
            named(&[]),
            json!({"roles": ["admin", "auditor"]}),
        ] {
            assert_eq!(decide(&[], admin(), lacking), Err((Reason::Roles, 403)));
        }
    }

    #[test]
    fn sources_are_those_of_the_rule() {
        let access = Access {
            from: ["10.0.0.0/8", "2001:db8::/32"]
                .map(|prefix| prefix.parse().unwrap())
                .into(),
            ..Access::default()
        };
        for (source, admitted) in [
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            let source = source.parse().unwrap();
            assert_eq!(admit_source(&access, source).is_ok(), admitted, "{source}");
            assert!(admit_source(&Access::default(), source).is_ok());
        }
    }

    #[test]
    fn bound_tokens_need_what_they_are_bound_to() {
        let requirement = Requirement::Proof {
            mtls: None,
            token: Some(scopes(&[])),
            api_key: None,
        };
        let certificate = certificate(None);
        for (binding, presented, holds) in [
            (Binding::Certificate([7; 32]), Some(&certificate), true),
            (Binding::Certificate([8; 32]), Some(&certificate), false),
            (Binding::Certificate([7; 32]), None, false),
            (Binding::Unsupported, Some(&certificate), false),
            (Binding::Bearer, None, true),
        ] {
            let token = VerifiedToken { binding, ..token("") };
            let decision = authorize(&requirement, presented, Some(&token));
            assert_eq!(decision.is_ok(), holds, "{binding:?}");
            if let Err(denial) = decision {
                assert_eq!((&denial, denial.status().as_u16()), (&Denial::TokenBound, 401));
            }
        }
    }

    #[test]
    fn every_proof_that_is_asked_for_must_hold() {
        let requirement = Requirement::Proof {
            mtls: Some(mtls(&["spiffe://example.com/*"])),
            token: Some(scopes(&["a"])),
            api_key: None,
        };
        let good = certificate(Some("spiffe://example.com/cart"));
        let bad = certificate(Some("spiffe://example.org/cart"));
        let (right, wrong) = (token("a"), token("b"));
        let decide = |certificate, token| authorize(&requirement, certificate, token);
        assert_eq!(decide(Some(&good), Some(&right)), Ok(()));
        assert_eq!(decide(Some(&good), None), Err(Denial::TokenMissing));
        assert_eq!(decide(None, Some(&right)), Err(Denial::CertificateMissing));
        assert_eq!(
            decide(Some(&bad), Some(&right)),
            Err(Denial::CertificateNotAdmitted)
        );
        assert!(matches!(
            decide(Some(&good), Some(&wrong)),
            Err(Denial::ScopesMissing(_))
        ));
    }
}
