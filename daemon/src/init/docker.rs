//! docker: a mirror of Docker Hub in `daemon.json`. Pure.

use serde_json::{Value, json};

use super::json_edit::{parsed, with_first, with_member};
use super::plan::{Change, Plan, Refusal, Wanted, user_name};
use super::tree::Tree;

const FILE: &str = "/etc/docker/daemon.json";
const KEY: &str = "registry-mirrors";

pub(super) fn plan(tree: &dyn Tree, wanted: &Wanted) -> Result<Plan, Refusal> {
    if let Some(registry) = wanted.registries.iter().find(|registry| user_name(registry) != "docker.io") {
        return Err(Refusal::new(
            "--registry",
            format!("docker takes mirrors for Docker Hub alone, and not for {registry}; leave it out"),
        ));
    }
    let mirror = json!(format!("http://{}", wanted.front));
    let before = tree.text(FILE)?;
    // dockerd takes an empty file for an empty configuration.
    let text = before.as_deref().filter(|text| !text.trim().is_empty()).unwrap_or("{}\n");
    let refused = |why: String| {
        Refusal::new(FILE, format!("{why}; it was left alone: put it right, then say it again"))
    };
    let held = parsed(text).map_err(|error| refused(error.to_string()))?;
    let after = match held.get(KEY) {
        Some(Value::Array(mirrors)) if mirrors.contains(&mirror) => None,
        // Docker asks them in their order.
        Some(Value::Array(_)) => Some(with_first(text, &[KEY], &mirror)),
        Some(_) => return Err(refused(format!("{KEY} is no list"))),
        None => Some(with_member(text, &[], KEY, &json!([mirror]))),
    };
    let mut plan = Plan::default();
    if let Some(after) = after {
        let after = after.map_err(|error| refused(error.to_string()))?;
        plan.changes.push(Change {
            path: FILE.to_owned(),
            before: before.map(String::into_bytes),
            after: after.into_bytes(),
        });
        plan.next.push("have docker read it: systemctl reload docker (a restart is not needed)".to_owned());
        plan.next.push(format!(
            "if dockerd is started with --registry-mirror, take that out: it does not start with both (systemctl cat docker); \
             docker asks {FILE}'s mirrors for images of Docker Hub only"
        ));
        plan.next.push(
            "docker does not tell a mirror which registry it means: start the front with Docker Hub for that of requests \
             that name none, as it is without configuration (darter serve --registry https://index.docker.io)"
                .to_owned(),
        );
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::Files;
    use super::*;

    fn wanted() -> Wanted {
        Wanted::of(Vec::new())
    }

    fn check(before: Option<&str>, after: Option<&str>) {
        let files = Files::of(&before.map(|text| (FILE, text)).into_iter().collect::<Vec<_>>());
        let plan = plan(&files, &wanted()).expect("a plan");
        let written = plan.changes.first().map(|change| String::from_utf8_lossy(&change.after).into_owned());
        assert_eq!(written.as_deref(), after, "{before:?}");
    }

    #[test]
    fn the_mirror_comes_first_and_the_rest_stays() {
        let made = "{\n  \"registry-mirrors\": [\"http://127.0.0.1:65001\"]\n}\n";
        check(None, Some(made));
        check(Some(" \n"), Some(made));
        check(
            Some("{\n  \"log-driver\": \"local\"\n}\n"),
            Some(
                "{\n  \"registry-mirrors\": [\"http://127.0.0.1:65001\"],\n  \"log-driver\": \"local\"\n}\n",
            ),
        );
        check(
            Some("{\"registry-mirrors\": [\"https://m.example\"]}"),
            Some("{\"registry-mirrors\": [\"http://127.0.0.1:65001\", \"https://m.example\"]}"),
        );
        check(Some(made), None);
        // The front gives it what its own registry has.
        let next = plan(&Files::default(), &wanted()).expect("a plan").next;
        assert!(next.iter().any(|step| step.contains("--registry https://index.docker.io")), "{next:?}");
    }

    #[test]
    fn what_docker_would_not_read_is_left_alone() {
        for text in ["{", "[]", "{\"registry-mirrors\": \"http://a\"}", "{\"a\": 1} x"] {
            let refused = plan(&Files::of(&[(FILE, text)]), &wanted()).expect_err("refused").to_string();
            assert!(refused.contains("left alone"), "{refused}");
        }
        let other = Wanted { registries: vec!["https://ghcr.io".parse().expect("a registry")], ..wanted() };
        assert!(
            plan(&Files::default(), &other).expect_err("refused").to_string().contains("Docker Hub alone")
        );
    }

    /// The rules of docker's own check of a mirror: scheme http or https, a host, no path but `/`, no query, fragment
    /// or user.
    #[test]
    fn the_mirror_is_one_that_docker_takes() {
        let plan = plan(&Files::default(), &wanted()).expect("a plan");
        let written: Value = serde_json::from_slice(&plan.changes[0].after).expect("JSON");
        let url: url::Url = written[KEY][0].as_str().expect("text").parse().expect("a URL");
        assert!(url.scheme() == "http" && url.has_host() && url.path() == "/" && url.username().is_empty());
        assert!(url.query().is_none() && url.fragment().is_none());
    }
}
