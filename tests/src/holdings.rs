//! What a daemon says that it holds, content by content: what it can be held to after a crash.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use crate::{Client, Daemon, Request};

/// What is said of one content.
#[derive(Clone, Debug, Deserialize)]
pub struct Held {
    id: String,
    /// Bytes of blocks that are there.
    pub held_bytes: u64,
    /// Pieces that are there in full and are found again after a crash.
    pub durable_pieces: u32,
}

/// Every content by its digest.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    contents: BTreeMap<String, Held>,
}

#[derive(Deserialize)]
struct Page {
    contents: Vec<Held>,
    next: Option<String>,
}

impl Holdings {
    /// What the daemon's admin port says now.
    ///
    /// # Errors
    /// What the socket says: the daemon is being killed.
    ///
    /// # Panics
    /// When the answer is none, or has more than one page.
    pub fn of(admin: &mut Client) -> io::Result<Holdings> {
        let answer = admin.fetch(&Request::get("/api/v1/contents?limit=1000"))?;
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
        let page: Page = serde_json::from_slice(&answer.body).expect("the API speaks JSON");
        assert!(page.next.is_none(), "a scenario has fewer contents");
        let contents = page.contents.into_iter().map(|held| (held.id.clone(), held)).collect();
        Ok(Holdings { contents })
    }

    /// What a daemon that runs says now.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn now(daemon: &Daemon) -> Holdings {
        Holdings::of(&mut daemon.admin_client()).expect("the admin port answers")
    }

    /// Of the content with that digest; nothing is held of one that is not known.
    pub fn held_bytes(&self, digest: &str) -> u64 {
        self.contents.get(digest).map_or(0, |held| held.held_bytes)
    }

    /// Of the content with that digest.
    pub fn durable_pieces(&self, digest: &str) -> u32 {
        self.contents.get(digest).map_or(0, |held| held.durable_pieces)
    }

    /// Of all contents.
    pub fn all_durable_pieces(&self) -> u32 {
        self.contents.values().map(|held| held.durable_pieces).sum()
    }

    /// Of all contents.
    pub fn all_held_bytes(&self) -> u64 {
        self.contents.values().map(|held| held.held_bytes).sum()
    }

    /// The content with that digest is held no longer.
    pub fn forget(&mut self, digest: &str) {
        self.contents.remove(digest);
    }

    /// What was durable here and is not in `later`, by digest: pieces then, and pieces later.
    pub fn lost_in(&self, later: &Holdings) -> Vec<(&str, u32, u32)> {
        let both = self
            .contents
            .iter()
            .map(|(digest, held)| (digest.as_str(), held.durable_pieces, later.durable_pieces(digest)));
        both.filter(|(_, then, found)| found < then).collect()
    }
}
