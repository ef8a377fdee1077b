//! Files below a root. Paths are as the client sees them, from its root on; nothing outside of the root is read or
//! written, whatever links say.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Names of a directory that are looked at.
const NAMES_MAX: usize = 10_000;

/// What a plan is made of.
pub(super) trait Tree {
    /// What a file holds; `None`: it is not there.
    fn file(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError>;
    /// What is in a directory, sorted; nothing if it is not there.
    fn names(&self, path: &str) -> Result<Vec<String>, TreeError>;

    /// The text of a file.
    fn text(&self, path: &str) -> Result<Option<String>, TreeError> {
        let text = |bytes| String::from_utf8(bytes).map_err(|_| TreeError::NotText(path.to_owned()));
        self.file(path)?.map(text).transpose()
    }
}

/// What stands in the way. Every message names its file.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("cannot {action} {path}: {source}{}", advice(source))]
    Io { action: &'static str, path: String, source: io::Error },
    #[error(
        "{path} leads out of {root}, and was left alone: put a directory or file in the place of that link"
    )]
    LeadsOut { path: String, root: String },
    #[error("{0} is longer than any configuration, and was left alone")]
    TooLong(String),
    #[error("{0} is no text, and was left alone: is it the right file?")]
    NotText(String),
    #[error("{0} has changed while darter was at work, and was left alone: say it again")]
    Changed(String),
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root, name another --root, or let it --print",
        io::ErrorKind::StorageFull => "; free some space",
        _ => "",
    }
}

/// Who owns a file, and who may read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Owner {
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
}

/// A directory that stands for `/`.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, TreeError> {
        let root = fs::canonicalize(path).map_err(error("open", &path.display().to_string()))?;
        Ok(Self(root))
    }

    /// A path of the client's, as one of this machine's.
    pub(super) fn shown(&self, path: &str) -> String {
        self.0.join(path.trim_start_matches('/')).display().to_string()
    }

    /// Where a file is, or would be. Links are followed if they stay inside.
    pub(super) fn at(&self, path: &str) -> Result<PathBuf, TreeError> {
        let plain = Path::new(path);
        let inside = plain.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        let leads_out = || TreeError::LeadsOut { path: self.shown(path), root: self.0.display().to_string() };
        if !inside {
            return Err(leads_out());
        }
        let whole = self.0.join(path.trim_start_matches('/'));
        for above in whole.ancestors() {
            match fs::canonicalize(above) {
                Ok(real) if real.starts_with(&self.0) => {
                    let rest = whole.strip_prefix(above).unwrap_or(Path::new(""));
                    return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
                }
                Ok(_) => return Err(leads_out()),
                // A link to nothing would be followed when it is written to.
                Err(_) if fs::symlink_metadata(above).is_ok_and(|found| found.is_symlink()) => {
                    return Err(leads_out());
                }
                Err(missing) if is_missing(&missing) => {}
                Err(other) => return Err(error("open", path)(other)),
            }
        }
        Err(leads_out())
    }

    /// Mode and owner of a file, if it is there.
    pub(super) fn owner(&self, path: &str) -> Result<Option<Owner>, TreeError> {
        match fs::metadata(self.at(path)?) {
            Ok(found) => Ok(Some(Owner {
                mode: found.permissions().mode() & 0o7777,
                user: found.uid(),
                group: found.gid(),
            })),
            Err(missing) if is_missing(&missing) => Ok(None),
            Err(other) => Err(error("look at", path)(other)),
        }
    }

    /// Puts bytes in the place of a file in one step, if it still holds `expected`. With the owner given, or 0644 and
    /// this user's.
    pub(super) fn replace(
        &self,
        path: &str,
        expected: Option<&[u8]>,
        bytes: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), TreeError> {
        let place = self.at(path)?;
        let beside = beside(&place);
        let writing = error("write", path);
        let written = (|| -> io::Result<()> {
            let _ = fs::remove_file(&beside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            let own = file.metadata()?;
            let mode = match owner {
                Some(owner) => {
                    if (own.uid(), own.gid()) != (owner.user, owner.group) {
                        fchown(&file, Some(owner.user), Some(owner.group))?;
                    }
                    owner.mode
                }
                None => 0o644,
            };
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        })();
        let replaced = written.map_err(&writing).and_then(|()| {
            // Somebody else may have written it since it was read.
            if self.file(path)?.as_deref() != expected {
                return Err(TreeError::Changed(self.shown(path)));
            }
            fs::rename(&beside, &place).and_then(|()| sync_directory(&place)).map_err(&writing)
        });
        if replaced.is_err() {
            let _ = fs::remove_file(&beside);
        }
        replaced
    }

    /// Removes what a crash has left of a [`Self::replace`].
    pub(super) fn remove_unfinished(&self, path: &str) -> Result<(), TreeError> {
        match fs::remove_file(beside(&self.at(path)?)) {
            Err(other) if !is_missing(&other) => Err(error("clean up beside", path)(other)),
            _ => Ok(()),
        }
    }

    /// Removes a file.
    pub(super) fn remove(&self, path: &str) -> Result<(), TreeError> {
        let place = self.at(path)?;
        fs::remove_file(&place).and_then(|()| sync_directory(&place)).map_err(error("remove", path))
    }

    /// The directories above a path that are not there, the outermost first.
    pub(super) fn missing_above(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let above = Path::new(path).ancestors().skip(1).take_while(|above| above.parent().is_some());
        let mut missing = Vec::new();
        for directory in above.filter_map(Path::to_str) {
            if self.at(directory)?.is_dir() {
                break;
            }
            missing.push(directory.to_owned());
        }
        missing.reverse();
        Ok(missing)
    }

    pub(super) fn make_directory(&self, path: &str) -> Result<(), TreeError> {
        let place = self.at(path)?;
        match fs::create_dir(&place) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists && place.is_dir() => Ok(()),
            made => made.and_then(|()| sync_directory(&place)).map_err(error("make", path)),
        }
    }

    /// Removes a directory if nothing is in it.
    pub(super) fn remove_directory(&self, path: &str) {
        if let Ok(place) = self.at(path) {
            let _ = fs::remove_dir(place);
        }
    }
}

impl Tree for Root {
    fn file(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        let reading = error("read", path);
        let file = match File::open(self.at(path)?) {
            Ok(file) => file,
            Err(missing) if is_missing(&missing) => return Ok(None),
            Err(other) => return Err(reading(other)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(reading)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(TreeError::TooLong(path.to_owned()));
        }
        Ok(Some(bytes))
    }

    fn names(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let entries = match fs::read_dir(self.at(path)?) {
            Ok(entries) => entries,
            Err(missing) if is_missing(&missing) => return Ok(Vec::new()),
            Err(other) => return Err(error("list", path)(other)),
        };
        let names =
            entries.flatten().take(NAMES_MAX).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// What is below a file is not there either.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn beside(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".darter-new");
    place.with_file_name(name)
}

/// What was renamed, made or removed is so after a crash too.
fn sync_directory(place: &Path) -> io::Result<()> {
    place.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn error(action: &'static str, path: &str) -> impl Fn(io::Error) -> TreeError + use<> {
    let path = path.to_owned();
    move |source| TreeError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Files in memory.
    #[derive(Default)]
    pub(in super::super) struct Files(pub(in super::super) BTreeMap<String, String>);

    impl Files {
        pub(in super::super) fn of(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
        }
    }

    impl Tree for Files {
        fn file(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
            Ok(self.0.get(path).map(|text| text.clone().into_bytes()))
        }

        fn names(&self, path: &str) -> Result<Vec<String>, TreeError> {
            let below = self.0.keys().filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
            let mut names: Vec<_> =
                below.filter_map(|rest| Some(rest.split('/').next()?.to_owned())).collect();
            names.dedup();
            Ok(names)
        }
    }

    #[test]
    fn nothing_outside_is_read_or_written() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("root/etc/real")).unwrap();
        fs::write(at("outside"), "precious").unwrap();
        symlink(at("outside"), at("root/etc/out")).unwrap();
        symlink(home.path(), at("root/etc/up")).unwrap();
        symlink("real", at("root/etc/in")).unwrap();
        symlink("none", at("root/etc/dangling")).unwrap();
        let root = Root::open(&at("root")).unwrap();
        for path in ["/etc/out", "/etc/up/outside", "/../outside", "/etc/../../outside", "/etc/dangling"] {
            assert!(matches!(root.file(path), Err(TreeError::LeadsOut { .. })), "{path}");
            assert!(root.replace(path, None, b"x", None).is_err(), "{path}");
        }
        assert_eq!(fs::read_to_string(at("outside")).unwrap(), "precious");
        root.replace("/etc/in/new", None, b"x", None).unwrap();
        assert_eq!(fs::read_to_string(at("root/etc/real/new")).unwrap(), "x");
        assert_eq!(root.missing_above("/etc/a/b/c").unwrap(), ["/etc/a", "/etc/a/b"]);
        assert_eq!(root.missing_above("/c").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_below_a_file_is_not_there() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::open(home.path()).unwrap();
        fs::write(home.path().join("f"), "one").unwrap();
        assert_eq!((root.file("/f/a/b").unwrap(), root.owner("/f/a").unwrap()), (None, None));
        assert_eq!(root.names("/f").unwrap(), Vec::<String>::new());
        assert!(root.replace("/f/a", None, b"x", None).is_err());
        assert_eq!(root.file("/f").unwrap().unwrap(), b"one");
    }

    #[test]
    fn a_file_keeps_its_mode_and_is_not_replaced_behind_somebodys_back() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::open(home.path()).unwrap();
        fs::write(home.path().join("f"), "one").unwrap();
        fs::set_permissions(home.path().join("f"), fs::Permissions::from_mode(0o640)).unwrap();
        let owner = root.owner("/f").unwrap();
        assert!(matches!(root.replace("/f", Some(b"other"), b"two", owner), Err(TreeError::Changed(_))));
        assert_eq!(root.names("/").unwrap(), ["f"], "and nothing is left beside it");
        root.replace("/f", Some(b"one"), b"two", owner).unwrap();
        assert_eq!((root.file("/f").unwrap().unwrap(), root.owner("/f").unwrap()), (b"two".to_vec(), owner));
        assert_eq!(owner.unwrap().mode, 0o640);
        root.remove("/f").unwrap();
        assert_eq!((root.file("/f").unwrap(), root.owner("/f").unwrap()), (None, None));
    }
}
