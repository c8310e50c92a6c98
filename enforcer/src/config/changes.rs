//! What of a changed configuration file can be put in force while the agent runs, and what cannot.

use super::{Config, Gateway, Kernel, Log, PerSource};

/// How a configuration differs from the one in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The level of the log.
    pub log: bool,
    /// What follows from failed authentication.
    pub auth_failures: bool,
    /// Listeners, or the budget of handshakes that they share.
    pub listeners: bool,
    /// How much the gateway takes in, in all and of one source, and which requests it lets go when it is late.
    pub limits: bool,
    /// Which fields of these.
    limit_fields: Vec<&'static str>,
    /// How long requests under way may take when the agent stops.
    pub drain: bool,
    /// The changed fields that are read only when the agent starts.
    pub needs_restart: Vec<&'static str>,
}

impl Config {
    /// Takes over what of `new` can change while the agent runs: see [`Differences`].
    pub fn take_over(&mut self, new: Self) {
        self.log.level = new.log.level;
        self.warnings = new.warnings;
        let Gateway {
            drain,
            max_connections,
            per_source,
            shedding,
            listeners,
            auth_failures,
            workers: _,
            zone: _,
        } = new.gateway;
        let gateway = &mut self.gateway;
        if listeners.is_empty() == gateway.listeners.is_empty() {
            gateway.listeners = listeners;
        }
        gateway.drain = drain;
        gateway.max_connections = max_connections;
        gateway.per_source = per_source;
        gateway.shedding = shedding;
        gateway.auth_failures = auth_failures;
    }
}

impl Differences {
    /// Of `new` from `old`. Each field of the configuration is looked at: the compiler sees to it.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut differences = Self::default();
        let Config {
            policies,
            admin,
            metrics,
            runtime_dir,
            state_dir,
            secrets,
            log,
            kernel,
            gateway,
            adapt,
            audit,
            warnings: _,
        } = new;
        let Log { level, format } = log;
        differences.log = *level != old.log.level;
        differences.note("policies", *policies != old.policies);
        differences.note("admin", *admin != old.admin);
        differences.note("metrics", *metrics != old.metrics);
        differences.note("runtimeDir", *runtime_dir != old.runtime_dir);
        differences.note("secretsDir", *secrets != old.secrets);
        differences.note("stateDir", *state_dir != old.state_dir);
        differences.note("log.format", *format != old.log.format);
        differences.note("adapt", *adapt != old.adapt);
        differences.note("audit", *audit != old.audit);
        differences.kernel(&old.kernel, kernel);
        differences.gateway(&old.gateway, gateway);
        differences
    }

    fn kernel(&mut self, old: &Kernel, new: &Kernel) {
        let Kernel {
            enabled,
            xdp,
            management,
            sketch_memory,
            max_flows,
            pins,
            on_stop,
            dead_man,
            dead_man_keeps_denials,
            dead_man_keeps_cookies,
        } = new;
        self.note("kernel.enabled", *enabled != old.enabled);
        self.note("kernel.xdp", *xdp != old.xdp);
        self.note("kernel.management", *management != old.management);
        self.note("kernel.sketchMemory", *sketch_memory != old.sketch_memory);
        self.note("kernel.maxFlows", *max_flows != old.max_flows);
        self.note("kernel.pins", *pins != old.pins);
        self.note("kernel.onStop", *on_stop != old.on_stop);
        let dead_man = *dead_man != old.dead_man
            || *dead_man_keeps_denials != old.dead_man_keeps_denials
            || *dead_man_keeps_cookies != old.dead_man_keeps_cookies;
        self.note("kernel.deadMan", dead_man);
    }

    fn gateway(&mut self, old: &Gateway, new: &Gateway) {
        let Gateway {
            workers,
            drain,
            max_connections,
            zone,
            per_source,
            shedding,
            listeners,
            auth_failures,
        } = new;
        self.drain = *drain != old.drain;
        self.auth_failures = *auth_failures != old.auth_failures;
        let PerSource {
            connections,
            handshakes,
            attempts,
        } = per_source;
        self.listeners = *listeners != old.listeners || *handshakes != old.per_source.handshakes;
        let limits = [
            ("gateway.maxConnections", *max_connections != old.max_connections),
            (
                "gateway.perSource.connections",
                *connections != old.per_source.connections,
            ),
            ("gateway.shedding", *shedding != old.shedding),
        ];
        self.limit_fields = limits
            .into_iter()
            .filter_map(|(field, differs)| differs.then_some(field))
            .collect();
        // The last is a part of `authFailures`.
        self.limits = !self.limit_fields.is_empty() || *attempts != old.per_source.attempts;
        self.note("gateway.workers", *workers != old.workers);
        self.note("gateway.zone", *zone != old.zone);
        // Without listeners there is no gateway, and none is started or ended later.
        if listeners.is_empty() != old.listeners.is_empty() {
            self.listeners = false;
            self.note("gateway.listeners", true);
        }
    }

    /// The changed fields that are in force without a restart.
    #[must_use]
    pub fn changed(&self) -> Vec<&'static str> {
        [
            ("log.level", self.log),
            ("gateway.listeners", self.listeners),
            ("gateway.authFailures", self.auth_failures),
            ("gateway.drain", self.drain),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .chain(self.limit_fields.iter().copied())
        .collect()
    }

    fn note(&mut self, field: &'static str, differs: bool) {
        if differs {
            self.needs_restart.push(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use enforcer_policy::yaml::place::Source;

    fn read(text: &str) -> Config {
        let text = format!("policies: [/etc/enforcer/policies]\n{text}");
        let source = Source::new("enforcer.yaml".into(), text);
        let (config, problems) = config::read(&source);
        config.unwrap_or_else(|| panic!("{problems:?}"))
    }

    fn between(old: &str, new: &str) -> Differences {
        Differences::between(&read(old), &read(new))
    }

    #[test]
    fn what_can_change_while_the_agent_runs_needs_no_restart() {
        let listener = |idle| {
            format!(
                "gateway: {{listeners: [{{name: a, address: '127.0.0.1:8080', timeouts: {{idle: {idle}}}}}]}}"
            )
        };
        assert_eq!(between("", ""), Differences::default());
        let level = between("", "log: {level: debug}");
        assert!(level.log && level.needs_restart.is_empty());
        let idle = between(&listener("60s"), &listener("30s"));
        assert!(idle.listeners && idle.needs_restart.is_empty());
        let failures = between("", "gateway: {authFailures: {rate: 10/m, denyFor: 5m}}");
        assert!(failures.auth_failures && failures.needs_restart.is_empty());
        assert!(between("", "gateway: {drain: 7s}").drain);
        for limit in [
            "maxConnections: 20",
            "perSource: {connections: 3}",
            "shedding: {low: 1s}",
        ] {
            let limits = between("", &format!("gateway: {{{limit}}}"));
            assert!(limits.limits && limits.needs_restart.is_empty(), "{limit}");
        }
    }

    #[test]
    fn what_is_taken_over_differs_no_more_and_the_rest_still_does() {
        let mut config = read("");
        let new = read(
            "log: {level: debug}\ngateway: {drain: 7s, maxConnections: 20, workers: 3}\nadapt: {interval: 2s}",
        );
        config.take_over(new.clone());
        let left = Differences::between(&config, &new);
        assert_eq!(left.changed(), Vec::<&str>::new());
        assert_eq!(left.needs_restart, ["adapt", "gateway.workers"]);
    }

    #[test]
    fn what_is_read_at_the_start_is_named() {
        for (new, field) in [
            ("stateDir: /tmp/other", "stateDir"),
            ("log: {format: text}", "log.format"),
            ("kernel: {enabled: false}", "kernel.enabled"),
            ("kernel: {deadMan: 10s}", "kernel.deadMan"),
            ("gateway: {workers: 7}", "gateway.workers"),
            ("adapt: {interval: 2s}", "adapt"),
            ("admin: {address: '127.0.0.1:9601'}", "admin"),
        ] {
            assert_eq!(between("", new).needs_restart, [field], "{new}");
        }
    }

    #[test]
    fn a_first_listener_needs_a_restart() {
        let differences = between("", "gateway: {listeners: [{name: a, address: '127.0.0.1:8080'}]}");
        assert!(!differences.listeners);
        assert_eq!(differences.needs_restart, ["gateway.listeners"]);
    }
}
