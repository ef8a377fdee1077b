//! What registries have confirmed, on disk: so that containers go on reading when a daemon is restarted while their
//! registry is down, and nobody is asked about twice because of a restart.
//!
//! One small file, replaced whole. It holds hashes and times, no credential; whoever may read it could still try out
//! passwords against it, so it is for its owner alone. What cannot be read is as good as not there.
//!
//! ```text
//!  0  8  "DARTERAC"
//!  8  4  version, 2
//! 12  4  number of proofs, then of public repositories (16), of places (20), of tags (24)
//! 28  …  proofs: repository 32, credential 32, Unix seconds 8
//!     …  public repositories: repository 32, Unix seconds 8
//!     …  places: repository 32, content 32, Unix seconds 8
//!     …  tags: tag 32, content 32, Unix seconds 8
//! -32    BLAKE3 of all before
//! ```
//! Integers are little-endian.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use darter_engine::ContentId;

use super::claim::{Claim, Credential, Repository};
use super::ledger::{PLACES_MAX, PROOFS_MAX, PUBLIC_MAX};
use super::tags::{TAGS_MAX, Tag};

const MAGIC: &[u8; 8] = b"DARTERAC";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 28;
const SUM_BYTES: usize = 32;
const PROOF_BYTES: usize = 72;
const PUBLIC_BYTES: usize = 40;
const PLACE_BYTES: usize = 72;
const TAG_BYTES: usize = 72;
const FILE_BYTES_MAX: usize = HEAD_BYTES
    + PROOFS_MAX * PROOF_BYTES
    + PUBLIC_MAX * PUBLIC_BYTES
    + PLACES_MAX * PLACE_BYTES
    + TAGS_MAX * TAG_BYTES
    + SUM_BYTES;

/// Confirmations with their times in Unix seconds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Claims that were proven.
    pub proofs: Vec<(Claim, u64)>,
    /// Repositories that everyone may read.
    pub public: Vec<(Repository, u64)>,
    /// Contents that were confirmed to be in a repository.
    pub places: Vec<((Repository, ContentId), u64)>,
    /// What tags named.
    pub tags: Vec<((Tag, ContentId), u64)>,
}

impl Memory {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for count in [self.proofs.len(), self.public.len(), self.places.len(), self.tags.len()] {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for (Claim { repository, credential }, at_s) in &self.proofs {
            put(&mut bytes, &[repository.as_bytes(), credential.as_bytes()], *at_s);
        }
        for (repository, at_s) in &self.public {
            put(&mut bytes, &[repository.as_bytes()], *at_s);
        }
        for ((repository, id), at_s) in &self.places {
            put(&mut bytes, &[repository.as_bytes(), id.as_bytes()], *at_s);
        }
        for ((tag, id), at_s) in &self.tags {
            put(&mut bytes, &[tag.as_bytes(), id.as_bytes()], *at_s);
        }
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    /// `None` for anything that is not such a file, whole and of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
        let (head, mut rest) = body.split_at_checked(HEAD_BYTES)?;
        let is_whole =
            head.starts_with(MAGIC) && u32_at(head, 8) == VERSION && blake3::hash(body) == *array(sum)?;
        let [proofs, public, places, tags] = [12, 16, 20, 24].map(|at| u32_at(head, at) as usize);
        let is_bounded =
            proofs <= PROOFS_MAX && public <= PUBLIC_MAX && places <= PLACES_MAX && tags <= TAGS_MAX;
        if !is_whole || !is_bounded {
            return None;
        }
        let mut memory = Self::default();
        for _ in 0..proofs {
            let (repository, credential) = (take(&mut rest)?, take(&mut rest)?);
            let claim = Claim {
                repository: Repository::from_bytes(repository),
                credential: Credential::from_bytes(credential),
            };
            memory.proofs.push((claim, take_u64(&mut rest)?));
        }
        for _ in 0..public {
            let repository = Repository::from_bytes(take(&mut rest)?);
            memory.public.push((repository, take_u64(&mut rest)?));
        }
        for _ in 0..places {
            let place = (Repository::from_bytes(take(&mut rest)?), ContentId::from_bytes(take(&mut rest)?));
            memory.places.push((place, take_u64(&mut rest)?));
        }
        for _ in 0..tags {
            let named = (Tag::from_bytes(take(&mut rest)?), ContentId::from_bytes(take(&mut rest)?));
            memory.tags.push((named, take_u64(&mut rest)?));
        }
        rest.is_empty().then_some(memory)
    }

    /// Reads the file; nothing is remembered where there is none, or none that can be read.
    pub fn load(path: &Path) -> Self {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Self::decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "is damaged or of another version: registries are asked again who may read");
                Self::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be read: registries are asked again who may read");
                Self::default()
            }
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// What the system says; the old file is then still there.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&self.encode())?;
        fs::rename(&new, path)
    }
}

fn put(bytes: &mut Vec<u8>, hashes: &[&[u8; 32]], at_s: u64) {
    hashes.iter().for_each(|hash| bytes.extend_from_slice(*hash));
    bytes.extend_from_slice(&at_s.to_le_bytes());
}

fn array<const N: usize>(bytes: &[u8]) -> Option<&[u8; N]> {
    bytes.first_chunk()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array(&bytes[at..]).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn take(rest: &mut &[u8]) -> Option<[u8; 32]> {
    let (hash, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*hash)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory() -> impl Strategy<Value = Memory> {
        let claim = any::<([u8; 32], [u8; 32])>().prop_map(|(repository, credential)| Claim {
            repository: Repository::from_bytes(repository),
            credential: Credential::from_bytes(credential),
        });
        let place = any::<([u8; 32], [u8; 32])>()
            .prop_map(|(repository, id)| (Repository::from_bytes(repository), ContentId::from_bytes(id)));
        let tag = any::<([u8; 32], [u8; 32])>()
            .prop_map(|(tag, id)| (Tag::from_bytes(tag), ContentId::from_bytes(id)));
        let repository = any::<[u8; 32]>().prop_map(Repository::from_bytes);
        (
            prop::collection::vec((claim, any::<u64>()), 0..4),
            prop::collection::vec((repository, any::<u64>()), 0..4),
            prop::collection::vec((place, any::<u64>()), 0..4),
            prop::collection::vec((tag, any::<u64>()), 0..4),
        )
            .prop_map(|(proofs, public, places, tags)| Memory { proofs, public, places, tags })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(memory in memory()) {
            prop_assert_eq!(Memory::decode(&memory.encode()), Some(memory));
        }

        #[test]
        fn one_changed_byte_is_noticed(memory in memory(), at: prop::sample::Index, change in 1..=255u8) {
            let mut bytes = memory.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_eq!(Memory::decode(&bytes), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Memory::decode(&bytes);
            // With a right sum, too.
            let mut sealed = [&MAGIC[..], &VERSION.to_le_bytes()[..], &bytes].concat();
            let sum = blake3::hash(&sealed);
            sealed.extend_from_slice(sum.as_bytes());
            let _ = Memory::decode(&sealed);
        }
    }

    #[test]
    fn the_file_is_its_owners_and_a_damaged_one_is_as_good_as_none() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access");
        assert_eq!(Memory::load(&path), Memory::default());
        let memory = Memory { public: vec![(Repository::from_bytes([1; 32]), 7)], ..Memory::default() };
        memory.save(&path).unwrap();
        assert_eq!(Memory::load(&path), memory);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"DARTERAC and something else").unwrap();
        assert_eq!(Memory::load(&path), Memory::default());
    }
}
