//! Directory trees: one is made up, any is read, two are compared.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{fs, thread};

use fastrand::Rng;

/// A file system that has given nothing for so long hangs: longer than all timeouts of nydusd together.
const HANGS: Duration = Duration::from_secs(30);

/// Everything below a directory, by its path relative to it.
#[derive(Debug)]
pub(crate) struct Tree(BTreeMap<PathBuf, Node>);

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Symlink { target: PathBuf },
}

impl Tree {
    /// Reads all of it, each file whole and in one go.
    ///
    /// # Panics
    /// When an entry cannot be read, or none has come for [`HANGS`]. The reader is a thread of its own, so
    /// that even a file system that hangs is noticed, and unmounted.
    pub(crate) fn read(root: &Path) -> Self {
        let (send, entries) = mpsc::channel();
        let reader = thread::spawn({
            let root = root.to_owned();
            move || walk(&root, Path::new(""), &send)
        });
        let mut tree = BTreeMap::new();
        loop {
            match entries.recv_timeout(HANGS) {
                Ok((path, node)) => tree.insert(path, node),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} hangs after {:?}", root.display(), tree.last_key_value())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
        }
        let walked = reader.join().expect("the reader of a tree only returns errors");
        walked.unwrap_or_else(|(path, error)| panic!("{} of {}: {error}", path.display(), root.display()));
        Self(tree)
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Panics
    /// When an entry is missing, too many, or not the same; says which, without the contents.
    pub(crate) fn assert_same(&self, expected: &Tree) {
        let paths = |tree: &Tree| tree.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(self), paths(expected), "the entries differ");
        for (path, expected) in &expected.0 {
            let node = &self.0[path];
            if let (Node::File { content, .. }, Node::File { content: right, .. }) = (node, expected) {
                assert_eq!(content.len(), right.len(), "length of {}", path.display());
                let wrong = content.iter().zip(right).position(|(byte, right)| byte != right);
                assert_eq!(wrong, None, "the first wrong byte of {}", path.display());
            }
            assert!(node == expected, "kind, mode or target of {} differs", path.display());
        }
    }
}

type Failed = (PathBuf, io::Error);

fn walk(root: &Path, below: &Path, send: &Sender<(PathBuf, Node)>) -> Result<(), Failed> {
    let failed = |error| (below.to_owned(), error);
    for entry in fs::read_dir(root.join(below)).map_err(failed)? {
        let path = below.join(entry.map_err(failed)?.file_name());
        let node = read_node(&root.join(&path)).map_err(|error| (path.clone(), error))?;
        let descend = matches!(node, Node::Directory { .. });
        // Nobody listens any more when the test has given up.
        let _ = send.send((path.clone(), node));
        if descend {
            walk(root, &path, send)?;
        }
    }
    Ok(())
}

fn read_node(path: &Path) -> io::Result<Node> {
    let meta = path.symlink_metadata()?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_symlink() {
        return Ok(Node::Symlink { target: path.read_link()? });
    }
    if meta.is_dir() {
        return Ok(Node::Directory { mode });
    }
    let content = fs::read(path)?;
    if content.len() as u64 != meta.len() {
        let error = format!("{} bytes were read, stat says {}", content.len(), meta.len());
        return Err(io::Error::other(error));
    }
    Ok(Node::File { mode, content })
}

/// Puts into the empty directory `root` what images are made of: many small files, a few large ones, some of
/// them incompressible; links, deep and empty directories, an empty file, odd names and modes.
pub(crate) fn plant(root: &Path, seed: u64) -> io::Result<()> {
    let mut random = Rng::with_seed(seed);
    for directory in 0..12 {
        let directory = root.join(format!("usr/lib/python3/package-{directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..30 {
            let len = random.usize(1..24_000);
            fs::write(directory.join(format!("module_{file}.py")), text(&mut random, len))?;
        }
    }
    let deep: PathBuf = (0..24).map(|level| format!("level-{level}")).collect();
    fs::create_dir_all(root.join("opt").join(&deep))?;
    fs::write(root.join("opt").join(&deep).join("bottom"), b"found\n")?;

    fs::create_dir_all(root.join("usr/bin"))?;
    for (name, len) in [("interpreter", 6_000_001), ("archive.zip", 3 << 20), ("one-chunk", 1 << 20)] {
        fs::write(root.join("usr/bin").join(name), noise(&mut random, len))?;
    }
    // Compresses to next to nothing: its chunks are far smaller in the blob than in the file.
    fs::write(root.join("usr/lib/zeros"), vec![0; (2 << 20) + 17])?;
    fs::set_permissions(root.join("usr/bin/interpreter"), fs::Permissions::from_mode(0o4755))?;

    fs::create_dir_all(root.join("etc/empty"))?;
    fs::write(root.join("etc/nothing"), b"")?;
    fs::write(root.join("etc/shadow"), b"root:*:19000:0:99999:7:::\n")?;
    fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o600))?;
    fs::write(root.join("etc/ünïcode and blanks"), b"odd\n")?;
    symlink("../usr/bin/interpreter", root.join("etc/interpreter"))?;
    symlink("/nowhere", root.join("etc/dangling"))?;
    symlink("python3", root.join("usr/lib/python"))?;
    fs::hard_link(root.join("usr/bin/archive.zip"), root.join("usr/lib/hard-link.zip"))
}

/// Compresses about as well as source code.
fn text(random: &mut Rng, len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 40);
    while text.len() < len {
        writeln!(text, "    value_{} = compute({})", random.u8(..), random.u16(..))
            .expect("memory takes writes");
    }
    text.truncate(len);
    text
}

fn noise(random: &mut Rng, len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    random.fill(&mut noise);
    noise
}
