//! From files to a [`PolicySet`].

use std::path::PathBuf;

use super::{
    files::{self, Files},
    problem::{Problem, Problems},
    raw::{Header, Kind},
    secrets,
    yaml::{
        decode::decode,
        mistake::nearest,
        place::{Place, Sink, Source},
        tree::{self, Node},
    },
};
use crate::judge;
use enforcer_model::PolicySet;

/// The version of the documents that this agent reads.
const API_VERSION: &str = "enforcer.dev/v1";

/// A set that can come into force.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub set: PolicySet,
    /// SHA-256 of the files' names and contents, in hexadecimal.
    pub digest: String,
    /// The files, in the order of loading.
    pub files: Vec<PathBuf>,
    /// What does not hinder, and is probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads files, and the `*.yaml` and `*.yml` directly in directories, as one set.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Problems> {
    let sink = Sink::default();
    let files = files::read(paths, &sink);
    load_files(files, sink)
}

/// Builds the set of files that have been read.
pub fn load_files(files: Files, sink: Sink) -> Result<Loaded, Problems> {
    let set = build_set(&files.sources, &sink);
    secrets::concerns(&set)
        .into_iter()
        .for_each(|problem| sink.push(problem));
    let problems = sink.into_sorted();
    match Problems::of(&problems) {
        Some(problems) => Err(problems),
        None => Ok(Loaded {
            set,
            digest: files.digest,
            files: files.sources.into_iter().map(|source| source.file).collect(),
            warnings: problems,
        }),
    }
}

/// A document whose kind and name are known.
pub struct Document<'a> {
    pub kind: Kind,
    /// As written; [`judge`] judges it.
    pub name: Option<String>,
    /// The top of the document.
    pub top: Place<'a>,
}

fn build_set(sources: &[Source], sink: &Sink) -> PolicySet {
    let trees: Vec<Tree> = sources.iter().map(|source| parse(source, sink)).collect();
    let tops: Vec<Place<'_>> = sources
        .iter()
        .zip(&trees)
        .flat_map(|(source, tree)| tree.documents.iter().map(|node| Place::root(node, source, sink)))
        .collect();
    let count = tops.len();
    let documents: Vec<Document<'_>> = tops.into_iter().filter_map(read_header).collect();
    let complete = documents.len() == count && trees.iter().all(|tree| tree.complete);
    judge::set(documents, complete)
}

/// Whether the document has what only an agent's configuration has, and nothing that policies begin with.
fn is_configuration(document: &Node) -> bool {
    let has = |key: &&str| document.entry(key).is_some();
    !["apiVersion", "kind", "metadata", "spec"].iter().any(has)
        && ["policies", "admin", "runtimeDir", "stateDir", "kernel", "gateway"]
            .iter()
            .any(has)
}

/// What could be read of a file.
pub struct Tree {
    pub documents: Vec<Node>,
    /// Whether that is all: else what is no YAML has been reported.
    complete: bool,
}

/// The documents of a file.
pub fn parse(source: &Source, sink: &Sink) -> Tree {
    let (documents, error) = tree::parse(&source.text);
    let complete = error.is_none();
    if let Some(error) = error {
        let message = format!("this is no YAML: {}", error.message);
        sink.push(Problem {
            line: error.position.line,
            column: error.position.column,
            source: source.line(error.position),
            ..Problem::of_file(source.file.clone(), message, None)
        });
    }
    Tree { documents, complete }
}

/// The document, unless its kind is unknown: then nothing can be said about the rest.
fn read_header(top: Place<'_>) -> Option<Document<'_>> {
    if is_configuration(top.node()) {
        top.error_with(
            "this is an agent's configuration, not a policy",
            "leave its file out of `policies`, or keep policies in a folder of their own",
        );
        return None;
    }
    let header: Header = decode(&top)?;
    top.required("apiVersion", header.api_version, |version, at| {
        if version == API_VERSION {
            return Some(());
        }
        let hint = match nearest(&version, [API_VERSION]) {
            Some(_) => format!("did you mean `{API_VERSION}`?"),
            None => format!("write `apiVersion: {API_VERSION}`"),
        };
        at.error_with(format!("`{version}` is no version that this agent reads"), hint);
        None
    });
    let kind = top.required("kind", header.kind, |kind, _| Some(kind));
    let name = top.required("metadata", header.metadata, |metadata, at| {
        at.required("name", metadata.name, |name, _| Some(name))
    });
    Some(Document {
        kind: kind?,
        name,
        top,
    })
}
