//! Which files hold policies, and their bounded reading.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    problem::Problem,
    yaml::place::{Sink, Source},
};

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// The most files that one load reads.
pub const MAX_FILES: usize = 10_000;

/// Files with their text, in the order of loading, and what stands for all of them.
pub struct Files {
    pub sources: Vec<Source>,
    /// SHA-256 over the names and contents (for those that cannot be read: why), in hexadecimal.
    pub digest: String,
    /// Some could not be read, which may pass without a change of files: no descriptor was left, or the disk failed.
    pub unreadable: bool,
}

/// Reads the files that `paths` name. Those that cannot be read are reported and left out.
pub fn read(paths: &[PathBuf], sink: &Sink) -> Files {
    let mut context = Context::new(&SHA256);
    let mut sources = Vec::new();
    let mut unreadable = false;
    for outcome in expand(paths) {
        match outcome.and_then(|file| read_one(&file)) {
            Ok(source) => {
                update(&mut context, source.file.to_string_lossy().as_bytes());
                update(&mut context, source.text.as_bytes());
                sources.push(source);
            }
            Err(problem) => {
                unreadable = true;
                update(&mut context, problem.to_string().as_bytes());
                sink.push(*problem);
            }
        }
    }
    let digest = context.finish();
    Files {
        sources,
        digest: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        unreadable,
    }
}

/// Adds a part with its length, so that no two lists of parts have the same digest.
fn update(context: &mut Context, part: &[u8]) {
    context.update(&part.len().to_be_bytes());
    context.update(part);
}

/// The files that `paths` name: a directory stands for the `*.yaml` and `*.yml` directly in it, in
/// order of name.
pub fn expand(paths: &[PathBuf]) -> Vec<Result<PathBuf, Box<Problem>>> {
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match list(path) {
                Ok(listed) => files.extend(listed.into_iter().map(Ok)),
                Err(error) => files.push(Err(unreadable(path, &error))),
            },
            Ok(_) => files.push(Ok(path.clone())),
            Err(error) => files.push(Err(unreadable(path, &error))),
        }
    }
    if files.len() > MAX_FILES {
        let message = format!(
            "there are {} files, and at most {MAX_FILES} are read",
            files.len()
        );
        let hint = Some("put several documents into one file, parted by ---".to_owned());
        let first = paths.first().cloned().unwrap_or_default();
        files = vec![Err(Problem::of_file(first, message, hint).into())];
    }
    files
}

/// Kubernetes keeps a volume's files in `..2024_…` and `..data`, and links to them by their names:
/// hidden names are left out, links are followed.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A dangling link is kept, so that its absence is reported, and so is a folder: a container runtime makes one where
        // the file that it is to mount does not exist.
        if !hidden && yaml {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file of at most [`MAX_FILE`] bytes.
pub fn read_one(file: &Path) -> Result<Source, Box<Problem>> {
    // Opening a FIFO or a device could wait for ever.
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) if metadata.is_dir() => {
            let hint = "remove it or give it another name; a container runtime makes such a folder where the file that it is \
                        to mount does not exist";
            return Err(
                Problem::of_file(file, "is a folder, not a file".to_owned(), Some(hint.to_owned())).into(),
            );
        }
        Ok(_) => {
            return Err(Problem::of_file(file, "is not a regular file".to_owned(), None).into());
        }
        Err(error) => return Err(unreadable(file, &error)),
    }
    let open = File::open(file).map_err(|error| unreadable(file, &error))?;
    read_from(file, open)
}

/// Reads at most [`MAX_FILE`] bytes of what problems call `file`.
pub fn read_from(file: &Path, from: impl Read) -> Result<Source, Box<Problem>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(file, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        let message = format!("is larger than {} KiB", MAX_FILE >> 10);
        return Err(Problem::of_file(file, message, Some("split it into several files".to_owned())).into());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(file.to_owned(), text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(Problem::of_file(file, format!("is not UTF-8 text (byte {at})"), None).into())
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Box<Problem> {
    let (message, hint) = match error.kind() {
        io::ErrorKind::NotFound => (
            "does not exist".to_owned(),
            "create it, or leave its path out of the configuration".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (
            "cannot be read: permission denied".to_owned(),
            "let the user that the agent runs as read it (chown, chmod): the agent drops its right to read the files of others".to_owned(),
        ),
        _ => (
            format!("cannot be read: {error}"),
            "mend that, or name another file".to_owned(),
        ),
    };
    Problem::of_file(path, message, Some(hint)).into()
}
