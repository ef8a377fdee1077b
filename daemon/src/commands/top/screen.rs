//! A view as lines of a terminal. Pure.

use super::sample::{Coming, Flow, View};
use crate::commands::text::{self, plain};

/// Columns of the bars.
const BAR_COLUMNS: usize = 20;
const NAME_COLUMNS: usize = 11;

/// At most so many lines of at most so many columns, with what is wrong just now.
pub(super) fn lines(view: &View, trouble: Option<&str>, (columns, rows): (usize, usize)) -> Vec<String> {
    let mut lines = head(view);
    if let Some(trouble) = trouble {
        lines.insert(1, format!("! {}", plain(trouble, 400)));
    } else {
        lines.insert(1, "q quits".to_owned());
    }
    let left = rows.saturating_sub(lines.len());
    // Both lists get a fair part; what one does not need is the other's.
    let (coming, peers) = (coming(view), peers(view));
    let of_coming = if peers.len() < left / 2 { left - peers.len() } else { left.div_ceil(2) };
    lines.extend(coming.into_iter().take(of_coming));
    let left = rows.saturating_sub(lines.len());
    lines.extend(peers.into_iter().take(left));
    lines.truncate(rows);
    lines.iter().map(|line| line.chars().take(columns).collect::<String>().trim_end().to_owned()).collect()
}

/// All of it, for `--once`.
pub(super) fn whole(view: &View) -> String {
    let lines = [head(view), coming(view), peers(view)].concat();
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn head(view: &View) -> Vec<String> {
    let row = |name: &str, rest: String| format!("{name:NAME_COLUMNS$}{rest}");
    let used = share(view.used_bytes, view.capacity_bytes);
    let bytes = &view.body_bytes_per_s;
    let most = [bytes.cache, bytes.peers, bytes.origin, bytes.pass].into_iter().fold(0.0, f64::max);
    let of_source =
        |name: &str, rate: f64| row(name, format!("{} {:>16}", bar(share(rate, most)), per_s(rate)));
    let percent =
        |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0));
    vec![
        format!("darter {}, {}", plain(&view.version, 40), plain(&view.io, 20)),
        row(
            "store",
            format!(
                "{} {} of {}, {:.0} contents",
                bar(used),
                size(view.used_bytes),
                size(view.capacity_bytes),
                view.contents
            ),
        ),
        row(
            "requests",
            format!(
                "{:.1} /s on {:.0} connections; {} of bytes from the cache, {} since the start",
                view.requests_per_s,
                view.connections,
                percent(view.hit_ratio),
                percent(view.hit_ratio_of_all)
            ),
        ),
        of_source("  cache", bytes.cache),
        of_source("  nodes", bytes.peers),
        of_source("  fetched", bytes.origin),
        of_source("  passed", bytes.pass),
        row(
            "registries",
            format!("give {}, {:.1} requests /s", per_s(view.origin_bytes_per_s), view.origin_requests_per_s),
        ),
        row(
            "other nodes",
            format!(
                " give {}, take {}",
                per_s(view.peer_received_bytes_per_s),
                per_s(view.peer_sent_bytes_per_s)
            ),
        ),
        row(
            "trouble",
            format!(
                "{:.0} blocks were bad, {:.0} connections found no place",
                view.failed_checks, view.shed_connections
            ),
        ),
    ]
}

fn coming(view: &View) -> Vec<String> {
    let line = |coming: &Coming| {
        let held = share(coming.held_bytes as f64, coming.length_bytes as f64);
        format!(
            "{:26} {} {:>10} {:>14}  {}",
            plain(&coming.id, 22),
            bar(held),
            size(coming.length_bytes as f64),
            per_s(coming.bytes_per_s),
            plain(&coming.registry, 60)
        )
    };
    let title = match view.coming.len() {
        0 => "nothing is held in part".to_owned(),
        _ => "HELD IN PART".to_owned(),
    };
    [String::new(), title].into_iter().chain(view.coming.iter().map(line)).collect()
}

fn peers(view: &View) -> Vec<String> {
    let Some(peers) = &view.peers else { return Vec::new() };
    let line = |flow: &Flow| {
        let role = if flow.is_seed { "seed" } else { "peer" };
        let state = if flow.is_connected { "" } else { "not connected" };
        format!(
            "{:12}  {role}  {:24} gives {:>14}  takes {:>14}  {state}",
            plain(flow.id.get(..12).unwrap_or(&flow.id), 12),
            plain(&flow.address, 48),
            per_s(flow.received_bytes_per_s),
            per_s(flow.sent_bytes_per_s)
        )
    };
    [String::new(), format!("{} OTHER NODES", peers.len())]
        .into_iter()
        .chain(peers.iter().map(line))
        .collect()
}

/// Of a whole, from 0 to 1.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

fn bar(share: f64) -> String {
    let full = (share * BAR_COLUMNS as f64).round() as usize;
    format!("{}{}", "█".repeat(full.min(BAR_COLUMNS)), "░".repeat(BAR_COLUMNS.saturating_sub(full)))
}

fn per_s(bytes_per_s: f64) -> String {
    format!("{}/s", text::mib(bytes_per_s.max(0.0) as u64))
}

fn size(bytes: f64) -> String {
    match bytes.max(0.0) {
        bytes if bytes >= (1_u64 << 34) as f64 => format!("{:.1} GiB", bytes / (1_u64 << 30) as f64),
        bytes => text::mib(bytes as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::BySource;
    use super::*;

    fn view() -> View {
        let coming = Coming {
            id: "sha256:0123456789abcdef0123456789".into(),
            registry: "https://r\u{1b}[31m".into(),
            held_bytes: 1 << 20,
            length_bytes: 2 << 20,
            bytes_per_s: (1 << 20) as f64,
        };
        let flow = Flow {
            id: "ab".repeat(32),
            address: "10.0.0.1:65000".into(),
            is_seed: true,
            is_connected: true,
            sent_bytes_per_s: 0.0,
            received_bytes_per_s: 3e6,
        };
        View {
            coming: vec![coming; 30],
            peers: Some(vec![flow; 30]),
            hit_ratio: Some(0.5),
            body_bytes_per_s: BySource {
                peers: f64::from(4 << 20),
                origin: f64::from(1 << 20),
                ..BySource::default()
            },
            ..View::default()
        }
    }

    #[test]
    fn a_view_keeps_to_its_size_and_controls_no_terminal() {
        for (columns, rows) in [(80, 24), (200, 100), (20, 5), (1, 1), (0, 0)] {
            let lines = lines(&view(), None, (columns, rows));
            assert!(lines.len() <= rows && lines.iter().all(|line| line.chars().count() <= columns));
            assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
        }
    }

    #[test]
    fn both_lists_are_seen_at_an_ordinary_terminal() {
        let shown = lines(&view(), None, (80, 24)).join("\n");
        for words in [
            "q quits",
            "50 % of bytes",
            "  nodes    ████████████████████        4.0 MiB/s",
            "  fetched  █████░",
            "HELD IN PART",
            "sha256:0123456789abcde",
            "30 OTHER NODES",
            "abababababab",
        ] {
            assert!(shown.contains(words), "no {words:?} in {shown}");
        }
        let shown = lines(&view(), Some("no daemon\nanswers"), (80, 24)).join("\n");
        assert!(shown.contains("! no daemon answers"), "{shown}");
        let alone = View { peers: None, ..view() };
        assert!(!whole(&alone).contains("OTHER NODES") && whole(&view()).lines().count() > 60);
    }

    #[test]
    fn bars_are_full_or_empty() {
        assert_eq!(bar(0.0), "░".repeat(20));
        assert_eq!(bar(1.0), "█".repeat(20));
        assert_eq!(share(1.0, 0.0), 0.0);
    }
}
