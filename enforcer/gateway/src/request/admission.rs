//! Whether a request may go on: by where it comes from, its proofs, the rule's condition, and its limits.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, request::Parts};

use super::Passage;
use crate::{
    connection::{Connection, attempted, blame},
    identity::{
        api_key::KeyError,
        authorize::{Denial, admit_source, authorize, authorize_key},
        bearer::{self, BearerError, Offered, Scheme},
        challenge::Realm,
        condition,
        dpop::{self, ProofError},
        facts::Facts,
        introspection::Asker,
        token::{TokenError, VerifiedToken},
        trusted::Trusted,
    },
    limit::{self, KeyParts},
    refusal::Refusal,
    revocation::Proofs,
};
use enforcer_http_rules::host::Host;
use enforcer_model::{ApiKey, ApiKeyRequirement, Mode, Requirement, Rule, flow::Identity};
use enforcer_routing::router::RuleIndex;

impl<'a> Passage<'a> {
    /// Whether the request may go on: by its proofs, then by its limits.
    pub(super) async fn admit(
        &mut self,
        (index, target): (RuleIndex, usize),
        parts: &Parts,
        host: &Host,
    ) -> Result<(), Refusal> {
        let (route, rule) = self.policy.generation.rule(index);
        let name = route.name.as_str();
        admit_source(&rule.access, self.connection.client.ip())
            .map_err(|denial| Refusal::denied(&denial, name))?;
        let token = self.authenticate(rule, name, parts, host).await?;
        if let Some(entry) = &mut self.entry {
            entry.token.clone_from(&token);
        }
        let realm = self.realm(name);
        let certificate = self.connection.certificate.as_ref();
        authorize(&rule.require, certificate, token.as_deref()).map_err(|denial| {
            let refusal = Refusal::denied(&denial, realm);
            if denial == Denial::TokenBound {
                return self.failed(false, refusal, realm);
            }
            refusal
        })?;
        let key = self.api_key(rule, name, &parts.headers)?;
        if let Some(entry) = &mut self.entry {
            entry.key = key.map(|(_, key)| Arc::clone(key));
        }
        let key = key
            .map(|(wanted, key)| authorize_key(wanted, key).map(|()| key))
            .transpose()
            .map_err(|denial| Refusal::denied(&denial, realm))?;
        if let Some(condition) = self.policy.condition(index) {
            let facts = Facts {
                method: &parts.method,
                path: parts.uri.path(),
                host: host.name(),
                query: parts.uri.query(),
                headers: &parts.headers,
                source: self.connection.client.ip(),
                token: token.as_deref(),
                certificate,
                key: key.map(|key| &**key),
            };
            if !condition::holds(condition, &facts) {
                return Err(Refusal::denied(&Denial::ConditionFails, realm));
            }
        }
        let proofs = Proofs {
            certificate,
            token: token.as_deref(),
            key: key.map(|key| &**key),
        };
        if let Some(revoked) = self.connection.worker.revoked(&proofs) {
            return Err(self.failed(false, Refusal::revoked(revoked, realm), realm));
        }
        // The issuer may have been waited for since the request began, and the key taken away meanwhile.
        if let Some(key) = key
            && !self.connection.worker.policy().generation.keys.has(key)
        {
            return Err(Refusal::api_key(KeyError::Unknown, name));
        }
        // Nothing is waited for since the looks above, so that every revocation from here on finds it, and whoever takes
        // a key away.
        self.held = self.connection.hold(token.as_ref(), key);
        if let (Some(held), Some(token)) = (&self.held, &token) {
            self.connection.verified_by(held, || Identity::Token {
                issuer: token.issuer.clone(),
                subject: Arc::clone(&token.subject),
            });
        }
        if let (Some(held), Some(key)) = (&self.held, key) {
            self.connection.verified_by(held, || Identity::ApiKey {
                owner: Arc::clone(&key.owner),
                id: Arc::clone(&key.id),
            });
        }
        self.token = token;
        self.key = key;
        self.limit(target, rule.mode(route), &parts.headers).await
    }

    /// Charges the request to the rule's limits; it may have to wait for its turn. In shadow mode
    /// nothing waits.
    async fn limit(&mut self, target: usize, mode: Mode, fields: &HeaderMap) -> Result<(), Refusal> {
        let generation = &self.policy.generation;
        let limits = generation.limits(target);
        if limits.is_empty() {
            return Ok(());
        }
        let connection = self.connection;
        let keys = KeyParts::new(
            connection.client.ip(),
            connection.certificate.as_ref(),
            self.token.as_deref(),
        )
        .with_api_key(self.key.map(|key| &**key))
        .with_fields(fields);
        let outcome = match mode {
            Mode::Enforce => {
                connection
                    .worker
                    .waiting
                    .admit(limits, &keys, || generation.now_ns())
                    .await
            }
            Mode::Shadow => limits.check(&keys, generation.now_ns()),
        };
        if mode == Mode::Enforce {
            self.standing = Some(limit::headers::Told::new(limits, keys.tier, outcome));
        }
        match outcome {
            limit::Outcome::Admitted { .. } => {
                self.meter = generation.meter(target, &keys);
                Ok(())
            }
            limit::Outcome::Refused(refusal) => Err(Refusal::limited(limits, &refusal)),
        }
    }

    fn realm<'n>(&self, name: &'n str) -> Realm<'n> {
        let scheme = self.scheme;
        Realm { name, scheme }
    }

    /// The verified token, if the rule wants one and the request has one. One that is bound to a key has
    /// its proof.
    async fn authenticate(
        &mut self,
        rule: &Rule,
        realm: &str,
        parts: &Parts,
        host: &Host,
    ) -> Result<Option<Arc<VerifiedToken>>, Refusal> {
        let Requirement::Proof {
            token: Some(wanted), ..
        } = &rule.require
        else {
            return Ok(None);
        };
        let issuer = self.policy.generation.verifier.of(&wanted.issuer);
        let field = bearer::field(&parts.headers).map_err(|error| self.unreadable(error, realm))?;
        let now = SystemTime::now();
        let asked = dpop::Asked {
            method: &parts.method,
            tls: self.connection.is_tls(),
            host,
            path: parts.uri.path(),
        };
        let connection = self.connection;
        if let (Ok(issuer), Some(field)) = (issuer, field)
            && let Some(accepted) = issuer.recall(&connection.repeated, field, now)
        {
            let (offered, token) = (accepted.offered(), accepted.token());
            self.scheme = offered.scheme;
            self.prove(issuer, (&offered, token), &asked, (parts, || now), realm)?;
            return Ok(Some(Arc::clone(token)));
        }
        let offered = field.map_or(Ok(None), bearer::token);
        let offered = offered.map_err(|error| self.unreadable(error, realm))?;
        let (Some(field), Some(offered)) = (field, offered) else {
            if issuer.is_ok_and(|issuer| issuer.wants_proofs()) {
                self.scheme = Scheme::Dpop;
            }
            return Ok(None);
        };
        self.scheme = offered.scheme;
        let refused = |error: TokenError| {
            let refusal = Refusal::token(error, self.realm(realm));
            if error.is_clients() {
                return self.failed(error.is_forged(), refusal, self.realm(realm));
            }
            refusal
        };
        let client = || {
            let (worker, source) = (&connection.worker, connection.client.ip());
            let attempts = connection.whose.source();
            if !self.is_shadow() && attempts.is_some_and(|source| !worker.may_attempt(source)) {
                return Err(TokenError::TooManyAttempts);
            }
            let known = worker.admission.verified.is_recent(source);
            Ok(Asker { source, known })
        };
        let issuer = issuer.map_err(refused)?;
        let token = issuer
            .verify_or_refresh(
                &connection.worker.tokens,
                &connection.repeated,
                (field, &offered),
                client,
                now,
            )
            .await
            .map_err(refused)?;
        // The token may have been waited for, and a proof does not hold for long.
        self.prove(
            issuer,
            (&offered, &token),
            &asked,
            (parts, SystemTime::now),
            realm,
        )?;
        Ok(Some(token))
    }

    /// Whether the client may use the token that it has `offered`.
    fn prove(
        &mut self,
        issuer: Trusted<'_>,
        offered: (&Offered<'_>, &VerifiedToken),
        asked: &dpop::Asked<'_>,
        (parts, now): (&Parts, impl FnOnce() -> SystemTime),
        realm: &str,
    ) -> Result<(), Refusal> {
        issuer
            .prove(offered, asked, &parts.headers, now, &mut self.fields)
            .map_err(|error| self.unproved(error, realm))
    }

    /// The credentials are no token in due form.
    fn unreadable(&self, error: BearerError, realm: &str) -> Refusal {
        let refusal = Refusal::unreadable(error, realm);
        self.failed(error.is_forged(), refusal, realm)
    }

    /// The proof of the token's key does not hold.
    fn unproved(&self, error: ProofError, realm: &str) -> Refusal {
        let metrics = &self.connection.worker.metrics;
        metrics.dpop_refusals.with_label_values(&[error.label()]).inc();
        let refusal = Refusal::proof(error, self.realm(realm));
        if error.is_attempt() {
            return self.failed(error.is_forged(), refusal, self.realm(realm));
        }
        refusal
    }

    /// The verified API key, if the rule wants one, beside what it wants.
    fn api_key<'r>(
        &self,
        rule: &'r Rule,
        realm: &str,
        fields: &HeaderMap,
    ) -> Result<Option<(&'r ApiKeyRequirement, &'a Arc<ApiKey>)>, Refusal> {
        let Requirement::Proof {
            api_key: Some(wanted),
            ..
        } = &rule.require
        else {
            return Ok(None);
        };
        let verified = self
            .policy
            .generation
            .keys
            .verify(wanted, fields, SystemTime::now());
        verified.map(|key| Some((&**wanted, key))).map_err(|error| {
            let refusal = Refusal::api_key(error, realm);
            if error.is_attempt() {
                return self.failed(error.is_forged(), refusal, realm);
            }
            refusal
        })
    }

    /// A credential was offered and is answered with `refusal`, unless too many of its source were: then with less.
    /// `forged`: it was forged or guessed.
    fn failed<'n>(&self, forged: bool, refusal: Refusal, realm: impl Into<Realm<'n>>) -> Refusal {
        // Where nothing is enforced, nobody is denied for it either.
        if self.is_shadow() {
            return refusal;
        }
        let Connection { worker, whose, .. } = &**self.connection;
        let may = whose.source().is_none_or(|source| worker.may_attempt(source));
        if forged {
            blame(worker, *whose);
        } else {
            attempted(worker, *whose);
        }
        if may {
            refusal
        } else {
            Refusal::token(TokenError::TooManyAttempts, realm)
        }
    }

    /// Whether the rule that decides only counts.
    fn is_shadow(&self) -> bool {
        let rule = self.rule.map(|(index, _)| self.policy.generation.rule(index));
        rule.is_some_and(|(route, rule)| rule.mode(route) == Mode::Shadow)
    }
}
