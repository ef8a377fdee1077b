//! Debian's `prometheus`, that scrapes daemons on loopback each second and answers queries.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;
use url::form_urlencoded;

use crate::daemon::free_address;
use crate::deployed;
use crate::need::Need;
use crate::process::{self, Process};
use crate::{Client, Request};

/// A running Prometheus with the rules of `deploy/` and a directory of its own. Ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl Prometheus {
    /// What a test needs for it.
    pub const NEED: Need = Need::Program { name: "prometheus", package: "prometheus" };

    /// Starts it as the job `darter` of these admin ports, and waits until it answers.
    ///
    /// # Panics
    /// When it does not, as with rules that it cannot read.
    pub fn start(targets: &[SocketAddr]) -> Self {
        let home = TempDir::with_prefix("darter-prometheus-").expect("a temporary directory can be made");
        let rules = home.path().join("alerts.yaml");
        fs::write(&rules, deployed("prometheus/alerts.yaml", &[])).expect("the rules can be written");
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: darter\n    static_configs: [{{ targets: [{}] }}]\n",
            rules.display(),
            targets.join(", ")
        );
        let file = home.path().join("prometheus.yml");
        fs::write(&file, config).expect("the configuration can be written");
        let address = free_address();
        let mut command = process::command("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", home.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let ready = Request::get("/-/ready");
        let ready = || Client::new(address).fetch(&ready).is_ok_and(|answer| answer.status() == 200);
        let process = Process::start(command, home.path(), ready);
        Self { address, _process: process, _home: home }
    }

    /// The series that an expression gives now, each with its labels under `metric`.
    ///
    /// # Errors
    /// It is none that Prometheus understands; what it says.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let query: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let answer = self.api(&format!("query?query={query}"));
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.clone()),
            None => Err(answer.to_string()),
        }
    }

    /// The rules of all groups, each with its `name`, `query`, `labels`, `annotations`, `health` and `lastError`.
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.api("rules");
        let groups = answer["data"]["groups"].as_array().unwrap_or_else(|| panic!("no groups: {answer}"));
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// What is scraped, each with its `health` and `lastError`.
    pub fn targets(&self) -> Vec<Value> {
        self.api("targets")["data"]["activeTargets"].as_array().cloned().unwrap_or_default()
    }

    fn api(&self, call: &str) -> Value {
        let answer = Client::new(self.address).fetch(&Request::get(format!("/api/v1/{call}")));
        let answer = answer.expect("Prometheus answers");
        serde_json::from_slice(&answer.body).expect("Prometheus answers with JSON")
    }
}
