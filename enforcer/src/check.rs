//! Checking files for people: configuration and policies alike, all problems at once.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Serialize;

use crate::config::served::unknown_to_all;
use crate::config::{self, Config};
use enforcer_model::{DenyEntry, Name, PolicySet};
use enforcer_policy::{
    files::{self, Files},
    load::{self, load_files},
    problem::{Problem, Severity},
    yaml::place::{Sink, Source},
};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Everything that is wrong, in order of file and line.
    pub problems: Vec<Problem>,
    /// How many files were read.
    pub files: usize,
}

/// What stands for standard input among paths.
const STDIN: &str = "-";

/// Checks files, and the `*.yaml` and `*.yml` directly in directories. A file whose top level looks like
/// a policy's (`apiVersion`, `kind`) is one, and all of them are checked as one set, together with
/// those that configuration files among them name; any other file is the agent's configuration.
#[must_use]
pub fn check(paths: &[PathBuf]) -> Report {
    check_with(paths, io::empty(), None)
}

/// As [`check`]; `-` among the paths stands for what is read from `input`. `present`: the interfaces of the node that the
/// files are for, if this is it; those that policies name and that are not there are warned of.
#[must_use]
pub fn check_with(paths: &[PathBuf], input: impl Read, present: Option<&[String]>) -> Report {
    let sink = Sink::default();
    let mut policies = Vec::new();
    let mut configurations = Vec::new();
    let mut piped = None;
    let (dashes, paths): (Vec<_>, Vec<_>) = paths.iter().cloned().partition(|path| path == Path::new(STDIN));
    let paths = &paths[..];
    if !dashes.is_empty() {
        match files::read_from(Path::new("<stdin>"), input) {
            Ok(source) if is_configuration(&source) => configurations.push(source),
            Ok(source) => piped = Some(source),
            Err(problem) => sink.push(*problem),
        }
    }
    for outcome in files::expand(paths) {
        match outcome.and_then(|file| files::read_one(&file)) {
            Ok(source) if is_configuration(&source) => configurations.push(source),
            Ok(source) => policies.push(source.file),
            Err(problem) => sink.push(*problem),
        }
    }
    let mut count = configurations.len();
    let mut problems = sink.into_sorted();
    problems.extend(paths.iter().filter_map(|path| without_documents(path)));
    let mut configured = Vec::new();
    for source in configurations {
        let (config, found) = config::read(&source);
        problems.extend(found);
        let named = config.iter().flat_map(|config| &config.policies);
        problems.extend(named.clone().filter_map(|path| without_documents(path)));
        policies.extend(named.cloned());
        configured.extend(config);
    }
    let sink = Sink::default();
    let mut files = files::read(&once(&policies), &sink);
    if let Some(source) = &piped
        && load::parse(source, &Sink::default()).documents.is_empty()
    {
        let message = "no document came by standard input".to_owned();
        problems.push(Problem {
            severity: Severity::Warning,
            ..Problem::of_file(&source.file, message, None)
        });
    }
    files.sources.extend(piped);
    count += files.sources.len();
    problems.extend(problems_of(files, sink, &configured, present));
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    problems.dedup();
    for problem in &mut problems {
        if problem.severity == Severity::Outdated {
            problem.severity = Severity::Error;
        }
    }
    Report {
        problems,
        files: count,
    }
}

/// A warning about a folder in which nothing is a document.
fn without_documents(path: &Path) -> Option<Problem> {
    let holds_one = |file: PathBuf| {
        // What cannot be read is reported as that.
        files::read_one(&file).map_or(true, |source| {
            !source.text.trim().is_empty() && !load::parse(&source, &Sink::default()).documents.is_empty()
        })
    };
    let files = files::expand(&[path.to_owned()]);
    if !path.is_dir() || files.into_iter().any(|outcome| outcome.map_or(true, holds_one)) {
        return None;
    }
    let message = "no document found: files must end in .yaml or .yml".to_owned();
    Some(Problem {
        severity: Severity::Warning,
        ..Problem::of_file(path, message, None)
    })
}

fn problems_of(
    files: Files,
    sink: Sink,
    configurations: &[Config],
    present: Option<&[String]>,
) -> Vec<Problem> {
    match load_files(files, sink) {
        Ok(loaded) => {
            let unknown = unknown_to_all(&loaded.set, configurations);
            let outside = configurations
                .iter()
                .flat_map(|config| config.secrets.problems(&loaded.set, Severity::Error));
            let management: Vec<IpNet> = configurations
                .iter()
                .flat_map(|config| config.kernel.management.iter().copied())
                .collect();
            let passing = still_passing(&loaded.set, &management);
            loaded
                .warnings
                .into_iter()
                .chain(unknown)
                .chain(outside)
                .chain(passing)
                .chain(long_tries(&loaded.set))
                .chain(present.map_or_else(Vec::new, |present| absent(&loaded.set, present)))
                .collect()
        }
        Err(problems) => problems.into_vec(),
    }
}

/// Warnings of interfaces that policies name and that are not there.
fn absent(set: &PolicySet, present: &[String]) -> Vec<Problem> {
    let named = set.packet_policies.iter().flat_map(|policy| {
        let patterns = policy.interfaces.iter();
        patterns.map(move |pattern| (policy, pattern))
    });
    named
        .filter(|(_, pattern)| !present.iter().any(|there| pattern.matches(there)))
        .map(|(policy, pattern)| {
            let message = match pattern.exact() {
                Some(name) => {
                    format!("this node has no interface `{name}`: nothing is filtered on it until it comes")
                }
                None => format!(
                    "no interface of this node is like `{}`: nothing is filtered until one comes",
                    pattern.as_str()
                ),
            };
            let hint = format!("this node has {}", present.join(", "));
            Problem {
                severity: Severity::Warning,
                line: policy.origin.line,
                column: 1,
                path: "spec.interfaces".to_owned(),
                ..Problem::of_file(policy.origin.file.clone(), message, Some(hint))
            }
        })
        .collect()
}

/// Warnings of tries of a service that may take longer than a rule that leads there: the rule's time ends them.
fn long_tries(set: &PolicySet) -> Vec<Problem> {
    let per_try = |name: &Name| set.service(name)?.retries.per_try;
    let mut found = Vec::new();
    for route in &set.routes {
        for (position, rule) in route.rules.iter().enumerate() {
            let services = rule.destination.services().iter().map(|each| &each.service);
            let long = services.filter_map(|name| Some((name, per_try(name)?)));
            for (name, per_try) in long.filter(|(_, per_try)| *per_try > rule.timeout) {
                let message = format!(
                    "a try of the service `{name}` may take {per_try:?} (`retries.perTry`), and the rule ends after {:?}: \
                     no second one is made",
                    rule.timeout
                );
                found.push(Problem {
                    severity: Severity::Warning,
                    line: route.origin.line,
                    column: 1,
                    path: format!("spec.rules[{position}].timeout"),
                    ..Problem::of_file(route.origin.file.clone(), message, None)
                });
            }
        }
    }
    found
}

/// Warnings of denied prefixes with management inside, which passes all the same.
fn still_passing(set: &PolicySet, management: &[IpNet]) -> Vec<Problem> {
    let entries = set.packet_policies.iter().flat_map(|policy| {
        let entries = policy.deny.iter();
        entries.map(move |entry| (policy, entry))
    });
    let inside = |entry: &DenyEntry| {
        let inside = management.iter().filter(|listed| entry.cidr.contains(*listed));
        inside.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let found = entries.map(|(policy, entry)| (policy, entry, inside(entry)));
    found
        .filter(|(_, _, inside)| !inside.is_empty())
        .map(|(policy, entry, inside)| {
            let message = format!(
                "{inside} inside {} still passes: `kernel.management` comes first",
                entry.cidr
            );
            Problem {
                severity: Severity::Warning,
                line: entry.line.into(),
                column: 1,
                path: "spec.deny".to_owned(),
                ..Problem::of_file(policy.origin.file.clone(), message, None)
            }
        })
        .collect()
}

/// The files, each once, however it is named.
fn once(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    files::expand(paths)
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|problem| problem.file))
        .filter(|file| seen.insert(identity(file)))
        .collect()
}

fn identity(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

/// Whether the file is the agent's configuration: YAML without any of what policies begin with.
fn is_configuration(source: &Source) -> bool {
    let documents = load::parse(source, &Sink::default()).documents;
    documents.first().is_some_and(|document| {
        !document.entries().is_empty()
            && ["apiVersion", "kind", "metadata", "spec"]
                .iter()
                .all(|key| document.entry(key).is_none())
    })
}

impl Report {
    /// Whether nothing hinders: warnings do not.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    /// How many problems are that severe.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.severity == severity)
            .count()
    }

    /// Writes the problems and a line that sums them up, in colour if the reader is a terminal.
    ///
    /// # Errors
    /// What writing says.
    pub fn print(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        for problem in &self.problems {
            problem.print(out, color)?;
        }
        let number = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        writeln!(
            out,
            "{}: {}, {}",
            number(self.files, "file"),
            number(self.count(Severity::Error), "error"),
            number(self.count(Severity::Warning), "warning")
        )
    }

    /// Writes the report as one JSON object: `{"problems": [{severity, file, line, column, path, message,
    /// hint, source}], "files": N}`.
    ///
    /// # Errors
    /// What writing says.
    pub fn print_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}
