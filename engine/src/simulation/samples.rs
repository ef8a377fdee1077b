//! The contents of all worlds: few, short, and known byte by byte.

use std::sync::LazyLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::content::ContentSpec;
use crate::content_id::{ContentId, Naming, RegistryScope};
use crate::layout::{BLOCK_BYTES, BlockIndex, Layout};

/// What most of a world's clients read from.
pub(super) const HONEST: &str = "https://honest.example:443";
/// Has other bytes under the same names.
pub(super) const LIAR: &str = "https://liar.example:443";

/// One content, and what the liar says it is.
pub(super) struct Sample {
    pub(super) id: ContentId,
    pub(super) naming: Naming,
    pub(super) layout: Layout,
    right: Vec<Bytes>,
    wrong: Vec<Bytes>,
}

/// Most are of one short block, which costs little; the others have pieces that grow, and neighbours. Together they have
/// more pieces than a world has slots: something has to go.
const LENGTHS: [usize; 14] = [
    300,
    700,
    1_900,
    5_000,
    65_536 + 300,
    2_600,
    65_536 + 4_200,
    262_144 + 600,
    900,
    1_300,
    262_144 + 200,
    400,
    2_200,
    3_100,
];
const BY_URL: usize = 5;

pub(super) static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let sample = |number: usize, length: usize| {
        let bytes = |salt: u8| {
            let mut bytes = vec![0; length];
            blake3::Hasher::new().update(&[salt, number as u8]).finalize_xof().fill(&mut bytes);
            bytes
        };
        let right = bytes(0);
        let cut = |bytes: &[u8]| bytes.chunks(BLOCK_BYTES as usize).map(Bytes::copy_from_slice).collect();
        Sample {
            id: ContentId::from_bytes(Sha256::digest(&right).into()),
            naming: if number == BY_URL { Naming::Url } else { Naming::Digest },
            layout: Layout::new(length as u64).unwrap(),
            wrong: cut(&bytes(1)),
            right: cut(&right),
        }
    };
    LENGTHS.iter().enumerate().map(|(number, length)| sample(number, *length)).collect()
});

impl Sample {
    pub(super) fn of(id: &ContentId) -> Option<&'static Self> {
        SAMPLES.iter().find(|sample| sample.id == *id)
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let number = SAMPLES.iter().position(|sample| sample.id == self.id);
        format!("content {}", number.unwrap_or(usize::MAX))
    }

    /// What that registry sends.
    pub(super) fn block(&self, registry: &str, block: BlockIndex) -> &Bytes {
        let all = if registry == LIAR { &self.wrong } else { &self.right };
        &all[block.number() as usize]
    }

    /// Whether a reader under that registry may be given these bytes: the right ones always, the liar's only under
    /// the liar, who alone answers for them.
    pub(super) fn may_be(&self, registry: RegistryScope, block: BlockIndex, bytes: &[u8]) -> bool {
        let number = block.number() as usize;
        bytes == self.right[number]
            || registry == RegistryScope::of_origin(LIAR) && bytes == self.wrong[number]
    }

    pub(super) fn spec(&self, registry: &str) -> ContentSpec {
        ContentSpec {
            id: self.id,
            naming: self.naming,
            layout: self.layout,
            registry: registry.into(),
            media_type: String::new(),
            validator: String::new(),
        }
    }
}
