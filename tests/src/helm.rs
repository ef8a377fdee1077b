//! The chart of `deploy/helm/darter`, rendered by helm itself, without a cluster.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{Ran, ran};
use crate::need::Need;
use crate::{process, yaml};

/// The release and the namespace of every rendering.
const RELEASE: [&str; 3] = ["darter", "--namespace", "darter-system"];

/// One helm.
#[derive(Clone, Copy, Debug)]
pub struct Helm(&'static str);

/// What the chart comes to.
#[derive(Debug)]
pub struct Rendered {
    /// As it is given to Kubernetes.
    pub text: String,
    /// Each object.
    pub objects: Vec<Value>,
    /// What the person at the command line is told; empty of the older helm, which asks a cluster before it tells.
    pub notes: String,
}

impl Helm {
    /// The newest, and the last of the major before.
    pub const BOTH: [Helm; 2] = [Helm("helm"), Helm("helm3")];
    /// What a test needs for both.
    pub const NEEDS: [Need; 2] =
        [Need::Tool { name: "helm", cure: Self::CURE }, Need::Tool { name: "helm3", cure: Self::CURE }];
    /// How one comes by them.
    pub const CURE: &str = "run tests/tools/kubernetes DIRECTORY, and put DIRECTORY/bin into PATH";

    /// Where the chart is.
    pub fn chart() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/darter")
    }

    /// Any command on the chart.
    pub fn run(self, args: &[&str]) -> Ran {
        self.run_in(Path::new("/"), args)
    }

    /// Any command, in a directory.
    pub fn run_in(self, directory: &Path, args: &[&str]) -> Ran {
        let mut helm = process::command(self.0);
        helm.current_dir(directory);
        // Nothing of the person who runs the tests, and no cluster of theirs.
        helm.args(args).env("HOME", "/nonexistent").env("KUBECONFIG", "/nonexistent");
        ran(helm)
    }

    /// The chart with these files of values, each laid over the one before.
    ///
    /// # Panics
    /// When helm refuses them.
    pub fn render(self, values: &[&Path]) -> Rendered {
        let template = self.over("template", values, &[]);
        assert_eq!(template.status, 0, "{self:?}: {}", template.err);
        let notes = if self.needs_no_cluster() {
            let install = self.over("install", values, &["--dry-run=client"]);
            assert_eq!(install.status, 0, "{self:?}: {}", install.err);
            install.out.split_once("NOTES:\n").expect("there are notes").1.to_owned()
        } else {
            String::new()
        };
        Rendered { objects: yaml::documents(&template.out), text: template.out, notes }
    }

    /// Whether it installs for a try without a cluster.
    pub fn needs_no_cluster(self) -> bool {
        self.0 == "helm"
    }

    /// What helm says to values that it refuses.
    ///
    /// # Panics
    /// When it takes them.
    pub fn refused(self, values: &[&Path]) -> String {
        let template = self.over("template", values, &[]);
        assert_ne!(template.status, 0, "{self:?} takes them: {}", template.out);
        template.err
    }

    fn over(self, command: &str, values: &[&Path], more: &[&str]) -> Ran {
        let chart = Self::chart();
        let mut args =
            vec![command, RELEASE[0], chart.to_str().expect("a plain path"), RELEASE[1], RELEASE[2]];
        for values in values {
            args.extend(["--values", values.to_str().expect("a plain path")]);
        }
        args.extend(more);
        self.run(&args)
    }
}

impl Rendered {
    /// The only object of this kind and name.
    ///
    /// # Panics
    /// When there is none.
    pub fn object(&self, kind: &str, name: &str) -> &Value {
        let found = self.find(kind, name);
        found.unwrap_or_else(|| panic!("no {kind} {name} in {}", self.text))
    }

    /// It, if there is one.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// darter's configuration in the ConfigMap of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn configuration(&self, name: &str) -> &str {
        self.object("ConfigMap", name)["data"]["darter.yaml"].as_str().expect("a file")
    }
}
