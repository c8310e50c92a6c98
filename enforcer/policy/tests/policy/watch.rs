//! Changes of policy files are seen, however they are made.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use enforcer_policy::{Watch, WatchError, watch::Outcome};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Long enough for any machine; a test that passes never waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: ['http://[::1]:80']}}\n"
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

struct Watched {
    watch: Watch,
    outcomes: mpsc::Receiver<Outcome>,
    runtime: tokio::runtime::Runtime,
}

impl Watched {
    /// Watches what is there now, as known.
    fn start(path: &Path) -> Self {
        let paths = vec![path.to_owned()];
        let known = enforcer_policy::load(&paths).ok().map(|loaded| loaded.digest);
        let (sender, outcomes) = mpsc::channel(8);
        Self {
            watch: enforcer_policy::watch(paths, known, sender).unwrap(),
            outcomes,
            runtime: runtime(),
        }
    }

    fn next(&mut self) -> Outcome {
        let outcomes = &mut self.outcomes;
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, outcomes.recv()).await })
            .expect("no outcome within the deadline")
            .expect("the watch has ended")
    }

    /// The only service's name in the next outcome, which is good.
    fn next_service(&mut self) -> String {
        let loaded = self.next().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.set.services.len(), 1);
        loaded.set.services[0].name.to_string()
    }
}

#[test]
fn an_editor_that_renames_over_the_file() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, service("before")).unwrap();
    let mut watched = Watched::start(&file);
    let rename_over = |content: &str| {
        let draft = directory.path().join(".policy.yaml.swp");
        fs::write(&draft, service(content)).unwrap();
        fs::rename(&draft, &file).unwrap();
    };
    rename_over("after");
    assert_eq!(watched.next_service(), "after");
    // The name stands for another inode now, and is still watched.
    rename_over("later");
    assert_eq!(watched.next_service(), "later");
}

#[test]
fn kubernetes_swaps_the_data_link() {
    let volume = TempDir::new().unwrap();
    let path = volume.path();
    let version = |name: &str, content: &str| {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join("policy.yaml"), service(content)).unwrap();
    };
    version("..2026_01", "first");
    symlink("..2026_01", path.join("..data")).unwrap();
    symlink("..data/policy.yaml", path.join("policy.yaml")).unwrap();
    let mut watched = Watched::start(path);
    for (name, content, old) in [
        ("..2026_02", "second", "..2026_01"),
        ("..2026_03", "third", "..2026_02"),
    ] {
        version(name, content);
        symlink(name, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        fs::remove_dir_all(path.join(old)).unwrap();
        assert_eq!(watched.next_service(), content);
    }
}

#[test]
fn a_broken_file_is_an_outcome_and_so_is_its_repair() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    let draft = directory.path().join("draft");
    let replace = |text: &str| {
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, &file).unwrap();
    };
    replace(&service("good"));
    let mut watched = Watched::start(directory.path());
    replace(&service("No_Name"));
    let problems = watched.next().unwrap_err();
    assert_eq!(problems.as_slice()[0].path, "metadata.name");
    replace(&service("good"));
    assert_eq!(watched.next_service(), "good");
}

#[test]
fn the_same_contents_are_no_outcome() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join("draft"), text).unwrap();
        fs::rename(directory.path().join("draft"), directory.path().join(name)).unwrap();
    };
    write("policy.yaml", &service("one"));
    let mut watched = Watched::start(directory.path());
    write("policy.yaml", &service("one"));
    write("notes.txt", "unrelated");
    write("more.yaml", "# still nothing\n");
    // Had one of the first two been an outcome, it would come first, with one file.
    assert_eq!(watched.next().unwrap().files.len(), 2);
    write("policy.yaml", &service("two"));
    assert_eq!(watched.next_service(), "two");
}

#[test]
fn a_directory_that_goes_and_comes_back() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("policies");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), service("before")).unwrap();
    let mut watched = Watched::start(&directory);
    fs::remove_dir_all(&directory).unwrap();
    // The removal may be seen half done, as an empty directory.
    while let Ok(loaded) = watched.next() {
        assert!(loaded.set.services.is_empty());
    }
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), service("after")).unwrap();
    loop {
        if let Ok(loaded) = watched.next()
            && let Some(service) = loaded.set.services.first()
        {
            assert_eq!(service.name.as_str(), "after");
            break;
        }
    }
}

/// As seen from the working directory.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let up = here.components().skip(1).map(|_| "..").collect::<PathBuf>();
    up.join(path.strip_prefix("/").unwrap())
}

#[test]
fn a_relative_directory_that_is_moved_away_and_back() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("policies");
    let away = parent.path().join("away");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("a.yaml");
    fs::write(&file, service("before")).unwrap();
    let mut watched = Watched::start(&relative(&directory));
    fs::rename(&directory, &away).unwrap();
    assert!(watched.next().is_err(), "it does not exist");
    fs::rename(&away, &directory).unwrap();
    assert_eq!(watched.next_service(), "before");
    fs::write(&file, service("after")).unwrap();
    assert_eq!(watched.next_service(), "after");
}

#[test]
fn what_changed_before_the_watch_began_is_sent() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, service("new")).unwrap();
    let (sender, mut outcomes) = mpsc::channel(1);
    let _watch = enforcer_policy::watch(vec![file], Some("of older contents".into()), sender).unwrap();
    let outcome = runtime().block_on(async { tokio::time::timeout(DEADLINE, outcomes.recv()).await });
    let loaded = outcome.unwrap().unwrap().unwrap();
    assert_eq!(loaded.set.services[0].name.as_str(), "new");
}

#[test]
fn a_missing_directory_is_said() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("policies");
    let (sender, _outcomes) = mpsc::channel(1);
    let error = enforcer_policy::watch(vec![missing.clone()], None, sender).unwrap_err();
    assert!(matches!(&error, WatchError::Missing(path) if *path == missing));
    assert!(error.to_string().contains("does not exist: create it"));
}

#[test]
fn dropping_ends_the_thread_even_while_nobody_takes_outcomes() {
    let directory = TempDir::new().unwrap();
    let paths = vec![directory.path().to_owned()];
    fs::write(directory.path().join("a.yaml"), service("one")).unwrap();
    let (sender, mut outcomes) = mpsc::channel(1);
    sender.try_send(enforcer_policy::load(&paths)).unwrap();
    drop(enforcer_policy::watch(paths, None, sender).unwrap());
    assert!(outcomes.try_recv().is_ok());
    assert!(matches!(
        outcomes.try_recv(),
        Err(mpsc::error::TryRecvError::Disconnected)
    ));
}

/// What becomes readable again without a change that the kernel tells of, as when no descriptor was free.
#[test]
fn f4_what_could_not_be_read_is_read_again() {
    let directory = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let there = elsewhere.path().join("not/yet");
    symlink(there.join("b.yaml"), directory.path().join("b.yaml")).unwrap();
    let mut watched = Watched::start(directory.path());
    let problems = watched.next().unwrap_err().to_string();
    assert!(problems.contains("does not exist"), "{problems}");
    fs::create_dir_all(&there).unwrap();
    fs::write(there.join("b.yaml"), service("late")).unwrap();
    assert_eq!(watched.next_service(), "late");
}

#[test]
fn f9_a_folder_that_is_named_like_a_policy_is_refused() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.yaml"), service("one")).unwrap();
    fs::create_dir(directory.path().join("packet.yaml")).unwrap();
    let problems = enforcer_policy::load(&[directory.path().to_owned()])
        .unwrap_err()
        .to_string();
    assert!(problems.contains("packet.yaml"), "{problems}");
    assert!(problems.contains("is a folder, not a file"), "{problems}");
}

#[test]
fn who_asks_is_sent_what_is_there() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.yaml"), service("one")).unwrap();
    let mut watched = Watched::start(directory.path());
    watched.watch.read_now();
    assert_eq!(watched.next_service(), "one", "though it is the same");
}
