//! podman, buildah, skopeo and CRI-O: a mirror in a file of its own in `registries.conf.d`. Pure.

use super::plan::{Change, Plan, Refusal, Wanted, first_line, user_name};
use super::tree::Tree;
use crate::config::{Registry, Scheme};

/// What all others take the place of.
const MAIN: &str = "/etc/containers/registries.conf";
const DIRECTORY: &str = "/etc/containers/registries.conf.d";
const NAME: &str = "darter.conf";

pub(super) fn plan(tree: &dyn Tree, wanted: &Wanted, is_crio: bool) -> Result<Plan, Refusal> {
    let hub = || "https://index.docker.io".parse().map_err(|_| Refusal::new("--registry", "is needed"));
    let registry = wanted.registries.first().cloned().map_or_else(hub, Ok)?;
    let name = user_name(&registry);
    let others = tree.names(DIRECTORY)?.into_iter().filter(|file| file != NAME && file.ends_with(".conf"));
    let (earlier, later): (Vec<_>, Vec<_>) = others.partition(|file| file.as_str() < NAME);
    let at = |file: String| format!("{DIRECTORY}/{file}");
    let mut plan = Plan::default();
    // Later files take the place of earlier ones, registry by registry and as a whole.
    let mut is_done = false;
    for path in std::iter::once(MAIN.to_owned()).chain(earlier.into_iter().map(at)) {
        match tree.text(&path)?.and_then(|text| configured(&text, &name)) {
            Some(there) if has_mirror(&there, wanted) => is_done = true,
            Some(_) => {
                let why = format!(
                    "configures {name} already, and a file of darter's would take the place of that, so nothing was \
                     written: add to it, behind that registry and before its other mirrors:\n{}",
                    mirror(wanted)
                );
                return Err(Refusal::new(path, why));
            }
            None => {}
        }
    }
    let path = format!("{DIRECTORY}/{NAME}");
    let after = text(&registry, wanted);
    match tree.text(&path)? {
        _ if is_done => {}
        Some(before) if before == after => {}
        Some(_) => {
            let why = "is there already and is not darter's work, so it was left alone: move it away, then say it again";
            return Err(Refusal::new(path, why));
        }
        None => plan.changes.push(Change { path, before: None, after: after.into_bytes() }),
    }
    for path in later.into_iter().map(at) {
        let there = tree.text(&path)?.and_then(|text| configured(&text, &name));
        if there.is_some_and(|there| !has_mirror(&there, wanted)) {
            plan.next.push(format!(
                "{path} configures {name} too, and takes the place of darter's file: add to it, behind that registry and \
                 before its other mirrors:\n{}",
                mirror(wanted)
            ));
        }
    }
    plan.next.push(format!(
        "these clients do not tell a mirror which registry they mean: start the front with darter serve --registry {registry}"
    ));
    if is_crio {
        plan.next.push("have CRI-O read it: systemctl reload crio".to_owned());
    }
    Ok(plan)
}

fn text(registry: &Registry, wanted: &Wanted) -> String {
    let name = user_name(registry);
    let insecure = match registry.scheme() {
        Scheme::Http => "# The registry itself speaks http.\ninsecure = true\n",
        Scheme::Https => "",
    };
    format!(
        "{}# When the front does not answer, the registry is asked itself.\n\n\
         [[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n{insecure}\n{}",
        first_line("podman"),
        mirror(wanted)
    )
}

fn mirror(wanted: &Wanted) -> String {
    format!(
        "[[registry.mirror]]\nlocation = \"{}\"\n# The front speaks http.\ninsecure = true\n",
        wanted.front
    )
}

/// What a file like `registries.conf` says of the registry with that name. One that cannot be read says nothing to
/// these clients either.
fn configured(text: &str, name: &str) -> Option<toml::Value> {
    let table = text.parse::<toml::Table>().ok()?;
    let mut registries = table.get("registry").and_then(toml::Value::as_array).into_iter().flatten();
    let is_it = |registry: &&toml::Value| {
        let of = |key: &str| registry.get(key).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
        of("prefix").or_else(|| of("location")) == Some(name)
    };
    registries.find(is_it).cloned()
}

fn has_mirror(registry: &toml::Value, wanted: &Wanted) -> bool {
    let front = wanted.front.to_string();
    let mut mirrors = registry.get("mirror").and_then(toml::Value::as_array).into_iter().flatten();
    mirrors.any(|mirror| mirror.get("location").and_then(toml::Value::as_str) == Some(&*front))
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::Files;
    use super::*;

    fn wanted(registry: Option<&str>) -> Wanted {
        let registries = registry.iter().map(|registry| registry.parse().expect("a registry")).collect();
        Wanted::of(registries)
    }

    fn after(plan: &Plan) -> toml::Table {
        String::from_utf8_lossy(&plan.changes[0].after).parse().expect("TOML")
    }

    #[test]
    fn it_is_what_deploy_gives() {
        let deployed = include_str!("../../../deploy/containers/registries.conf");
        let plan =
            plan(&Files::default(), &wanted(Some("https://registry.example.com")), false).expect("a plan");
        assert_eq!(after(&plan), deployed.parse().expect("TOML"));
        assert_eq!(plan.changes[0].path, "/etc/containers/registries.conf.d/darter.conf");
    }

    #[test]
    fn docker_hub_has_its_users_name_and_http_is_said() {
        let hub = after(&plan(&Files::default(), &wanted(None), false).expect("a plan"));
        assert_eq!(hub["registry"][0]["prefix"].as_str(), Some("docker.io"));
        assert!(hub["registry"][0].get("insecure").is_none());
        let plain = after(&plan(&Files::default(), &wanted(Some("http://r:5000")), false).expect("a plan"));
        assert_eq!(plain["registry"][0]["location"].as_str(), Some("r:5000"));
        assert_eq!(plain["registry"][0]["insecure"].as_bool(), Some(true));
    }

    #[test]
    fn others_files_are_left_alone_and_told() {
        let path = "/etc/containers/registries.conf.d/darter.conf";
        let refused =
            plan(&Files::of(&[(path, "mine")]), &wanted(None), false).expect_err("refused").to_string();
        assert!(refused.contains("left alone"), "{refused}");
        let theirs = "[[registry]]\nlocation = \"docker.io\"\n";
        let behind = format!("{DIRECTORY}/z.conf");
        let plan = plan(&Files::of(&[(&behind, theirs)]), &wanted(None), true).expect("a plan");
        assert!(
            plan.next[0].starts_with(&behind) && plan.next[0].contains("[[registry.mirror]]"),
            "{:?}",
            plan.next
        );
        assert!(plan.next.iter().any(|step| step.contains("reload crio")));
    }

    /// A file of darter's would silently take the place of what an earlier one says of that registry.
    #[test]
    fn what_earlier_files_say_of_the_registry_is_not_replaced() {
        let theirs = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"mirror.example\"\nblocked = true\n";
        let other = theirs.replace("docker.io", "quay.io");
        for path in [MAIN.to_owned(), format!("{DIRECTORY}/a.conf")] {
            let made = |text: &str| plan(&Files::of(&[(&path, text)]), &wanted(None), false);
            let refused = made(theirs).expect_err("refused").to_string();
            let (why, table) = refused.split_once('\n').expect("what to add");
            assert!(why.starts_with(&path) && why.contains("docker.io already"), "{refused}");
            // What it says to add is taken for done.
            assert_eq!(made(&format!("{theirs}\n{table}")).expect("a plan").changes, []);
            assert_eq!(made(&other).expect("a plan").changes.len(), 1);
        }
    }
}
