//! nydusd and the nydus-snapshotter: the proxy of nydusd 2.3.5 and later, or the snapshotter's mirrors for older ones.
//! Pure.

use serde_json::{Value, json};

use super::json_edit::{parsed, with_member};
use super::plan::{Change, Plan, Refusal, Wanted, first_line, user_name};
use super::tree::Tree;
use crate::config::Registry;

/// The snapshotter's.
const CONFIG: &str = "/etc/nydus/config.toml";
/// Where it looks for nydusd's, unless that says another.
const NYDUSD_CONFIG: &str = "/etc/nydus/nydusd-config.json";
/// Where it would look for mirrors, if that said so.
const MIRRORS: &str = "/etc/nydus/certs.d";

pub(super) fn plan(tree: &dyn Tree, wanted: &Wanted) -> Result<Plan, Refusal> {
    let text = tree.text(CONFIG)?;
    let config = match &text {
        Some(text) => text.parse::<toml::Table>().map_err(|error| {
            Refusal::new(
                CONFIG,
                format!("it is no TOML ({}): put it right, then say it again", error.message()),
            )
        })?,
        None => toml::Table::new(),
    };
    let value = |section: &[&str], key: &str| -> Option<String> {
        let table = section.iter().try_fold(&config, |table, name| table.get(*name)?.as_table())?;
        table.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if wanted.every {
        let configured = wanted.nydusd_config.clone().or_else(|| value(&["daemon"], "nydusd_config"));
        proxy(tree, wanted, &configured.unwrap_or_else(|| NYDUSD_CONFIG.to_owned()))
    } else {
        mirrors(tree, wanted, value(&["remote", "mirrors_config"], "dir"))
    }
}

/// Requests in absolute form name their registry by themselves: one proxy is for all of them.
fn proxy(tree: &dyn Tree, wanted: &Wanted, path: &str) -> Result<Plan, Refusal> {
    let refused = |why: &str| Refusal::new(path, format!("{why}, so it was left alone"));
    let Some(before) = tree.text(path)? else {
        let why = "is not there: name the configuration of your nydusd with --nydusd-config FILE; deploy/nydus has \
                   whole ones";
        return Err(Refusal::new(path, why));
    };
    let held = parsed(&before).map_err(|error| refused(&error.to_string()))?;
    let Some((backend, kind)) = backend(&held) else {
        return Err(refused(
            "has no backend of nydusd, neither device.backend.config nor config.backend_config",
        ));
    };
    if kind != "registry" {
        return Err(refused(&format!("reads from a backend of type {kind}, and not from a registry")));
    }
    let proxy = json!({
        "url": format!("http://{}", wanted.front),
        "fallback": true,
        "ping_url": format!("http://{}/server/ping", wanted.admin),
        "check_interval": 5,
        "use_http": true,
    });
    let place = backend.iter().try_fold(&held, |value, name| value.get(*name));
    let mut plan = Plan::default();
    match place.and_then(|place| place.get("proxy")) {
        Some(there) if *there == proxy => return Ok(plan),
        Some(Value::Object(there)) if there.get("url").is_none_or(|url| url == "") => {
            return Err(refused("has an empty proxy: take it out, then say it again"));
        }
        Some(_) => return Err(refused("has a proxy of its own: take it out, then say it again")),
        None => {}
    }
    let after =
        with_member(&before, &backend, "proxy", &proxy).map_err(|error| refused(&error.to_string()))?;
    let change =
        Change { path: path.to_owned(), before: Some(before.into_bytes()), after: after.into_bytes() };
    plan.changes.push(change);
    plan.next
        .push("have the snapshotter read it: systemctl restart nydus-snapshotter (mounts stay)".to_owned());
    plan.next.push(
        "nydusd before 2.3.5 knows no ping_url and use_http: for it undo this, and name each registry with --registry"
            .to_owned(),
    );
    Ok(plan)
}

/// Where the settings of the backend are, and of which type it is: for FUSE, or for fscache.
fn backend(config: &Value) -> Option<(Vec<&'static str>, &str)> {
    const FUSE: [&str; 3] = ["device", "backend", "config"];
    const FSCACHE: [&str; 2] = ["config", "backend_config"];
    let (fuse, fscache) = (&config["device"]["backend"], &config["config"]);
    if fuse["config"].is_object() {
        return Some((FUSE.to_vec(), fuse["type"].as_str().unwrap_or_default()));
    }
    fscache["backend_config"]
        .is_object()
        .then(|| (FSCACHE.to_vec(), fscache["backend_type"].as_str().unwrap_or_default()))
}

/// A `hosts.toml` for each registry, which the snapshotter makes mirrors of.
fn mirrors(tree: &dyn Tree, wanted: &Wanted, directory: Option<String>) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    if directory.is_none() {
        plan.next
            .push(format!("add to {CONFIG}: [remote.mirrors_config] dir = \"{MIRRORS}\" (on two lines)"));
    }
    let directory = directory.unwrap_or_else(|| MIRRORS.to_owned());
    let directory = directory.trim_end_matches('/');
    for registry in &wanted.registries {
        let path = format!("{directory}/{}/hosts.toml", mirrored_name(registry));
        let after = hosts(registry, wanted);
        match tree.text(&path)? {
            Some(before) if before == after => {}
            Some(_) => {
                let why = "is there already and is not darter's work, so it was left alone: move it away, then say it again";
                return Err(Refusal::new(path, why));
            }
            None if plan.changes.iter().any(|change| change.path == path) => {}
            None => plan.changes.push(Change { path, before: None, after: after.into_bytes() }),
        }
    }
    plan.next
        .push("have the snapshotter read it: systemctl restart nydus-snapshotter (mounts stay)".to_owned());
    Ok(plan)
}

fn hosts(registry: &Registry, wanted: &Wanted) -> String {
    let (front, admin) = (wanted.front, wanted.admin);
    format!(
        "{}# The nydus-snapshotter gives it to nydusd as a mirror; when the front does not answer, nydusd goes to the registry.\n\n\
         [host.\"http://{front}\"]\n  ping_url = \"http://{admin}/server/ping\"\n  \
         [host.\"http://{front}\".header]\n    X-Dragonfly-Registry = \"{registry}\"\n",
        first_line("nydus")
    )
}

/// The directory that the snapshotter looks into for images of a registry.
fn mirrored_name(registry: &Registry) -> String {
    match user_name(registry).as_str() {
        "docker.io" => "index.docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::Files;
    use super::*;

    fn wanted(registries: &[&str]) -> Wanted {
        let registries = registries.iter().map(|registry| registry.parse().expect("a registry")).collect();
        Wanted::of(registries)
    }

    #[test]
    fn the_proxy_is_the_one_that_deploy_gives() {
        let deployed = include_str!("../../../deploy/nydus/nydusd-2.3.5-proxy.json");
        let meant: Value = serde_json::from_str(deployed).expect("JSON");
        let mut without = meant.clone();
        let backend = without.pointer_mut("/device/backend/config").and_then(Value::as_object_mut);
        backend.expect("a backend").remove("proxy");
        let files = Files::of(&[(NYDUSD_CONFIG, &format!("{without:#}\n"))]);
        let made = plan(&files, &wanted(&[])).expect("a plan");
        assert_eq!(serde_json::from_slice::<Value>(&made.changes[0].after).expect("JSON"), meant);

        let elsewhere = [(CONFIG, "[daemon]\nnydusd_config = \"/opt/n.json\"\n"), ("/opt/n.json", deployed)];
        assert_eq!(
            plan(&Files::of(&elsewhere), &wanted(&[])).expect("a plan"),
            Plan::default(),
            "it is there already"
        );
        let named = Wanted { nydusd_config: Some("/opt/n.json".into()), ..wanted(&[]) };
        assert!(plan(&Files::of(&elsewhere[1..]), &named).is_ok());
    }

    #[test]
    fn what_it_does_not_know_is_left_alone() {
        let check = |text: &str, words: &str| {
            let refused =
                plan(&Files::of(&[(NYDUSD_CONFIG, text)]), &wanted(&[])).expect_err("refused").to_string();
            assert!(refused.contains(words), "no {words:?} in {refused}");
        };
        let backend = |kind: &str, config: &str| {
            format!("{{\"device\": {{\"backend\": {{\"type\": \"{kind}\", \"config\": {config}}}}}}}")
        };
        check("{", "no JSON");
        check("{}", "no backend");
        check(&backend("oss", "{}"), "type oss");
        let fscache = "{\"config\": {\"backend_type\": \"registry\", \"backend_config\": {\"proxy\": 1}}}";
        check(fscache, "proxy of its own");
        check(&backend("registry", "{\"proxy\": {\"url\": \"http://other\"}}"), "proxy of its own");
        check(&backend("registry", "{\"proxy\": {}}"), "empty proxy");
        let missing = plan(&Files::default(), &wanted(&[])).expect_err("refused").to_string();
        assert!(missing.contains("--nydusd-config"), "{missing}");
    }

    #[test]
    fn older_ones_get_mirrors_of_named_registries() {
        let plan = plan(&Files::default(), &wanted(&["https://docker.io", "http://r:5000"])).expect("a plan");
        let paths: Vec<_> = plan.changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(
            paths,
            ["/etc/nydus/certs.d/index.docker.io/hosts.toml", "/etc/nydus/certs.d/r:5000/hosts.toml"]
        );
        assert!(plan.next[0].contains("[remote.mirrors_config]"), "{:?}", plan.next);
        let written: toml::Table = String::from_utf8_lossy(&plan.changes[1].after).parse().expect("TOML");
        let host = &written["host"]["http://127.0.0.1:65001"];
        assert_eq!(host["header"]["X-Dragonfly-Registry"].as_str(), Some("http://r:5000"));
        assert_eq!(host["ping_url"].as_str(), Some("http://127.0.0.1:40901/server/ping"));
        let set = Files::of(&[(CONFIG, "[remote.mirrors_config]\ndir = \"/m/\"\n")]);
        let plan = super::plan(&set, &wanted(&["https://ghcr.io"])).expect("a plan");
        assert_eq!((plan.changes[0].path.as_str(), plan.next.len()), ("/m/ghcr.io/hosts.toml", 1));
    }
}
