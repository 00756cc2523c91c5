//! Where copies of watched lists are kept between two lives of a process: a value that loads and saves bytes by name,
//! so that a simulation or a test can own the disk. What is in the bytes is decided in `watch/stored.rs`.

use crate::connect::BoxFuture;
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Longest copy in bytes, read or written: that of the largest state of a watch, and some.
pub(crate) const COPY_BYTES: usize = 512 << 20;
/// A temporary file as old as this was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(60);

/// A stored copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCopy {
    /// Its content, as it was saved.
    pub bytes: Vec<u8>,
    /// How long ago it was saved; `None` = not known.
    pub age: Option<Duration>,
}

type Load = dyn Fn(String) -> BoxFuture<io::Result<Option<StoredCopy>>> + Send + Sync;
type Save = dyn Fn(String, Vec<u8>) -> BoxFuture<io::Result<()>> + Send + Sync;

/// Loads and saves copies. Cheap to clone. Names are 1-120 of `[a-z0-9._-]`.
#[derive(Clone)]
pub struct Copies {
    load: Arc<Load>,
    save: Arc<Save>,
}

impl Copies {
    /// Copies that these two functions keep: `load` gives `None` where there is none, `save` replaces all of it or
    /// nothing. The client adds the deadlines.
    pub fn new(
        load: impl Fn(String) -> BoxFuture<io::Result<Option<StoredCopy>>> + Send + Sync + 'static,
        save: impl Fn(String, Vec<u8>) -> BoxFuture<io::Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self { load: Arc::new(load), save: Arc::new(save) }
    }

    /// Files in a directory, which is made where it is missing: written under a temporary name, made durable and
    /// renamed. Processes may share it.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        let path: Arc<Path> = path.into().into();
        let from = Arc::clone(&path);
        let load = move |name: String| blocking(&from, move |directory| read(directory, &name));
        let save = move |name: String, bytes: Vec<u8>| {
            blocking(&path, move |directory| write(directory, &name, &bytes))
        };
        Self::new(load, save)
    }

    pub(crate) fn load(&self, name: &str) -> BoxFuture<io::Result<Option<StoredCopy>>> {
        (self.load)(name.to_owned())
    }

    pub(crate) fn save(&self, name: &str, bytes: Vec<u8>) -> BoxFuture<io::Result<()>> {
        (self.save)(name.to_owned(), bytes)
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Copies")
    }
}

fn blocking<T: Send + 'static>(
    directory: &Arc<Path>,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> BoxFuture<io::Result<T>> {
    let directory = Arc::clone(directory);
    Box::pin(async move {
        let work = tokio::task::spawn_blocking(move || work(&directory));
        work.await.map_err(io::Error::other)?
    })
}

fn read(directory: &Path, name: &str) -> io::Result<Option<StoredCopy>> {
    let file = match File::open(directory.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A clock that was set back gives no age.
    let age = file.metadata()?.modified().ok().and_then(|at| at.elapsed().ok());
    let mut bytes = Vec::new();
    file.take(COPY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > COPY_BYTES {
        return Err(io::Error::other(format!("longer than {COPY_BYTES} bytes")));
    }
    Ok(Some(StoredCopy { bytes, age }))
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| fs::rename(&temporary, directory.join(name)));
    if renamed.is_err() {
        // What cannot be removed either is taken for abandoned later.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    File::open(directory)?.sync_all()
}

/// The temporary file. Where another process is writing it, this time is left out.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let age = fs::metadata(path).and_then(|file| file.modified()).ok();
            let age = age.and_then(|at| at.elapsed().ok());
            if age.is_none_or(|age| age < ABANDONED) {
                return Err(error);
            }
            fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_keeps_the_last_copy_whole_and_leaves_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("made/when/needed");
        let copies = Copies::directory(&path);
        assert_eq!(copies.load("web.copy").await.unwrap(), None);
        for bytes in [vec![1; 100_000], vec![2; 10]] {
            copies.save("web.copy", bytes.clone()).await.unwrap();
            let loaded = copies.load("web.copy").await.unwrap().unwrap();
            assert_eq!(loaded.bytes, bytes);
            assert!(loaded.age.unwrap() < Duration::from_secs(60));
        }
        let names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["web.copy"]);
    }

    #[tokio::test]
    async fn a_temporary_file_of_another_writer_is_left_alone_and_an_old_one_removed() {
        let directory = tempfile::tempdir().unwrap();
        let copies = Copies::directory(directory.path());
        let temporary = directory.path().join("web.copy.tmp");
        let file = File::create(&temporary).unwrap();
        let error = copies.save("web.copy", vec![1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        copies.save("web.copy", vec![1]).await.unwrap();
        assert!(!temporary.exists());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_used_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let copies = Copies::directory(file.path());
        assert!(copies.save("web.copy", vec![1]).await.is_err());
        assert!(copies.load("web.copy").await.is_err());
    }
}
