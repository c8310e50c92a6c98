//! Why requests are denied, as metrics name it.

/// What was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Nobody,
    Source,
    CertificateMissing,
    CertificateExpired,
    CertificateIdentity,
    CertificateNames,
    TokenMissing,
    TokenIssuer,
    TokenBound,
    Scopes,
    Claims,
    Roles,
    Condition,
}

/// All of them, in the order of their numbers.
pub const REASONS: [Reason; 13] = [
    Reason::Nobody,
    Reason::Source,
    Reason::CertificateMissing,
    Reason::CertificateExpired,
    Reason::CertificateIdentity,
    Reason::CertificateNames,
    Reason::TokenMissing,
    Reason::TokenIssuer,
    Reason::TokenBound,
    Reason::Scopes,
    Reason::Claims,
    Reason::Roles,
    Reason::Condition,
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
            Self::CertificateNames => "certificate_names",
            Self::TokenMissing => "token_missing",
            Self::TokenIssuer => "token_issuer",
            Self::TokenBound => "token_bound",
            Self::Scopes => "scopes",
            Self::Claims => "claims",
            Self::Roles => "roles",
            Self::Condition => "condition",
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
