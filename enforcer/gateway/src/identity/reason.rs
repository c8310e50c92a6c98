//! Why requests are denied, as metrics name it.

/// What was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Nobody,
    Source,
    CertificateMissing,
    CertificateExpired,
    CertificateIdentity,
    CertificateAuthority,
    CertificateNames,
    TokenMissing,
    TokenIssuer,
    TokenBound,
    Scopes,
    Claims,
    Roles,
    Condition,
    KeyMissing,
    KeyUnreadable,
    KeyUnknown,
    KeyExpired,
    KeyElsewhere,
    Revoked,
    TokenUnreadable,
    TokenAlgorithm,
    TokenType,
    TokenUnknownKey,
    TokenSignature,
    TokenAudience,
    TokenExpired,
    TokenNotYetValid,
    TokenInactive,
    TokenProof,
    TooManyAttempts,
    IssuerUnavailable,
}

/// All of them, in the order of their numbers.
pub const REASONS: [Reason; 32] = [
    Reason::Nobody,
    Reason::Source,
    Reason::CertificateMissing,
    Reason::CertificateExpired,
    Reason::CertificateIdentity,
    Reason::CertificateAuthority,
    Reason::CertificateNames,
    Reason::TokenMissing,
    Reason::TokenIssuer,
    Reason::TokenBound,
    Reason::Scopes,
    Reason::Claims,
    Reason::Roles,
    Reason::Condition,
    Reason::KeyMissing,
    Reason::KeyUnreadable,
    Reason::KeyUnknown,
    Reason::KeyExpired,
    Reason::KeyElsewhere,
    Reason::Revoked,
    Reason::TokenUnreadable,
    Reason::TokenAlgorithm,
    Reason::TokenType,
    Reason::TokenUnknownKey,
    Reason::TokenSignature,
    Reason::TokenAudience,
    Reason::TokenExpired,
    Reason::TokenNotYetValid,
    Reason::TokenInactive,
    Reason::TokenProof,
    Reason::TooManyAttempts,
    Reason::IssuerUnavailable,
];

impl Reason {
    /// Its name in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Source => "source",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateIdentity => "certificate_identity",
            Self::CertificateAuthority => "certificate_authority",
            Self::CertificateNames => "certificate_names",
            Self::TokenMissing => "token_missing",
            Self::TokenIssuer => "token_issuer",
            Self::TokenBound => "token_bound",
            Self::Scopes => "scopes",
            Self::Claims => "claims",
            Self::Roles => "roles",
            Self::Condition => "condition",
            Self::KeyMissing => "key_missing",
            Self::KeyUnreadable => "key_unreadable",
            Self::KeyUnknown => "key_unknown",
            Self::KeyExpired => "key_expired",
            Self::KeyElsewhere => "key_elsewhere",
            Self::Revoked => "revoked",
            Self::TokenUnreadable => "token_unreadable",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenType => "token_type",
            Self::TokenUnknownKey => "token_unknown_key",
            Self::TokenSignature => "token_signature",
            Self::TokenAudience => "token_audience",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenInactive => "token_inactive",
            Self::TokenProof => "token_proof",
            Self::TooManyAttempts => "too_many_attempts",
            Self::IssuerUnavailable => "issuer_unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_numbers() {
        for (number, reason) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{}", reason.label());
        }
    }
}
