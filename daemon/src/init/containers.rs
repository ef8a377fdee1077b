//! podman, buildah, skopeo and CRI-O: a mirror in a file of its own in `registries.conf.d`. Pure.

use super::plan::{Change, Plan, Refusal, Wanted, first_line, user_name};
use super::tree::Tree;
use crate::config::{Registry, Scheme};

const DIRECTORY: &str = "/etc/containers/registries.conf.d";
const NAME: &str = "darter.conf";

pub(super) fn plan(tree: &dyn Tree, wanted: &Wanted, is_crio: bool) -> Result<Plan, Refusal> {
    let hub = || "https://index.docker.io".parse().map_err(|_| Refusal::new("--registry", "is needed"));
    let registry = wanted.registries.first().cloned().map_or_else(hub, Ok)?;
    let path = format!("{DIRECTORY}/{NAME}");
    let after = text(&registry, wanted);
    let before = tree.text(&path)?;
    let mut plan = Plan::default();
    match before {
        Some(before) if before == after => {}
        Some(_) => {
            let why = "is there already and is not darter's work, so it was left alone: move it away, then say it again";
            return Err(Refusal::new(path, why));
        }
        None => plan.changes.push(Change { path, before: None, after: after.into_bytes() }),
    }
    // Later files take the place of earlier ones, registry by registry.
    let later =
        tree.names(DIRECTORY)?.into_iter().filter(|name| name.as_str() > NAME && name.ends_with(".conf"));
    for name in later {
        let path = format!("{DIRECTORY}/{name}");
        if tree.text(&path)?.is_some_and(|text| names(&text, &user_name(&registry))) {
            plan.next.push(format!(
                "{path} configures {} too, and takes the place of darter's file: join them by hand",
                user_name(&registry)
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
         [[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n{insecure}\n\
         [[registry.mirror]]\nlocation = \"{}\"\n# The front speaks http.\ninsecure = true\n",
        first_line("podman"),
        wanted.front
    )
}

/// Whether a file of `registries.conf.d` configures a registry of that name.
fn names(text: &str, name: &str) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else { return false };
    let registries = table.get("registry").and_then(toml::Value::as_array);
    registries.into_iter().flatten().any(|registry| {
        let of = |key: &str| registry.get(key).and_then(toml::Value::as_str);
        of("prefix").or_else(|| of("location")) == Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::Files;
    use super::*;

    fn wanted(registry: Option<&str>) -> Wanted {
        let registries = registry.iter().map(|registry| registry.parse().expect("a registry")).collect();
        let address = |port| ([127, 0, 0, 1], port).into();
        Wanted { front: address(65001), admin: address(40901), registries, nydusd_config: None }
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
        let later = "[[registry]]\nlocation = \"docker.io\"\n";
        let at = |name: &str| format!("{DIRECTORY}/{name}");
        let (before, behind) = (at("a.conf"), at("z.conf"));
        let plan =
            plan(&Files::of(&[(&before, later), (&behind, later)]), &wanted(None), true).expect("a plan");
        assert_eq!(plan.next.iter().filter(|step| step.contains("join them")).count(), 1);
        assert!(plan.next[0].starts_with(&behind), "{:?}", plan.next);
        assert!(plan.next.iter().any(|step| step.contains("reload crio")));
    }
}
