//! Whether what a client has proved suffices for a rule.

use std::sync::Arc;

use http::StatusCode;
use thiserror::Error;

use super::{
    certificate::ClientCertificate,
    challenge::Challenge,
    token::{Binding, VerifiedToken},
};
use crate::{
    gateway::signal::Verdict,
    policy::model::{CertificateRequirement, Requirement, TokenRequirement},
};

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denial<'a> {
    /// The rule has no `require`.
    #[error("the rule admits nobody: it says nothing under `require`")]
    Nobody,
    #[error("a client certificate is required and none was sent")]
    CertificateMissing,
    /// Also if the certificate has no SPIFFE identity.
    #[error("the client certificate's SPIFFE identity is none of those that the rule admits")]
    CertificateNotAdmitted,
    #[error("a token is required and none was sent")]
    TokenMissing,
    /// The caller verified it with another issuer than the rule's.
    #[error("the token is from another issuer than the rule's")]
    TokenOfOtherIssuer,
    /// RFC 8705, section 3; RFC 9449, section 7.1.
    #[error("the token is bound to a key that the client has not proved to have")]
    TokenBound,
    #[error("the token lacks a scope that the rule requires")]
    ScopesMissing(&'a [Arc<str>]),
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
            Self::Nobody | Self::CertificateNotAdmitted => None,
            Self::CertificateMissing => Some(Challenge::CertificateWanted),
            Self::TokenMissing => Some(Challenge::TokenWanted),
            Self::TokenOfOtherIssuer => Some(Challenge::TokenRefused(super::token::TokenError::Issuer)),
            Self::TokenBound => Some(Challenge::TokenBound),
            Self::ScopesMissing(scopes) => Some(Challenge::ScopesWanted(scopes)),
        }
    }
}

/// Decides by the proofs of one request: the certificate of its connection and its verified token.
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
        } => Err(Denial::Nobody),
        Requirement::Proof { mtls, token: wanted } => {
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

fn check_certificate<'a>(
    wanted: &CertificateRequirement,
    certificate: Option<&ClientCertificate>,
) -> Result<(), Denial<'a>> {
    let certificate = certificate.ok_or(Denial::CertificateMissing)?;
    let admitted = |identity: &Arc<str>| wanted.spiffe.iter().any(|pattern| pattern.matches(identity));
    if wanted.spiffe.is_empty() || certificate.spiffe.as_ref().is_some_and(admitted) {
        Ok(())
    } else {
        Err(Denial::CertificateNotAdmitted)
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
        Binding::Unsupported => false,
    };
    if !proved {
        return Err(Denial::TokenBound);
    }
    if wanted.scopes.iter().all(|scope| token.scopes.contains(scope)) {
        Ok(())
    } else {
        Err(Denial::ScopesMissing(&wanted.scopes))
    }
}
