//! Which proofs are revoked: the table that each request's proofs are looked up in, and who changes it.
//!
//! A change makes a new table and swaps it in. Requests read it by a cache of their worker's own, so that while
//! nothing changes they share nothing but a pointer that nobody writes; an empty table costs a load. What files say and
//! what the operator says are parts of their own, so that a change of one does not copy the other.
//!
//! Bounds: at most [`MOST`] entries of the operator's, beside those of files, which the loader bounds. A full table
//! admits no further entry, and loses none.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use arc_swap::{ArcSwap, Cache};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::identity::token::VerifiedToken;
use enforcer_model::{ApiKey, Credential, Name, Revocation, Revocations};
use enforcer_tls::certificate::ClientCertificate;

/// The most entries of the operator's.
pub const MOST: usize = 10_000;

/// Until when an entry holds. `None`: for ever.
type Until = Option<SystemTime>;

/// Entries about tokens, by the policy's name of their issuer.
type OfIssuers = HashMap<Name, HashMap<Arc<str>, Until>>;

/// What is revoked at one time.
#[derive(Clone, Debug, Default)]
pub struct Table {
    files: Arc<Part>,
    operator: Arc<Part>,
}

/// Entries of one origin. The hashes are keyed, since the names are the clients'.
#[derive(Debug, Default)]
struct Part {
    count: usize,
    tokens: OfIssuers,
    subjects: OfIssuers,
    clients: OfIssuers,
    keys: HashMap<Arc<str>, Until>,
    certificates: HashMap<[u8; 32], Until>,
    /// By the issuer's name.
    serials: HashMap<Arc<str>, HashMap<Arc<[u8]>, Until>>,
}

/// What a request, or a connection, rests on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proofs<'a> {
    pub certificate: Option<&'a ClientCertificate>,
    pub token: Option<&'a VerifiedToken>,
    pub key: Option<&'a ApiKey>,
}

/// Which of the proofs it is that is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Revoked {
    #[error("the client certificate has been revoked")]
    Certificate,
    #[error("the token has been revoked")]
    Token,
    #[error("the API key has been revoked")]
    Key,
}

/// There are [`MOST`] entries already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{MOST} revocations are in force, which is as many as there can be: end some, revoke a subject or a client instead of single tokens, or write them into a document of kind Revocations"
)]
pub struct Full;

/// The revocations in force, and how they change; clones stand for the same.
#[derive(Clone, Debug)]
pub struct RevocationStore {
    table: Arc<ArcSwap<Table>>,
    /// The operator's. Held while the table is changed.
    operator: Arc<Mutex<BTreeMap<Credential, Revocation>>>,
    /// That files say something else now.
    files: watch::Sender<()>,
}

/// A worker's view of the table.
pub(super) type Latest = Cache<Arc<ArcSwap<Table>>, Arc<Table>>;

impl Default for RevocationStore {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            operator: Arc::default(),
            files: watch::Sender::new(()),
        }
    }
}

impl RevocationStore {
    /// Revokes `entry.what` from the next request on. An entry for the same is replaced.
    /// [`super::Revoker::end_revoked`] ends what is under way.
    ///
    /// # Errors
    /// There are too many, none of which has ended.
    pub fn add(&self, entry: Revocation) -> Result<(), Full> {
        let mut operator = self.operator();
        if operator.len() >= MOST {
            let now = OffsetDateTime::now_utc();
            operator.retain(|_, entry| entry.until.is_none_or(|until| until > now));
        }
        if operator.len() >= MOST && !operator.contains_key(&entry.what) {
            return Err(Full);
        }
        operator.insert(entry.what.clone(), entry);
        self.publish(&operator);
        Ok(())
    }

    /// Puts in force what the operator has revoked earlier: [`MOST`] entries at most, of which the last are left out
    /// beyond.
    pub fn restore(&self, entries: Vec<Revocation>) {
        let mut operator = self.operator();
        let room = MOST.saturating_sub(operator.len());
        operator.extend(
            entries
                .into_iter()
                .take(room)
                .map(|entry| (entry.what.clone(), entry)),
        );
        self.publish(&operator);
    }

    /// Ends a revocation of the operator's. Whether there was one.
    pub fn remove(&self, what: &Credential) -> bool {
        let mut operator = self.operator();
        let removed = operator.remove(what).is_some();
        if removed {
            self.publish(&operator);
        }
        removed
    }

    /// The operator's revocations that have not ended, in order.
    #[must_use]
    pub fn list(&self) -> Vec<Revocation> {
        let now = OffsetDateTime::now_utc();
        let operator = self.operator();
        let holds = |entry: &&Revocation| entry.until.is_none_or(|until| until > now);
        operator.values().filter(holds).cloned().collect()
    }

    /// Puts what files say in force instead of what they said.
    pub(super) fn replace_files(&self, documents: &[Arc<Revocations>]) {
        let _one_at_a_time = self.operator();
        let entries = documents.iter().flat_map(|document| &document.entries);
        let old = self.table.load_full();
        self.table.store(Arc::new(Table {
            files: Arc::new(Part::new(entries)),
            operator: Arc::clone(&old.operator),
        }));
        self.files.send_replace(());
    }

    /// Whenever files say something else.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.files.subscribe()
    }

    pub(super) fn latest(&self) -> Latest {
        Cache::new(Arc::clone(&self.table))
    }

    fn publish(&self, operator: &BTreeMap<Credential, Revocation>) {
        let old = self.table.load_full();
        self.table.store(Arc::new(Table {
            files: Arc::clone(&old.files),
            operator: Arc::new(Part::new(operator.values())),
        }));
    }

    fn operator(&self) -> MutexGuard<'_, BTreeMap<Credential, Revocation>> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.count == 0 && self.operator.count == 0
    }

    /// The first of the proofs that is revoked.
    #[must_use]
    pub fn revoked(&self, proofs: &Proofs<'_>, now: SystemTime) -> Option<Revoked> {
        [&self.files, &self.operator]
            .into_iter()
            .filter(|part| part.count > 0)
            .find_map(|part| part.revoked(proofs, now))
    }
}

impl Part {
    fn new<'a>(entries: impl Iterator<Item = &'a Revocation>) -> Self {
        let mut part = Self::default();
        for entry in entries {
            let until = entry.until.map(SystemTime::from);
            part.count += 1;
            match &entry.what {
                Credential::Token { issuer, id } => enter(&mut part.tokens, issuer, id, until),
                Credential::Subject { issuer, subject } => enter(&mut part.subjects, issuer, subject, until),
                Credential::Client { issuer, client } => enter(&mut part.clients, issuer, client, until),
                Credential::Key(id) => {
                    part.keys.insert(Arc::clone(id), until);
                }
                Credential::Certificate(fingerprint) => {
                    part.certificates.insert(*fingerprint, until);
                }
                Credential::Serial { issuer, serial } => enter(&mut part.serials, issuer, serial, until),
            }
        }
        part
    }

    fn revoked(&self, proofs: &Proofs<'_>, now: SystemTime) -> Option<Revoked> {
        if let Some(certificate) = proofs.certificate
            && self.has_certificate(certificate, now)
        {
            return Some(Revoked::Certificate);
        }
        if let Some(token) = proofs.token
            && self.has_token(token, now)
        {
            return Some(Revoked::Token);
        }
        let key = proofs.key?;
        holds(&self.keys, &*key.id, now).then_some(Revoked::Key)
    }

    fn has_certificate(&self, certificate: &ClientCertificate, now: SystemTime) -> bool {
        let of_issuer = self.serials.get(&*certificate.issuer);
        holds(&self.certificates, &certificate.fingerprint_sha256, now)
            || of_issuer.is_some_and(|serials| holds(serials, &*certificate.serial, now))
    }

    fn has_token(&self, token: &VerifiedToken, now: SystemTime) -> bool {
        let has = |entries: &OfIssuers, name: Option<&Arc<str>>| {
            let of_issuer = entries.get(&token.issuer);
            name.zip(of_issuer)
                .is_some_and(|(name, entries)| holds(entries, &**name, now))
        };
        has(&self.tokens, token.id.as_ref())
            || has(&self.subjects, Some(&token.subject))
            || has(&self.clients, token.client_id.as_ref())
    }
}

fn enter<O, N>(entries: &mut HashMap<O, HashMap<N, Until>>, of: &O, name: &N, until: Until)
where
    O: Hash + Eq + Clone,
    N: Hash + Eq + Clone,
{
    entries.entry(of.clone()).or_default().insert(name.clone(), until);
}

/// Whether there is an entry that has not ended.
fn holds<K, Q>(entries: &HashMap<K, Until>, name: &Q, now: SystemTime) -> bool
where
    K: Borrow<Q> + Hash + Eq,
    Q: Hash + Eq + ?Sized,
{
    entries
        .get(name)
        .is_some_and(|until| until.is_none_or(|until| until > now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, until: Option<OffsetDateTime>) -> Revocation {
        Revocation {
            what: Credential::Key(id.into()),
            reason: None,
            until,
        }
    }

    #[test]
    fn a_full_table_admits_no_more_and_loses_none() {
        let store = RevocationStore::default();
        let past = OffsetDateTime::now_utc() - std::time::Duration::from_secs(1);
        let fill = |count: usize, until| {
            let entries = (0..count).map(|number| key(&number.to_string(), until));
            *store.operator() = entries.map(|entry| (entry.what.clone(), entry)).collect();
        };
        fill(MOST, None);
        assert_eq!(store.add(key("one more", None)), Err(Full));
        assert_eq!(store.list().len(), MOST);
        store.add(key("7", Some(past))).unwrap();
        assert_eq!(store.list().len(), MOST - 1, "the same again is no further one");
        store.add(key("one more", None)).unwrap();
        assert_eq!(store.list().len(), MOST);
        fill(MOST, Some(past));
        store.add(key("one more", None)).unwrap();
        assert_eq!(
            store.list(),
            [key("one more", None)],
            "those that have ended make room"
        );
    }
}
