//! Whether the listeners and authorities that routes name are those of the agent's configuration.

use std::collections::BTreeSet;

use crate::config::{Config, Listener};
use enforcer_model::{Name, PolicySet, Requirement, Route};
use enforcer_policy::{
    problem::Problem,
    yaml::mistake::{alternatives, nearest},
};

/// What the routes of `set` name and no listener of the agent's configuration has, or is.
#[must_use]
pub fn unknown_names(set: &PolicySet, config: &Config) -> Vec<Problem> {
    unknown_to_all(set, std::slice::from_ref(config))
}

/// What the routes of `set` name and no listener of `configurations` has, or is. Nothing, where there are no listeners:
/// the configuration may be elsewhere.
pub fn unknown_to_all(set: &PolicySet, configurations: &[Config]) -> Vec<Problem> {
    let listeners = || configurations.iter().flat_map(|config| &config.gateway.listeners);
    let names: BTreeSet<&str> = listeners().map(|listener| listener.name.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let ids = listeners().flat_map(Listener::authorities);
    let ids = ids.filter_map(|authority| authority.id.as_ref()?.name());
    let authorities: BTreeSet<&str> = ids.map(Name::as_str).collect();
    let mut problems = Vec::new();
    for route in &set.routes {
        let at_listeners = unknown(route, &route.listeners, "listener", &names);
        let mtls = route.rules.iter().filter_map(|rule| match &rule.require {
            Requirement::Proof { mtls, .. } => mtls.as_ref(),
            _ => None,
        });
        let by_authorities =
            mtls.flat_map(|mtls| unknown(route, &mtls.authorities, "authority in `clientCa`", &authorities));
        problems.extend(at_listeners.into_iter().chain(by_authorities));
    }
    problems.dedup();
    problems
}

fn unknown(route: &Route, named: &[Name], what: &str, known: &BTreeSet<&str>) -> Vec<Problem> {
    let unknown = named.iter().filter(|name| !known.contains(name.as_str()));
    let problem = |name: &Name| {
        let hint = match nearest(name.as_str(), known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => {
                "there is none with a name: give it one in the agent's configuration".to_owned()
            }
            None => format!("the configuration has {}", alternatives(known.iter().copied())),
        };
        let message = format!(
            "the route `{}` names the {what} `{name}`, and there is none",
            route.name
        );
        Problem {
            line: route.origin.line,
            column: 1,
            ..Problem::of_file(route.origin.file.clone(), message, Some(hint))
        }
    };
    unknown.map(problem).collect()
}
