//! What a daemon has counted at one moment, and what lies between two of them. Pure.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use crate::admin::api::ContentInfo;
use crate::admin::peers::{PeersInfo, RoleInfo, StateInfo};

/// Lines of metrics that are read: a daemon has some hundreds.
const LINES_MAX: usize = 20_000;
/// Contents and peers that a view has.
const SHOWN_MAX: usize = 50;

/// One moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Since the command began.
    at: Duration,
    /// By name and labels as they are written: `darter_requests_total{source="cache"}`.
    values: Vec<(String, f64)>,
    pub(super) peers: Option<PeersInfo>,
    /// As they were listed last, which may be a while ago, with how fast they grew.
    coming: Vec<Coming>,
    listed: Option<Listed>,
}

/// What each content held when all were listed.
#[derive(Clone, Debug)]
struct Listed {
    at: Duration,
    held_bytes: HashMap<(String, String), u64>,
}

/// A content of which not all is here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Coming {
    pub(super) id: String,
    pub(super) registry: String,
    pub(super) held_bytes: u64,
    pub(super) length_bytes: u64,
    pub(super) bytes_per_s: f64,
}

/// What a person sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) version: String,
    pub(super) io: String,
    /// Between the two samples.
    pub(super) seconds: f64,
    pub(super) requests_per_s: f64,
    pub(super) connections: f64,
    pub(super) body_bytes_per_s: BySource,
    /// Of the bytes that came from the cache or had to be fetched, the part from the cache; none if nothing was read.
    pub(super) hit_ratio: Option<f64>,
    /// The same since the daemon began.
    pub(super) hit_ratio_of_all: Option<f64>,
    pub(super) origin_requests_per_s: f64,
    pub(super) origin_bytes_per_s: f64,
    pub(super) peer_received_bytes_per_s: f64,
    pub(super) peer_sent_bytes_per_s: f64,
    pub(super) capacity_bytes: f64,
    pub(super) used_bytes: f64,
    pub(super) contents: f64,
    /// Counted since the daemon began: blocks that failed their check, and connections for which there was no place.
    pub(super) failed_checks: f64,
    pub(super) shed_connections: f64,
    /// The quickest first.
    pub(super) coming: Vec<Coming>,
    /// Other nodes, those with the most traffic first; none without a cluster.
    pub(super) peers: Option<Vec<Flow>>,
}

/// Bytes per second of answers, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct BySource {
    pub(super) cache: f64,
    /// Other nodes sent them.
    pub(super) peers: f64,
    pub(super) origin: f64,
    pub(super) pass: f64,
}

/// Another node, and what flows between it and this one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Flow {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) is_seed: bool,
    pub(super) is_connected: bool,
    pub(super) sent_bytes_per_s: f64,
    pub(super) received_bytes_per_s: f64,
}

impl Sample {
    /// Of a text of OpenMetrics. What is no sample in it is passed over.
    pub(super) fn parse(text: &str, at: Duration) -> Self {
        let lines = text.lines().take(LINES_MAX).filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            // A label's value may hold anything but ends before the last brace.
            let cut = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
            let (name, rest) = line.split_at(cut);
            Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
        });
        Self { at, values: values.collect(), ..Self::default() }
    }

    /// All contents as they are now, compared with those of the sample before.
    pub(super) fn listed(&mut self, contents: Vec<ContentInfo>, before: Option<&Self>) {
        let earlier = before.and_then(|before| before.listed.as_ref());
        let mut held_bytes = HashMap::with_capacity(contents.len());
        for content in contents {
            let key = (content.id, content.registry);
            if content.held_bytes < content.length_bytes {
                let grown = earlier.map_or(0, |earlier| {
                    // Of one that has come meanwhile nothing was held.
                    let was = earlier.held_bytes.get(&key).copied().unwrap_or(0);
                    content.held_bytes.saturating_sub(was)
                });
                let seconds = earlier.map_or(0.0, |earlier| self.at.saturating_sub(earlier.at).as_secs_f64());
                self.coming.push(Coming {
                    id: key.0.clone(),
                    registry: key.1.clone(),
                    held_bytes: content.held_bytes,
                    length_bytes: content.length_bytes,
                    bytes_per_s: if seconds > 0.0 { grown as f64 / seconds } else { 0.0 },
                });
            }
            held_bytes.insert(key, content.held_bytes);
        }
        self.coming.sort_by(|left, right| {
            right.bytes_per_s.total_cmp(&left.bytes_per_s).then_with(|| left.id.cmp(&right.id))
        });
        self.coming.truncate(SHOWN_MAX);
        self.listed = Some(Listed { at: self.at, held_bytes });
    }

    /// The contents of the sample before.
    pub(super) fn unlisted(&mut self, before: Option<&Self>) {
        if let Some(before) = before {
            (self.coming, self.listed) = (before.coming.clone(), before.listed.clone());
        }
    }

    /// The sum over all labels that hold `with`.
    fn sum(&self, name: &str, with: &str) -> f64 {
        let is_meant = |written: &str| {
            written.strip_prefix(name).is_some_and(|labels| {
                labels.is_empty() && with.is_empty() || labels.starts_with('{') && labels.contains(with)
            })
        };
        self.values.iter().filter(|(written, _)| is_meant(written)).map(|(_, value)| value).sum()
    }

    fn label(&self, name: &str, label: &str) -> String {
        let labels =
            self.values.iter().find_map(|(written, _)| written.strip_prefix(name)).unwrap_or_default();
        let value = labels.split_once(&format!("{label}=\"")).and_then(|(_, rest)| rest.split('"').next());
        value.unwrap_or_default().to_owned()
    }
}

impl View {
    /// What has moved from one sample to the next. A count that has become less has begun anew: the daemon was
    /// restarted.
    pub(super) fn of(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.saturating_sub(before.at).as_secs_f64();
        let rate = |moved: f64| if seconds > 0.0 { moved.max(0.0) / seconds } else { 0.0 };
        let moved = |name: &str, with: &str| {
            let (before, now) = (before.sum(name, with), now.sum(name, with));
            if now < before { now } else { now - before }
        };
        let per_s = |name: &str, with: &str| rate(moved(name, with));
        const BODY: &str = "darter_body_bytes_total";
        let [cache, peers, origin, pass] =
            ["cache", "peers", "origin", "pass"].map(|source| format!("source=\"{source}\""));
        let ratio = |bytes: &dyn Fn(&str) -> f64| {
            let (held, fetched) = (bytes(&cache), bytes(&peers) + bytes(&origin));
            (held + fetched > 0.0).then(|| held / (held + fetched))
        };
        Self {
            version: now.label("darter_build_info", "version"),
            io: now.label("darter_build_info", "io"),
            seconds,
            requests_per_s: per_s("darter_requests_total", ""),
            connections: now.sum("darter_connections", ""),
            body_bytes_per_s: BySource {
                cache: per_s(BODY, &cache),
                peers: per_s(BODY, &peers),
                origin: per_s(BODY, &origin),
                pass: per_s(BODY, &pass),
            },
            hit_ratio: ratio(&|source: &str| moved(BODY, source)),
            hit_ratio_of_all: ratio(&|source: &str| now.sum(BODY, source)),
            origin_requests_per_s: per_s("darter_origin_requests_total", ""),
            origin_bytes_per_s: per_s("darter_origin_bytes_total", ""),
            peer_received_bytes_per_s: per_s("darter_peer_received_bytes_total", ""),
            peer_sent_bytes_per_s: per_s("darter_peer_sent_bytes_total", ""),
            capacity_bytes: now.sum("darter_cache_capacity_bytes", ""),
            used_bytes: now.sum("darter_cache_used_bytes", ""),
            contents: now.sum("darter_cache_contents", ""),
            failed_checks: now.sum("darter_cache_checks_failed_total", ""),
            shed_connections: now.sum("darter_connections_shed_total", ""),
            coming: now.coming.clone(),
            peers: now.peers.as_ref().map(|peers| flows(before.peers.as_ref(), peers)),
        }
    }
}

fn flows(before: Option<&PeersInfo>, now: &PeersInfo) -> Vec<Flow> {
    let elapsed_ms = before.map_or(0, |before| now.at_ms.saturating_sub(before.at_ms));
    let earlier: HashMap<&str, (u64, u64)> = before
        .iter()
        .flat_map(|before| &before.peers)
        .map(|peer| (&*peer.node.id, (peer.sent_bytes, peer.received_bytes)))
        .collect();
    let per_s = |before: u64, now: u64| match elapsed_ms {
        0 => 0.0,
        elapsed_ms => now.checked_sub(before).unwrap_or(now) as f64 * 1000.0 / elapsed_ms as f64,
    };
    let flow = |peer: &crate::admin::peers::PeerInfo| {
        let own = (peer.sent_bytes, peer.received_bytes);
        let (sent, received) = earlier.get(&*peer.node.id).copied().unwrap_or(own);
        Flow {
            id: peer.node.id.clone(),
            address: peer.node.address.to_string(),
            is_seed: peer.node.role == RoleInfo::Seed,
            is_connected: peer.state == StateInfo::Connected,
            sent_bytes_per_s: per_s(sent, peer.sent_bytes),
            received_bytes_per_s: per_s(received, peer.received_bytes),
        }
    };
    let mut flows: Vec<_> = now.peers.iter().map(flow).collect();
    let all = |flow: &Flow| flow.sent_bytes_per_s + flow.received_bytes_per_s;
    flows.sort_by(|left, right| {
        let by_bytes = all(right).total_cmp(&all(left));
        by_bytes.then(right.is_connected.cmp(&left.is_connected)).then_with(|| left.id.cmp(&right.id))
    });
    flows.truncate(SHOWN_MAX);
    flows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::api::VerificationInfo;

    const TEXT: &str = "# TYPE darter_requests counter\n\
                        darter_build_info{version=\"0.1.0\",io=\"ring\"} 1\n\
                        darter_requests_total{source=\"cache\",status=\"206\"} 10\n\
                        darter_requests_total{source=\"origin\",status=\"200\"} 5\n\
                        darter_requests_total_not{a=\"b\"} 99\n\
                        darter_body_bytes_total{source=\"cache\"} 3000\n\
                        darter_body_bytes_total{source=\"origin\"} 1000\n\
                        darter_connections 3\n\
                        # EOF\n";

    fn at(text: &str, seconds: u64) -> Sample {
        Sample::parse(text, Duration::from_secs(seconds))
    }

    #[test]
    fn rates_lie_between_two_samples() {
        let later =
            TEXT.replace(" 10\n", " 30\n").replace(" 3000\n", " 6000\n").replace(" 1000\n", " 2000\n");
        let view = View::of(&at(TEXT, 1), &at(&later, 3));
        assert_eq!((view.version.as_str(), view.io.as_str(), view.connections), ("0.1.0", "ring", 3.0));
        assert_eq!((view.requests_per_s, view.seconds), (10.0, 2.0));
        assert_eq!((view.body_bytes_per_s.cache, view.body_bytes_per_s.origin), (1500.0, 500.0));
        assert_eq!((view.hit_ratio, view.hit_ratio_of_all), (Some(0.75), Some(0.75)));
        assert_eq!(view.peers, None);
    }

    /// A peer has nearly all from other nodes, and little of that is in its cache when it is asked for.
    #[test]
    fn what_other_nodes_sent_is_fetched_too() {
        let text = "darter_body_bytes_total{source=\"cache\"} 1000\n\
                    darter_body_bytes_total{source=\"peers\"} 2000\n\
                    darter_body_bytes_total{source=\"origin\"} 1000\n\
                    darter_body_bytes_total{source=\"pass\"} 7\n";
        let view = View::of(&at("", 0), &at(text, 2));
        let expected = BySource { cache: 500.0, peers: 1000.0, origin: 500.0, pass: 3.5 };
        assert_eq!(view.body_bytes_per_s, expected);
        assert_eq!((view.hit_ratio, view.hit_ratio_of_all), (Some(0.25), Some(0.25)));
        assert_eq!(serde_json::to_value(view).expect("JSON")["body_bytes_per_s"]["peers"], 1000.0);
    }

    #[test]
    fn a_daemon_that_was_restarted_counts_from_zero() {
        let fresh = TEXT.replace(" 10\n", " 4\n").replace(" 5\n", " 0\n");
        assert_eq!(View::of(&at(TEXT, 0), &at(&fresh, 2)).requests_per_s, 2.0);
        let same = View::of(&at(TEXT, 0), &at(TEXT, 0));
        assert_eq!((same.requests_per_s, same.hit_ratio), (0.0, None));
    }

    fn content(id: &str, held_bytes: u64, length_bytes: u64) -> ContentInfo {
        ContentInfo {
            cells: None,
            id: id.into(),
            length_bytes,
            held_bytes,
            pieces: 1,
            held_pieces: 1,
            durable_pieces: 0,
            verification: VerificationInfo::Pending,
            hashed_bytes: None,
            media_type: String::new(),
            registry: "https://r".into(),
            shared: false,
            pinned: false,
            created_at: 0,
            used_at: 0,
        }
    }

    #[test]
    fn what_is_coming_is_shown_by_speed() {
        let mut first = at("", 0);
        first.listed(vec![content("a", 10, 100), content("whole", 5, 5)], None);
        assert_eq!((first.coming.len(), first.coming[0].bytes_per_s), (1, 0.0));
        let mut between = at("", 1);
        between.unlisted(Some(&first));
        assert_eq!(between.coming, first.coming);
        let mut second = at("", 2);
        second.listed(vec![content("a", 20, 100), content("b", 90, 100)], Some(&between));
        let coming: Vec<_> = second.coming.iter().map(|coming| (&*coming.id, coming.bytes_per_s)).collect();
        assert_eq!(coming, [("b", 45.0), ("a", 5.0)]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC{0,20}[{} \n\"=]){0,20}") {
            let sample = at(&text, 1);
            let _ = View::of(&at(TEXT, 0), &sample);
            let _ = sample.label("", "io");
        }
    }
}
