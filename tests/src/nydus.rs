//! nydusd's configuration files that `deploy/nydus/` gives to users, pointed at the addresses of a test.
//!
//! Values are replaced, never keys: what the tests prove is the file that a user copies.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::origin::REPOSITORY;

/// How a nydusd is told about the front; which ones it understands depends on its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `mirrors` with `X-Dragonfly-Registry`: nydusd 2.1.0 to 2.3.4.
    Mirrors,
    /// `proxy`, requests in absolute form: nydusd 2.3.5 and later.
    Proxy,
    /// The front as the registry itself: every nydusd.
    Host,
}

/// Who is where, each as `HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Places {
    /// The mirror front.
    pub front: String,
    /// The admin port.
    pub admin: String,
    /// The registry that the front reads from.
    pub registry: String,
    /// What the client takes for its registry. It turns to this one when the front fails it, without a word.
    pub fallback: String,
}

/// A whole configuration file of nydusd.
#[derive(Clone, Debug)]
pub struct Config(Value);

impl Config {
    /// The file that `deploy/nydus/` has for that form, with the addresses of a test and without retries,
    /// which would hide a failure that the next attempt does not have.
    pub fn deployed(form: Form, places: &Places) -> Self {
        let mut config = Self(read(form));
        config.set_backend("/scheme", json!("http"));
        config.set_backend("/repo", json!(REPOSITORY));
        config.set_backend("/retry_limit", json!(0));
        let front = format!("http://{}", places.front);
        let ping = format!("http://{}/server/ping", places.admin);
        match form {
            Form::Mirrors => {
                config.set_backend("/host", json!(places.fallback));
                config.set_backend("/mirrors/0/host", json!(front));
                let registry = format!("http://{}", places.registry);
                config.set_backend("/mirrors/0/headers/X-Dragonfly-Registry", json!(registry));
                config.set_backend("/mirrors/0/ping_url", json!(ping));
            }
            Form::Proxy => {
                config.set_backend("/host", json!(places.registry));
                config.set_backend("/proxy/url", json!(front));
                config.set_backend("/proxy/ping_url", json!(ping));
            }
            Form::Host => config.set_backend("/host", json!(places.front)),
        }
        config
    }

    /// The same nydusd, reading blobs from files below `blobs` and not from a registry.
    pub fn local(blobs: &Path) -> Self {
        let mut config = Self(read(Form::Host));
        config.set("/device/backend", json!({ "type": "localfs", "config": { "dir": blobs } }));
        config
    }

    /// A file of somebody's, as nydusd reads it.
    ///
    /// # Panics
    /// When it is not there or no JSON.
    pub fn of_file(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
    }

    /// Without the front: what it was before anybody named one.
    pub fn without_proxy(mut self) -> Self {
        self.backend_mut().remove("proxy");
        self
    }

    /// Sends everything through the mirror, requests without `Authorization` too.
    pub fn set_auth_through(&mut self) {
        self.set_backend("/mirrors/0/auth_through", json!(true));
    }

    /// As a user does for a registry that knows the client by a fixed bearer token.
    pub fn add_registry_token(&mut self, token: &str) {
        self.backend_mut().insert("registry_token".to_owned(), json!(token));
    }

    /// As a user does for a registry with names and passwords: `NAME:PASSWORD` in base64.
    pub fn add_auth(&mut self, auth: &str) {
        self.backend_mut().insert("auth".to_owned(), json!(auth));
    }

    /// An empty directory for what the client has read.
    pub fn set_cache(&mut self, directory: &Path) {
        self.set("/device/cache/config/work_dir", json!(directory));
    }

    /// The settings of the registry backend alone.
    pub fn backend(&self) -> &Value {
        &self.0["device"]["backend"]["config"]
    }

    /// The file as nydusd reads it.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    fn set_backend(&mut self, pointer: &str, value: Value) {
        self.set(&format!("/device/backend/config{pointer}"), value);
    }

    fn set(&mut self, pointer: &str, value: Value) {
        let place = self.0.pointer_mut(pointer);
        *place.unwrap_or_else(|| panic!("the deployed configuration has no {pointer}")) = value;
    }

    fn backend_mut(&mut self) -> &mut serde_json::Map<String, Value> {
        let backend = self.0.pointer_mut("/device/backend/config");
        backend.and_then(Value::as_object_mut).expect("a registry backend has settings")
    }
}

fn read(form: Form) -> Value {
    let name = match form {
        Form::Mirrors => "nydusd-2.1-mirrors.json",
        Form::Proxy => "nydusd-2.3.5-proxy.json",
        Form::Host => "nydusd-2.3.5-host.json",
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nydus").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}
