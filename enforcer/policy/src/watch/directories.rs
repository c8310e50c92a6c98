//! Which directories to watch, and which of their events matter.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};

use super::WatchError;
use crate::files;

/// What can change the meaning of some paths.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interest {
    /// Directories in which everything matters: links such as `..data` beside the files do too.
    whole: BTreeSet<PathBuf>,
    /// Entries that matter by themselves: a directory that is named, in the one around it.
    entries: BTreeSet<PathBuf>,
}

/// The directories that are watched.
pub(super) struct Directories {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    interest: Arc<ArcSwap<Interest>>,
}

impl Directories {
    /// Watches nothing yet. `wake` is called at each event that matters, from the watcher's thread.
    pub(super) fn new(wake: impl Fn() + Send + 'static) -> notify::Result<Self> {
        let interest = Arc::new(ArcSwap::from_pointee(Interest::default()));
        let seen = Arc::clone(&interest);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Errors too (an overflow of the queue, say) mean that something may have changed.
            if event.map_or(true, |event| seen.load().is_touched_by(&event)) {
                wake();
            }
        })?;
        Ok(Self {
            watcher,
            watched: BTreeSet::new(),
            interest,
        })
    }

    /// Watches where `paths` are now, and no longer where they were.
    pub(super) fn follow(&mut self, paths: &[PathBuf]) -> Result<(), WatchError> {
        let interest = Interest::of(paths);
        let wanted = interest.directories();
        self.interest.store(Arc::new(interest));
        for gone in self.watched.difference(&wanted) {
            // It fails for directories that no longer exist, whose watch has ended by itself.
            let _ = self.watcher.unwatch(gone);
        }
        // A directory that was removed and made again has the same name and no watch: so all of
        // them are watched anew.
        let mut refused = None;
        for directory in &wanted {
            if let Err(source) = self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                let path = directory.clone();
                refused.get_or_insert(WatchError::Refused { path, source });
            }
        }
        self.watched = wanted;
        refused.map_or(Ok(()), Err)
    }
}

impl Interest {
    /// What the named paths depend on, and the same for what links lead to.
    fn of(paths: &[PathBuf]) -> Self {
        let files = files::expand(paths).into_iter().filter_map(Result::ok);
        let mut interest = Self::default();
        for path in paths.iter().cloned().chain(files).map(rooted) {
            let target = path.canonicalize().ok();
            for path in [Some(path), target].into_iter().flatten() {
                let around = around(&path);
                if path.is_file() {
                    interest.whole.insert(around);
                } else {
                    interest
                        .entries
                        .extend(path.file_name().map(|name| around.join(name)));
                    interest.whole.insert(path);
                }
            }
        }
        interest
    }

    /// The directories that exist and have to be watched.
    fn directories(&self) -> BTreeSet<PathBuf> {
        self.whole
            .iter()
            .cloned()
            .chain(self.entries.iter().map(|entry| around(entry)))
            .filter(|directory| directory.is_dir())
            .collect()
    }

    fn is_touched_by(&self, event: &Event) -> bool {
        is_change(event.kind)
            && (event.need_rescan()
                || event.paths.is_empty()
                || event.paths.iter().any(|path| {
                    self.entries.contains(path)
                        || self.whole.contains(path)
                        || self.whole.contains(&around(path))
                }))
    }
}

/// Reading files makes events too, which must not lead to reading again.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The path from the root, in a directory that has one name: inotify knows each directory once, so that two
/// names for one, such as `..` makes, would end each other's watches.
fn rooted(path: PathBuf) -> PathBuf {
    let path = std::path::absolute(&path).unwrap_or(path);
    let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path,
    }
}

/// The directory that holds the path's last part.
fn around(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag, ModifyKind};

    use super::*;

    fn touched(interest: &Interest, kind: EventKind, path: &Path) -> bool {
        interest.is_touched_by(&Event::new(kind).add_path(path.to_owned()))
    }

    #[test]
    fn neighbours_of_a_named_directory_do_not_matter() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().canonicalize().unwrap();
        let directory = parent.join("policies");
        std::fs::create_dir(&directory).unwrap();
        let interest = Interest::of(std::slice::from_ref(&directory));
        assert_eq!(
            interest.directories(),
            BTreeSet::from([parent.clone(), directory.clone()])
        );
        let create = EventKind::Create(CreateKind::Any);
        assert!(touched(&interest, create, &directory));
        assert!(touched(&interest, create, &directory.join("..data")));
        assert!(!touched(&interest, create, &parent.join("other")));
        assert!(!touched(&interest, create, &parent.join("other/a.yaml")));
    }

    #[test]
    fn reading_does_not_matter_and_lost_events_do() {
        let interest = Interest {
            whole: BTreeSet::from([PathBuf::from("/p")]),
            ..Interest::default()
        };
        let file = Path::new("/p/a.yaml");
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(!touched(&interest, read, file));
        assert!(touched(&interest, written, file));
        assert!(touched(&interest, EventKind::Modify(ModifyKind::Any), file));
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(interest.is_touched_by(&lost));
    }

    #[test]
    fn relative_paths_begin_at_the_root() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(rooted(PathBuf::from("policies")), here.join("policies"));
        assert_eq!(rooted(PathBuf::from("src/../policies")), here.join("policies"));
        assert_eq!(rooted(PathBuf::from("/")), PathBuf::from("/"));
    }

    #[test]
    fn a_relative_path_is_in_the_working_directory() {
        assert_eq!(around(Path::new("policies")), PathBuf::from("."));
        assert_eq!(around(Path::new("/")), PathBuf::from("/"));
    }
}
