//! Where a blob's bytes come from. Its length and digest are known from the beginning, its content is read
//! piece by piece, so that a blob of any size costs no memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Digest;

/// Content that a registry can serve: a length, a digest, and bytes at any offset. Clones share the content.
#[derive(Clone, Debug)]
pub struct Blob {
    content: Content,
    len: u64,
    digest: Digest,
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Bytes),
    File(Arc<File>),
    Synthetic(u64),
}

impl Blob {
    /// A blob in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { len: bytes.len() as u64, digest: Digest::of(&bytes), content: Content::Bytes(bytes) }
    }

    /// A blob in a file, which is read through once for its digest and must not change afterwards.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Self::hashed(Content::File(Arc::new(file)), len)
    }

    /// `len` pseudo-random bytes that depend on `seed` alone and do not compress: BLAKE3's output stream,
    /// which can be read at any offset.
    pub fn synthetic(seed: u64, len: u64) -> Self {
        Self::hashed(Content::Synthetic(seed), len).expect("generated content has no read errors")
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not a single byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SHA-256 of the whole content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Fills `buffer` with the content at `offset`.
    ///
    /// # Errors
    /// The file cannot be read, or the range ends behind the content.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content.read_exact_at(buffer, offset)
    }

    fn hashed(content: Content, len: u64) -> io::Result<Self> {
        let mut sha256 = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        let mut offset = 0;
        while offset < len {
            let part = buffer.len().min((len - offset) as usize);
            content.read_exact_at(&mut buffer[..part], offset)?;
            sha256.update(&buffer[..part]);
            offset += part as u64;
        }
        Ok(Self { content, len, digest: sha256.finalize().into() })
    }
}

impl Content {
    /// The range has been checked against the length.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]),
            Self::File(file) => file.read_exact_at(buffer, offset)?,
            Self::Synthetic(seed) => {
                let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
                stream.set_position(offset);
                stream.fill(buffer);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(blob: &Blob, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        blob.read_exact_at(&mut buffer, offset).unwrap();
        buffer
    }

    #[test]
    fn one_content_three_sources() {
        let synthetic = Blob::synthetic(7, 200_000);
        let whole = read(&synthetic, 0, 200_000);
        let memory = Blob::bytes(whole.clone());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        std::fs::write(&path, &whole).unwrap();
        let file = Blob::file(&path).unwrap();
        for blob in [synthetic, memory, file] {
            assert_eq!(blob.digest(), Digest::of(&whole));
            assert_eq!(read(&blob, 65_533, 100_001), whole[65_533..][..100_001]);
            assert!(blob.read_exact_at(&mut [0; 2], 199_999).is_err());
            assert!(blob.read_exact_at(&mut [0; 2], u64::MAX).is_err());
        }
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(Blob::synthetic(1, 64).digest(), Blob::synthetic(2, 64).digest());
        assert!(Blob::synthetic(1, 0).is_empty());
    }
}
