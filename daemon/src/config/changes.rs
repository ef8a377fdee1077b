//! What a configuration that is read while the daemon runs changes in it: now, or with the next start. Pure.

use super::check::{Effective, Resolved};
use super::keys::{self, TakenUp};
use super::settings::{ClusterSettings, LogSettings, Settings};

/// A key whose value is another than the one that the daemon runs by; of a list, the list as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted path, without indices.
    pub key: String,
    /// What the daemon runs by, as `config show` prints it.
    pub old: String,
    /// What the configuration says now.
    pub new: String,
}

/// All changes, in the order of `config show`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Taken up by the daemon as it runs.
    pub at_once: Vec<Change>,
    /// Taken up by its next start.
    pub at_restart: Vec<Change>,
}

impl Resolved {
    /// What this configuration changes in a daemon that runs by another.
    #[must_use]
    pub fn changes(&self, running: &Self) -> Changes {
        let (old, new) = (keyed(&running.effective), keyed(&self.effective));
        let mut changes = Changes::default();
        for rows in &new {
            let Some(before) = old.iter().find(|before| before.key == rows.key) else { continue };
            if before.value == rows.value && before.is_of_the_same_files(rows) {
                continue;
            }
            let mut value = rows.value.clone();
            let is_only_content = before.value == value;
            if is_only_content {
                value += " (other content)";
            }
            let change = Change { key: rows.key.to_owned(), old: before.value.clone(), new: value };
            match keys::taken_up(rows.key) {
                // Another file needs a start where the key does; what is in a file never.
                TakenUp::Restart if !is_only_content => changes.at_restart.push(change),
                TakenUp::Restart | TakenUp::AtOnce => changes.at_once.push(change),
            }
        }
        changes
    }

    /// This configuration, but for what only a start takes up: that is as in the one that the daemon runs by.
    #[must_use]
    pub fn taken_up_over(self, running: &Self) -> Self {
        let old = keyed(&running.effective);
        let mut effective = Vec::with_capacity(self.effective.len());
        for new in keyed(&self.effective) {
            let waits = keys::taken_up(new.key) == TakenUp::Restart;
            let before = old.iter().find(|before| before.key == new.key && before.value != new.value);
            let rows = before.filter(|_| waits).unwrap_or(&new);
            effective.extend(rows.rows.iter().copied().cloned());
        }
        Self { settings: self.settings.taken_up_over(&running.settings), effective, ..self }
    }
}

impl Settings {
    fn taken_up_over(self, running: &Self) -> Self {
        Self {
            data_dir: running.data_dir.clone(),
            capacity_bytes: running.capacity_bytes,
            front: running.front,
            admin: running.admin,
            cluster: match (self.cluster, &running.cluster) {
                (Some(new), Some(running)) => Some(ClusterSettings { limits: new.limits, ..running.clone() }),
                (_, running) => running.clone(),
            },
            sandbox: running.sandbox.clone(),
            shards: running.shards,
            io: running.io,
            log: LogSettings { format: running.log.format, ..self.log },
            metrics: running.metrics,
            tracing: running.tracing.clone(),
            pprof_port: running.pprof_port,
            ttl: running.ttl,
            ..self
        }
    }
}

/// What is said under one key, in as many rows as its list has.
struct Rows<'a> {
    key: &'a str,
    value: String,
    rows: Vec<&'a Effective>,
}

impl Rows<'_> {
    fn is_of_the_same_files(&self, other: &Self) -> bool {
        self.rows.iter().map(|row| row.content).eq(other.rows.iter().map(|row| row.content))
    }
}

fn keyed(effective: &[Effective]) -> Vec<Rows<'_>> {
    let mut all: Vec<Rows<'_>> = Vec::new();
    for row in effective {
        let key = list_or_key(&row.key);
        let value = match row.key.rsplit_once("].") {
            Some((_, name)) => format!("{name}: {}", row.value),
            None => row.value.clone(),
        };
        match all.last_mut().filter(|last| last.key == key) {
            Some(last) => {
                last.value += &format!(", {value}");
                last.rows.push(row);
            }
            None => all.push(Rows { key, value, rows: vec![row] }),
        }
    }
    all
}

/// The path of a value, or that of the list which it is in.
fn list_or_key(path: &str) -> &str {
    path.split_once('[').map_or(path, |(list, _)| list)
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::super::{Surroundings, parse, resolve};
    use super::*;

    fn resolved(yaml: &str) -> Resolved {
        let raw = parse("f", yaml.as_bytes()).expect("a right file");
        resolve(&raw, &[], &Surroundings::default()).expect("right values")
    }

    fn shown(changes: &[Change]) -> String {
        let one = |change: &Change| format!("{}: {} -> {}", change.key, change.old, change.new);
        changes.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    #[track_caller]
    fn check(old: &str, new: &str, at_once: &str, at_restart: &str) {
        let changes = resolved(new).changes(&resolved(old));
        assert_eq!((&*shown(&changes.at_once), &*shown(&changes.at_restart)), (at_once, at_restart));
    }

    #[test]
    fn what_is_changed_is_named_with_both_values() {
        check("", "", "", "");
        check("verbose: false", "# a line more\n", "", "");
        check("", "verbose: true", "verbose: false -> true", "");
        check("", "shards: 3", "", "shards: (the CPUs that the daemon may use, at most 4) -> 3");
        check(
            "dataDir: /a\naccess: {grace: 1h}",
            "dataDir: /b\naccess: {grace: 2h}",
            "access.grace: 1h -> 2h",
            "dataDir: /a -> /b",
        );
        check(
            "proxy: {allowedRegistries: [a, b]}",
            "proxy: {allowedRegistries: [b]}",
            "proxy.allowedRegistries: a, b -> b",
            "",
        );
        check(
            "",
            "proxy: {registries: [{host: a, insecure: true}, {host: b}]}",
            "proxy.registries: (none with settings of its own) -> host: a, insecure: true, host: b",
            "",
        );
        check("", "proxy: {proxies: []}", "proxy.proxies: regx: blobs/sha256.* -> (nothing is cached)", "");
    }

    #[test]
    fn other_content_of_a_file_is_taken_up_although_another_file_needs_a_start() {
        let of = |path: &str, content: &[u8]| {
            let mut resolved = resolved(&format!("cluster: {{role: seed, secretFile: {path}}}"));
            let row = resolved.effective.iter_mut().find(|row| row.key == "cluster.secretFile");
            row.expect("a row").content = Some(blake3::hash(content));
            resolved
        };
        let running = of("/s", b"1");
        assert_eq!(of("/s", b"1").changes(&running), Changes::default());
        let rotated = of("/s", b"2");
        let changes = rotated.changes(&running);
        assert_eq!(shown(&changes.at_once), "cluster.secretFile: /s -> /s (other content)");
        assert_eq!(changes.at_restart, []);
        let running = rotated.taken_up_over(&running);
        assert_eq!(of("/s", b"2").changes(&running), Changes::default(), "it is told once");
        let moved = of("/t", b"3");
        for _ in 0..2 {
            let changes = moved.changes(&running);
            assert_eq!(changes.at_once, []);
            assert_eq!(shown(&changes.at_restart), "cluster.secretFile: /s -> /t");
        }
    }

    #[test]
    fn a_list_that_needs_a_start_is_named_each_time() {
        let running = resolved("cluster: {secretFile: /s, join: ['a:1']}");
        let new = resolved("cluster: {secretFile: /s, join: ['a:1', 'dns+srv://b']}");
        let told = "cluster.join: a:1 -> a:1, dns+srv://b";
        assert_eq!(shown(&new.changes(&running).at_restart), told);
        let running = new.clone().taken_up_over(&running);
        assert_eq!(shown(&new.changes(&running).at_restart), told);
    }

    #[test]
    fn a_file_with_other_content_is_a_change_of_its_list() {
        let of = |content: &[u8]| {
            let mut resolved = resolved("proxy: {registries: [{host: a, ca: /c}]}");
            let row = resolved.effective.iter_mut().find(|row| row.key.ends_with(".ca")).expect("a row");
            row.content = Some(blake3::hash(content));
            resolved
        };
        assert_eq!(of(b"1").changes(&of(b"1")), Changes::default());
        let changes = of(b"2").changes(&of(b"1"));
        let expected = "proxy.registries: host: a, ca: /c -> host: a, ca: /c (other content)";
        assert_eq!(shown(&changes.at_once), expected);
    }

    /// Two files that differ in the value of one key, as far as lists let it be one.
    fn differing_in(key: &str) -> [String; 2] {
        if key == "tracing.sampleRatio" {
            return ["0.5", "0.25"]
                .map(|ratio| format!("tracing: {{endpoint: http://a, sampleRatio: {ratio}}}"));
        }
        let Some(name) = key.strip_prefix("cluster.") else {
            return [String::new(), other_than_default(key)];
        };
        // What only means something beside an identity.
        let of = |role: &str, more: &str| format!("cluster: {{role: {role}, join: ['a:1'], {more}}}");
        let in_seed = |old: &str, new: &str| [of("seed", old), of("seed", new)];
        match name {
            "role" => ["peer", "seed"].map(|role| of(role, "secretFile: /s")),
            "join[]" => {
                ["['a:1']", "['a:1', 'b:1']"].map(|join| format!("cluster: {{secretFile: /s, join: {join}}}"))
            }
            "secretFile" => in_seed("secretFile: /s", "secretFile: /t"),
            "tls.ca" | "tls.cert" | "tls.key" => {
                let tls = "tls: {ca: x, cert: y, key: z}";
                let name = name.replacen("tls.", "", 1);
                let old = tls[tls.find(&name).expect("it is there")..][..name.len() + 3].to_owned();
                in_seed(tls, &tls.replace(&old, &format!("{name}: other")))
            }
            _ => {
                let value = match name {
                    "listen" => "127.0.0.2:7",
                    "advertise" => "10.0.0.1",
                    "zone" => "a",
                    "transport" => "tcp",
                    "limits.concurrentUploads" => "7",
                    _ => "1MiB",
                };
                let steps = name.split('.').rev();
                let more = steps.fold(value.to_owned(), |inner, step| match inner == value {
                    true => format!("{step}: {inner}"),
                    false => format!("{step}: {{{inner}}}"),
                });
                in_seed("secretFile: /s", &format!("secretFile: /s, {more}"))
            }
        }
    }

    /// A file with another value than the default for one key as lists let it be one.
    fn other_than_default(key: &str) -> String {
        let value = match key {
            "dataDir" => "/elsewhere",
            "storage.capacity" => "1GiB",
            "storage.taskExpireTime" => "6h",
            "storage.io" => "pool",
            "storage.scrub.rate" => "1MiB",
            "storage.scrub.interval" => "1d",
            "proxy.tcpListen.listen" | "health.tcpListen.listen" => "127.0.0.2",
            "proxy.tcpListen.port" | "health.tcpListen.port" | "pprofPort" => "7",
            "proxy.registryMirror.url" => "https://other.example",
            "proxy.registryMirror.dynamic" | "metrics.enable" => "false",
            "proxy.allowedRegistries[]" | "proxy.proxies[].regx" | "proxy.registries[].host" => "other",
            "proxy.defaultFilter" => "x",
            "health.tokenFile" => "/token",
            "access.proof" | "access.grace" => "1m",
            "download.prefetchRateLimit" => "1MiB",
            "sandbox.mode" => "required",
            "sandbox.user" => "darter",
            "shards" => "3",
            "tracing.endpoint" => "http://a:1",
            "log.format" => "json",
            _ => "true",
        };
        let beside = match key {
            "proxy.registries[].insecure" => "host: a, ",
            "proxy.registries[].ca" | "proxy.registries[].cert" | "proxy.registries[].key" => {
                return "proxy: {registries: [{host: a, ca: x, cert: y, key: z}]}".into();
            }
            "proxy.proxies[].direct" => "regx: a, ",
            _ => "",
        };
        let steps: Vec<&str> = key.split('.').collect();
        let last = steps.len() - 1;
        steps.iter().enumerate().rfold(value.to_owned(), |inner, (depth, step)| {
            match (step.strip_suffix("[]"), depth == last) {
                (Some(list), _) => format!("{{{list}: [{inner}]}}"),
                (None, true) => format!("{{{beside}{step}: {inner}}}"),
                (None, false) => format!("{{{step}: {inner}}}"),
            }
        })
    }

    #[test]
    fn the_table_and_the_settings_agree_on_what_a_start_takes_up() {
        for key in KEYS {
            let [running, new] = differing_in(key.path).map(|yaml| resolved(&yaml));
            let changes = new.changes(&running);
            let told = (changes.at_once.len(), changes.at_restart.len());
            let is_at_once = key.taken_up == TakenUp::AtOnce;
            assert_eq!(told, if is_at_once { (1, 0) } else { (0, 1) }, "{}", key.path);
            let taken_up = new.clone().taken_up_over(&running);
            let text = |settings: &Settings| format!("{settings:?}");
            assert_eq!(
                text(&taken_up.settings),
                text(if is_at_once { &new.settings } else { &running.settings }),
                "{}",
                key.path
            );
            // What waits for a start is named each time; what has been taken up is not.
            let again = new.changes(&taken_up);
            assert_eq!((again.at_once.len(), again.at_restart), (0, changes.at_restart), "{}", key.path);
        }
    }
}
