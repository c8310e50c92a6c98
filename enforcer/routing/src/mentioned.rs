//! Header fields that a policy looks at or changes, however clients write them.
//!
//! Services that go by CGI's rules read `x_tenant` and `x.tenant` as `x-tenant` (see [`is_same_field`]). Where a rule
//! is about one of them, the others are taken out of the request before it is judged: a service would else read what
//! no rule has seen. Trailers may have none of them, since some services join them with the fields of the head.

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

use enforcer_http_rules::reserved::{is_same_field, remove_where};
use enforcer_model::{Part, RequestKey, Requirement, Route, Rule};

/// The names of such fields.
#[derive(Debug, Default)]
pub struct Mentioned {
    /// Each once.
    names: Vec<HeaderName>,
    /// The lengths that they have, modulo 64: all spellings of a name are as long as it is.
    lengths: u64,
}

impl Mentioned {
    /// What the rules of the route mention.
    pub fn by(route: &Route) -> Self {
        let mut all = Self::default();
        route.rules.iter().flat_map(names).for_each(|name| all.add(name));
        all
    }

    /// Adds what `other` has.
    pub fn extend(&mut self, other: &Self) {
        other.names.iter().for_each(|name| self.add(name));
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn add(&mut self, name: &HeaderName) {
        self.lengths |= length(name);
        if !self.names.contains(name) {
            self.names.push(name.clone());
        }
    }

    /// Takes other spellings of the names out of a request's fields.
    pub fn remove_aliases(&self, fields: &mut HeaderMap) {
        remove_where(fields, |name| self.resembles(name) && !self.names.contains(name));
    }

    /// Takes all spellings of the names out of a request's trailers.
    pub fn keep_out(&self, trailers: &mut HeaderMap) {
        remove_where(trailers, |name| self.resembles(name));
    }

    fn resembles(&self, name: &HeaderName) -> bool {
        self.lengths & length(name) != 0 && self.names.iter().any(|ours| is_same_field(name, ours))
    }
}

fn length(name: &HeaderName) -> u64 {
    1 << (name.as_str().len() % 64)
}

/// What a rule mentions of a request's fields.
fn names(rule: &Rule) -> impl Iterator<Item = &HeaderName> {
    let judged = rule
        .routing
        .conditions
        .iter()
        .filter_map(|condition| match &condition.part {
            Part::Header(name) => Some(name),
            Part::Query(_) => None,
        });
    let asked = rule
        .access
        .when
        .iter()
        .flat_map(enforcer_model::condition::Condition::headers);
    let counted = rule.limits.iter().flat_map(|limit| &limit.per);
    let counted = counted.filter_map(|key| match key {
        RequestKey::Header(name) => Some(name),
        _ => None,
    });
    let key = match &rule.require {
        Requirement::Proof { api_key, .. } => api_key.as_ref().map(|wanted| &wanted.header),
        Requirement::Nobody | Requirement::Anybody => None,
    };
    let changes = &rule.routing.request_fields;
    let set = changes.set.iter().chain(&changes.add).map(|(name, _)| name);
    let forward = &rule.access.forward;
    let claims = forward.claims.iter().map(|(name, _)| name);
    judged
        .chain(asked)
        .chain(counted)
        .chain(key)
        .chain(&changes.remove)
        .chain(set)
        .chain(claims)
        .chain((!forward.token).then_some(&AUTHORIZATION))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(names: &[&str]) -> HeaderMap {
        let name = |name: &&str| HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = || HeaderValue::from_static("a");
        names.iter().map(|each| (name(each), value())).collect()
    }

    fn left(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn l3_other_spellings_go_and_the_mentioned_one_stays() {
        let mut mentioned = Mentioned::default();
        for name in ["x-tenant", "x_user", "x-user-id", "x_user_id"] {
            mentioned.add(&HeaderName::from_static(name));
        }
        let names = [
            "x-tenant",
            "x_tenant",
            "x.tenant",
            "x-tenants",
            "x-user",
            "x_user",
            "x-user-id",
            "x_user_id",
            "x-user_id",
            "accept",
        ];
        let mut fields = map(&names);
        mentioned.remove_aliases(&mut fields);
        assert_eq!(
            left(&fields),
            [
                "accept",
                "x-tenant",
                "x-tenants",
                "x-user-id",
                "x_user",
                "x_user_id"
            ]
        );
        let mut trailers = map(&names);
        mentioned.keep_out(&mut trailers);
        assert_eq!(left(&trailers), ["accept", "x-tenants"]);
    }
}
