//! Where the seeds are, looked up again and again, for whoever joins the cluster by them.
//!
//! What was found once is kept until something else is found: a name server that fails takes no node out of its
//! cluster. `Places` is the pure part.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::names::Names;
use crate::config::JoinTarget;

/// Addresses of seeds that are kept: as many as a cluster may have seeds.
pub const ADDRESSES_MAX: usize = 128;
/// Targets that are looked up at a time. Each host among them may keep a thread waiting.
const LOOKUPS_MAX: usize = 8;
/// Addresses that a log line shows.
const SHOWN_MAX: usize = 16;

/// How long it waits between rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// As long as nothing has been found, at first; each further time twice as long.
    pub(super) missing: Duration,
    /// When something has been found, and at most.
    pub(super) found: Duration,
}

const PACE: Pace = Pace { missing: Duration::from_secs(1), found: Duration::from_secs(30) };

/// Looks up where the seeds are, and goes on with that until nobody listens to `found` any more, which is told each
/// time that something has changed: addresses in the order of the targets, each once, at most [`ADDRESSES_MAX`], none of
/// `own`.
pub async fn follow(
    targets: Vec<JoinTarget>,
    own: Vec<SocketAddr>,
    names: Names,
    found: watch::Sender<Vec<SocketAddr>>,
) {
    follow_at(PACE, Places::new(targets, own), names, found).await;
}

async fn follow_at(pace: Pace, mut places: Places, names: Names, found: watch::Sender<Vec<SocketAddr>>) {
    let mut rounds_missing = 0;
    loop {
        tokio::select! {
            () = round(&mut places, &names, &found) => {}
            () = found.closed() => return,
        }
        rounds_missing = if found.borrow().is_empty() { rounds_missing + 1 } else { 0 };
        tokio::select! {
            () = tokio::time::sleep(pace.after(rounds_missing)) => {}
            () = found.closed() => return,
        }
    }
}

/// Looks all targets up once. What is found is told at once: another target may take its time.
async fn round(places: &mut Places, names: &Names, found: &watch::Sender<Vec<SocketAddr>>) {
    let targets = places.targets.clone();
    let looked_up = stream::iter(targets.into_iter().enumerate()).map(|(index, target)| async move {
        let answer = names.addresses(&target).await;
        (index, target, answer)
    });
    let mut looked_up = std::pin::pin!(looked_up.buffer_unordered(LOOKUPS_MAX));
    while let Some((index, target, answer)) = looked_up.next().await {
        match (places.answered(index, answer.as_deref().ok()), answer) {
            (Turn::Failed, Err(error)) => {
                tracing::warn!(%target, %error, "no seeds are found there now; what was found before is kept");
            }
            (Turn::Works, _) => tracing::info!(%target, "seeds are found there again"),
            _ => {}
        }
        let addresses = places.addresses();
        found.send_if_modified(|held| {
            let is_other = *held != addresses;
            if is_other {
                let shown: Vec<_> = addresses.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
                let count = addresses.len();
                tracing::info!(count, addresses = shown.join(" "), "seeds may be at these addresses");
                *held = addresses;
            }
            is_other
        });
    }
}

impl Pace {
    /// After so many rounds in a row that have found nothing.
    fn after(&self, rounds_missing: u32) -> Duration {
        match rounds_missing.checked_sub(1) {
            Some(before) => (self.missing * 2_u32.saturating_pow(before.min(16))).min(self.found),
            None => self.found,
        }
    }
}

/// What has been found of each target.
#[derive(Debug)]
struct Places {
    targets: Vec<JoinTarget>,
    /// This node's.
    own: HashSet<SocketAddr>,
    /// Of each target what was found last.
    found: Vec<Vec<SocketAddr>>,
    /// Of each target whether it could not be looked up the last time.
    is_failing: Vec<bool>,
}

/// What an answer changes in how a target does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Nothing,
    Failed,
    /// It had failed.
    Works,
}

impl Places {
    fn new(targets: Vec<JoinTarget>, own: Vec<SocketAddr>) -> Self {
        let (found, is_failing) = (vec![Vec::new(); targets.len()], vec![false; targets.len()]);
        Self { targets, own: own.into_iter().collect(), found, is_failing }
    }

    /// What a target was looked up as; `None`: it could not be.
    fn answered(&mut self, index: usize, answer: Option<&[SocketAddr]>) -> Turn {
        let was_failing = std::mem::replace(&mut self.is_failing[index], answer.is_none());
        if let Some(addresses) = answer {
            self.found[index] = addresses.to_vec();
        }
        match (was_failing, answer) {
            (false, None) => Turn::Failed,
            (true, Some(_)) => Turn::Works,
            _ => Turn::Nothing,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut seen = self.own.clone();
        let all = self.found.iter().flatten().copied();
        all.filter(|address| seen.insert(*address)).take(ADDRESSES_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::name_server::NameServer;
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    fn targets(texts: &[&str]) -> Vec<JoinTarget> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_was_found_is_kept_until_something_else_is() {
        let mut places = Places::new(targets(&["a:1", "dns://b:1"]), addresses(&["10.0.0.9:1"]));
        assert_eq!(places.addresses(), []);
        assert_eq!(places.answered(1, Some(&addresses(&["10.0.0.2:1", "10.0.0.9:1"]))), Turn::Nothing);
        assert_eq!(places.addresses(), addresses(&["10.0.0.2:1"]), "not its own");
        assert_eq!(places.answered(0, Some(&addresses(&["10.0.0.1:1", "10.0.0.2:1"]))), Turn::Nothing);
        assert_eq!(places.addresses(), addresses(&["10.0.0.1:1", "10.0.0.2:1"]), "each once");
        assert_eq!(places.answered(1, None), Turn::Failed);
        assert_eq!(places.answered(1, None), Turn::Nothing, "it is told once");
        assert_eq!(places.answered(0, Some(&addresses(&["10.0.0.3:1"]))), Turn::Nothing);
        assert_eq!(places.addresses(), addresses(&["10.0.0.3:1", "10.0.0.2:1"]));
        assert_eq!(places.answered(1, Some(&addresses(&["10.0.0.4:1"]))), Turn::Works);
        assert_eq!(places.addresses(), addresses(&["10.0.0.3:1", "10.0.0.4:1"]));
    }

    #[test]
    fn there_are_not_more_than_seeds_may_be() {
        let mut places = Places::new(targets(&["a:1", "b:1"]), Vec::new());
        for index in 0..2 {
            let many: Vec<_> = (1..=100).map(|port| SocketAddr::from(([10, 0, 0, index], port))).collect();
            places.answered(index.into(), Some(&many));
        }
        assert_eq!(places.addresses().len(), ADDRESSES_MAX);
    }

    #[test]
    fn it_looks_often_until_something_is_found() {
        let seconds = |rounds_missing| PACE.after(rounds_missing).as_secs();
        assert_eq!([0, 1, 2, 3, 5, 6, 40].map(seconds), [30, 1, 2, 4, 16, 30, 30]);
    }

    /// What a node that joins is told, one state after the other.
    struct Followed {
        server: Arc<NameServer>,
        found: watch::Receiver<Vec<SocketAddr>>,
    }

    impl Followed {
        async fn new(texts: &[&str], own: &[&str]) -> Self {
            let server = NameServer::start().await;
            let places = Places::new(targets(texts), addresses(own));
            let names = Names { server: Some(server.address()) };
            let (sender, found) = watch::channel(Vec::new());
            let pace = Pace { missing: Duration::from_millis(5), found: Duration::from_millis(5) };
            tokio::spawn(follow_at(pace, places, names, sender));
            Self { server, found }
        }

        /// Waits until that is told.
        async fn comes(&mut self, expected: &[&str]) {
            let expected = addresses(expected);
            let last = self.found.clone();
            let came = self.found.wait_for(|found| *found == expected);
            let came = tokio::time::timeout(Duration::from_secs(60), came).await;
            assert!(came.is_ok(), "{:?} is told, not {expected:?}", last.borrow());
        }
    }

    #[tokio::test]
    async fn a_headless_service_grows_and_shrinks() {
        let mut followed = Followed::new(&["dns://seeds.test.:65000"], &["10.0.0.3:65000"]).await;
        followed.server.set_addresses("seeds.test.", &["10.0.0.2", "10.0.0.1"]);
        followed.comes(&["10.0.0.1:65000", "10.0.0.2:65000"]).await;
        followed.server.set_addresses("seeds.test.", &["10.0.0.4", "10.0.0.3", "10.0.0.1"]);
        followed.comes(&["10.0.0.1:65000", "10.0.0.4:65000"]).await;
        followed.server.set_addresses("seeds.test.", &["fd00::1"]);
        followed.comes(&["[fd00::1]:65000"]).await;
    }

    #[tokio::test]
    async fn srv_records_tell_hosts_and_ports() {
        let mut followed = Followed::new(&["dns+srv://_peers._udp.seeds.test."], &[]).await;
        let server = Arc::clone(&followed.server);
        server.set_addresses("a.test.", &["10.0.0.1"]);
        server.set_addresses("b.test.", &["10.0.0.2", "10.0.0.3"]);
        server.set_services("_peers._udp.seeds.test.", &[(20, 1, "a.test."), (10, 2, "b.test.")]);
        followed.comes(&["10.0.0.2:2", "10.0.0.3:2", "10.0.0.1:1"]).await;
        // A host without an address, and what is no service, are passed over.
        server
            .set_services("_peers._udp.seeds.test.", &[(1, 7, "none.test."), (2, 1, "a.test."), (3, 0, ".")]);
        followed.comes(&["10.0.0.1:1"]).await;
    }

    #[tokio::test]
    async fn names_are_completed_by_the_search_domains() {
        let mut followed = Followed::new(&["dns://seeds:1", "dns+srv://_p._udp.seeds"], &[]).await;
        followed.server.set_addresses("seeds.search.test.", &["10.0.0.1"]);
        followed.server.set_services("_p._udp.seeds.search.test.", &[(1, 2, "seeds.search.test.")]);
        followed.comes(&["10.0.0.1:1", "10.0.0.1:2"]).await;
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_for_a_packet_comes_over_tcp_and_is_bounded() {
        let mut followed = Followed::new(&["dns+srv://many.test."], &[]).await;
        followed.server.set_addresses("a.test.", &["10.0.0.1"]);
        let services: Vec<_> = (1..=300).map(|port| (1, port, "a.test.")).collect();
        followed.server.set_services("many.test.", &services);
        let expected: Vec<_> = (1..=ADDRESSES_MAX).map(|port| format!("10.0.0.1:{port}")).collect();
        followed.comes(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(followed.server.asked_over_tcp() > 0);
    }

    #[tokio::test]
    async fn a_name_server_that_fails_takes_nothing_away() {
        let mut followed = Followed::new(&["10.0.0.9:1", "dns://a.test.:1", "dns://b.test.:1"], &[]).await;
        let server = Arc::clone(&followed.server);
        server.set_addresses("a.test.", &["10.0.0.1"]);
        server.set_addresses("b.test.", &["10.0.0.2"]);
        followed.comes(&["10.0.0.9:1", "10.0.0.1:1", "10.0.0.2:1"]).await;
        server.set_failing("a.test.");
        server.asked_again("a.test.").await;
        server.set_addresses("b.test.", &["10.0.0.3"]);
        followed.comes(&["10.0.0.9:1", "10.0.0.1:1", "10.0.0.3:1"]).await;
        // An answer without addresses is no better.
        server.set_addresses("b.test.", &[]);
        server.asked_again("b.test.").await;
        server.set_addresses("a.test.", &["10.0.0.4"]);
        followed.comes(&["10.0.0.9:1", "10.0.0.4:1", "10.0.0.3:1"]).await;
    }

    #[tokio::test]
    async fn a_host_is_looked_up_by_the_system() {
        let mut followed = Followed::new(&["localhost:7"], &["[::1]:7"]).await;
        followed.comes(&["127.0.0.1:7"]).await;
    }

    #[tokio::test]
    async fn it_ends_when_nobody_listens() {
        let (sender, found) = watch::channel(Vec::new());
        let following = tokio::spawn(follow(targets(&["10.0.0.1:1"]), Vec::new(), Names::default(), sender));
        drop(found);
        following.await.unwrap();
    }
}
