//! containerd: a `hosts.toml` for every registry, or one for each that is named. Pure.
//!
//! `config.toml` is only read: where it does not name a directory of `hosts.toml` files, the user is told what to write
//! there. Editing it could keep containerd from starting.

use super::plan::{Change, Plan, Refusal, Wanted, first_line, user_name};
use super::tree::Tree;
use crate::config::Registry;

const CONFIG: &str = "/etc/containerd/config.toml";
const HOSTS: &str = "/etc/containerd/certs.d";
/// Where CRI keeps its registries, in versions 3 and 2 of the configuration.
const PLUGINS: [&str; 2] = ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"];

pub(super) fn plan(tree: &dyn Tree, wanted: &Wanted) -> Result<Plan, Refusal> {
    let (directory, mut next) = directory(tree)?;
    let mut plan = Plan::default();
    let every = wanted.every.then(|| ("_default".to_owned(), None));
    let named = wanted.registries.iter().map(|registry| (user_name(registry), Some(registry)));
    for (host, registry) in every.into_iter().chain(named) {
        let path = format!("{directory}/{host}/hosts.toml");
        let after = hosts(registry, wanted);
        match tree.text(&path)? {
            Some(before) if before == after || names_front(&before, wanted) => {}
            Some(_) => {
                let why = format!(
                    "is there already and is not darter's work, so it was left alone: move it away, or add to it, above \
                     other hosts:\n{}",
                    host_table(wanted, registry)
                );
                return Err(Refusal::new(path, why));
            }
            None if plan.changes.iter().any(|change: &Change| change.path == path) => {}
            None => plan.changes.push(Change { path, before: None, after: after.into_bytes() }),
        }
    }
    if wanted.every {
        next.extend(hosts_of_their_own(tree, &directory, wanted)?);
    }
    if next.is_empty() {
        next.push("nothing: containerd reads hosts.toml at each pull (ctr: with --hosts-dir)".to_owned());
    }
    plan.next = next;
    Ok(plan)
}

/// What is to be done for registries with files that are not darter's: containerd looks into the default only for
/// those that have none.
fn hosts_of_their_own(tree: &dyn Tree, directory: &str, wanted: &Wanted) -> Result<Vec<String>, Refusal> {
    let mut steps = Vec::new();
    for host in tree.names(directory)?.into_iter().filter(|host| host != "_default") {
        if wanted.registries.iter().any(|registry| user_name(registry) == host) {
            continue;
        }
        let path = format!("{directory}/{host}/hosts.toml");
        match tree.text(&path) {
            Ok(Some(text)) if !names_front(&text, wanted) => steps.push(format!(
                "{path} is not darter's, and {host} goes past darter: to have it read so too, add to that file, above \
                 other hosts:\n{}",
                host_table(wanted, server(&text).as_ref())
            )),
            Ok(_) => {}
            Err(error) => steps.push(format!("{host} may go past darter: {error}")),
        }
    }
    Ok(steps)
}

/// Whether a `hosts.toml` has the front among its hosts.
fn names_front(text: &str, wanted: &Wanted) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else { return false };
    let hosts = table.get("host").and_then(toml::Value::as_table);
    let front = format!("http://{}", wanted.front);
    hosts.is_some_and(|hosts| hosts.keys().any(|host| host.trim_end_matches('/') == front))
}

/// The registry that a `hosts.toml` is for, if it says so.
fn server(text: &str) -> Option<Registry> {
    text.parse::<toml::Table>().ok()?.get("server")?.as_str()?.parse().ok()
}

/// Every registry, where containerd says by `ns` which is meant; or one, which the header names with its scheme.
fn hosts(registry: Option<&Registry>, wanted: &Wanted) -> String {
    let server = registry.map(|registry| format!("server = \"{registry}\"\n\n")).unwrap_or_default();
    format!(
        "{}# When the front does not answer, containerd goes to the registry itself.\n\n{server}{}",
        first_line("containerd"),
        host_table(wanted, registry)
    )
}

fn host_table(wanted: &Wanted, registry: Option<&Registry>) -> String {
    let front = wanted.front;
    let header = registry.map(|registry| {
        format!("  [host.\"http://{front}\".header]\n    X-Dragonfly-Registry = \"{registry}\"\n")
    });
    format!(
        "[host.\"http://{front}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{}",
        header.unwrap_or_default()
    )
}

/// Where containerd looks for `hosts.toml` files, and what has to be done for it to look there.
fn directory(tree: &dyn Tree) -> Result<(String, Vec<String>), Refusal> {
    let Some(text) = tree.text(CONFIG)? else {
        let step = format!(
            "{CONFIG} is not there: containerd 2 looks into {HOSTS} by itself; for containerd 1 write {}",
            lines(2)
        );
        return Ok((HOSTS.to_owned(), vec![step]));
    };
    let refused = |error: toml::de::Error| {
        Refusal::new(CONFIG, format!("it is no TOML ({}): put it right, then say it again", error.message()))
    };
    let config: toml::Table = text.parse().map_err(refused)?;
    let plugins = config.get("plugins");
    let registries =
        PLUGINS.iter().filter_map(|plugin| plugins?.get(*plugin)?.get("registry")).collect::<Vec<_>>();
    let path = registries.iter().find_map(|registry| registry.get("config_path")?.as_str());
    // A list of directories, of which each is looked into.
    let first = path.and_then(|path| path.split(':').find(|path| path.starts_with('/')));
    if let Some(first) = first {
        return Ok((first.trim_end_matches('/').to_owned(), Vec::new()));
    }
    let version = config.get("version").and_then(toml::Value::as_integer).unwrap_or(1);
    let mut steps = Vec::new();
    if registries.iter().any(|registry| registry.get("mirrors").is_some()) {
        steps.push(format!(
            "take registry.mirrors out of {CONFIG}: containerd takes either those or a config_path"
        ));
    }
    let with_tls = registries.iter().filter_map(|registry| registry.get("configs")?.as_table()).flatten();
    let with_tls = with_tls.filter(|(_, config)| config.get("tls").is_some()).map(|(host, _)| &**host);
    let with_tls: Vec<_> = with_tls.collect();
    if !with_tls.is_empty() {
        steps.push(format!(
            "first move registry.configs.*.tls of {} out of {CONFIG} into {HOSTS}/HOST/hosts.toml (as ca, client and \
             skip_verify): containerd does not start with those and a config_path; then say this command again",
            with_tls.join(", ")
        ));
    }
    let imports =
        config.get("imports").and_then(toml::Value::as_array).is_some_and(|imports| !imports.is_empty());
    let unless = if imports { ", unless one of the files that it imports has it already" } else { "" };
    steps.push(format!("add to {CONFIG}{unless}: {}", lines(version)));
    steps.push("then restart it: systemctl restart containerd (containers go on)".to_owned());
    Ok((HOSTS.to_owned(), steps))
}

fn lines(version: i64) -> String {
    let plugin = if version >= 3 { PLUGINS[0] } else { PLUGINS[1] };
    format!("[plugins.\"{plugin}\".registry] config_path = \"{HOSTS}\" (on two lines)")
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::Files;
    use super::*;

    fn wanted(registries: &[&str]) -> Wanted {
        let registries = registries.iter().map(|registry| registry.parse().expect("a registry")).collect();
        Wanted::of(registries)
    }

    fn set(path: &str) -> String {
        format!("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{path}\"\n")
    }

    fn after(plan: &Plan) -> toml::Table {
        String::from_utf8_lossy(&plan.changes[0].after).parse().expect("TOML")
    }

    #[test]
    fn it_is_what_deploy_gives() {
        let files = Files::of(&[(CONFIG, &set(HOSTS))]);
        let every = plan(&files, &wanted(&[])).expect("a plan");
        assert_eq!(every.changes[0].path, "/etc/containerd/certs.d/_default/hosts.toml");
        let deployed = include_str!("../../../deploy/containerd/_default/hosts.toml");
        assert_eq!(after(&every), deployed.parse().expect("TOML"));
        assert_eq!(every.next.len(), 1);
        let one = plan(&files, &wanted(&["https://registry.example.com"])).expect("a plan");
        assert_eq!(one.changes[0].path, "/etc/containerd/certs.d/registry.example.com/hosts.toml");
        let deployed = include_str!("../../../deploy/containerd/registry.example.com/hosts.toml");
        assert_eq!(after(&one), deployed.parse().expect("TOML"));
    }

    #[test]
    fn registries_are_named_as_users_name_them() {
        let files = Files::of(&[(CONFIG, &set("/a/b/:/c"))]);
        let plan = plan(&files, &wanted(&["https://index.docker.io", "http://r:5000", "http://r:5000"]))
            .expect("a plan");
        let paths: Vec<_> = plan.changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["/a/b/docker.io/hosts.toml", "/a/b/r:5000/hosts.toml"]);
    }

    #[test]
    fn a_config_path_that_is_missing_is_asked_for() {
        let check = |config: Option<&str>, words: &[&str]| {
            let files = Files::of(&config.map(|text| (CONFIG, text)).into_iter().collect::<Vec<_>>());
            let next = plan(&files, &wanted(&[])).expect("a plan").next.join("\n");
            for word in words {
                assert!(next.contains(word), "no {word:?} in {next}");
            }
        };
        check(None, &["is not there", "io.containerd.grpc.v1.cri"]);
        check(Some("version = 2\n"), &["io.containerd.grpc.v1.cri", "config_path", "restart containerd"]);
        check(Some("version = 3\nimports = [\"/a\"]\n"), &["io.containerd.cri.v1.images", "imports"]);
        check(Some(&set("")), &["config_path"]);
        let mirrors =
            "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n";
        check(Some(mirrors), &["take registry.mirrors out"]);
        let tls = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r:5000\".tls]\nca_file = \"/c\"\n";
        check(Some(tls), &["configs.*.tls of r:5000", "hosts.toml", "config_path = "]);
    }

    #[test]
    fn others_files_are_left_alone_and_told() {
        let own = "/etc/containerd/certs.d/_default/hosts.toml";
        let refused =
            plan(&Files::of(&[(own, "server = \"x\"")]), &wanted(&[])).expect_err("refused").to_string();
        assert!(
            refused.contains("left alone") && refused.contains("[host.\"http://127.0.0.1:65001\"]"),
            "{refused}"
        );
        assert!(super::plan(&Files::of(&[(CONFIG, "[")]), &wanted(&[])).is_err());
        let plain = "/etc/containerd/certs.d/r:5000/hosts.toml";
        let refused = plan(&Files::of(&[(plain, "server = \"x\"")]), &wanted(&["http://r:5000"]))
            .expect_err("refused")
            .to_string();
        assert!(refused.contains("X-Dragonfly-Registry = \"http://r:5000\""), "{refused}");
    }

    /// What the report says to add to a file is taken for done when it is in there.
    #[test]
    fn hosts_with_files_of_their_own_are_told_what_to_add() {
        let at = |host: &str| format!("{HOSTS}/{host}/hosts.toml");
        let (secure, plain) = (at("ghcr.io"), at("r:5000"));
        let of_plain = "server = \"http://r:5000\"\n";
        let config = set(HOSTS);
        let files = Files::of(&[(&secure, ""), (&plain, of_plain), (CONFIG, &config)]);
        let made = plan(&files, &wanted(&[])).expect("a plan");
        assert_eq!(made.next.len(), 2, "{:?}", made.next);
        let table = |step: &str| step.split_once('\n').expect("a table").1.to_owned();
        let header = |table: &str| {
            let table: toml::Table = table.parse().expect("TOML");
            table["host"]["http://127.0.0.1:65001"].get("header").cloned()
        };
        assert!(
            made.next[0].starts_with(&secure) && header(&table(&made.next[0])).is_none(),
            "{:?}",
            made.next
        );
        let said = header(&table(&made.next[1])).expect("its scheme is said");
        assert_eq!(said["X-Dragonfly-Registry"].as_str(), Some("http://r:5000"));

        let (secured, plained) = (table(&made.next[0]), format!("{of_plain}{}", table(&made.next[1])));
        let files = Files::of(&[(&secure, &secured), (&plain, &plained), (CONFIG, &config)]);
        let made = plan(&files, &wanted(&[])).expect("a plan");
        assert!(made.next.len() == 1 && made.next[0].starts_with("nothing"), "{:?}", made.next);
        let made = plan(&files, &wanted(&["https://ghcr.io"])).expect("it is there");
        assert_eq!(made.changes, []);
    }

    #[test]
    fn what_was_asked_for_earlier_stays() {
        let both = Wanted { every: true, ..wanted(&["https://a", "https://b"]) };
        let made = plan(&Files::default(), &both).expect("a plan");
        let paths: Vec<_> = made.changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/etc/containerd/certs.d/_default/hosts.toml",
                "/etc/containerd/certs.d/a/hosts.toml",
                "/etc/containerd/certs.d/b/hosts.toml"
            ]
        );
    }
}
