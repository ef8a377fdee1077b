//! A real headless Chromium, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>) through Debian's chromedriver.
//!
//! What is not in that standard goes through `goog/cdp/execute`: the size and theme of the screen, and pictures of the
//! whole page. Only loopback is ever asked.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need::Need;
use crate::process::{Process, command};
use crate::{Client, Request, free_at_localhost, wait_until};

/// What a test with a browser cannot do without.
pub const BROWSER: [Need; 2] = [
    Need::Program { name: "chromium", package: "chromium" },
    Need::Program { name: "chromedriver", package: "chromium-driver" },
];

/// The variable that names a directory for what a test leaves to be looked at.
pub const ARTEFACTS: &str = "DARTER_TEST_ARTEFACTS";
/// How long a page may take to come to what is waited for, on a machine that runs many tests at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one window. It ends when dropped.
#[derive(Debug)]
pub struct Browser {
    client: RefCell<Client>,
    session: String,
    _driver: Process,
    _home: TempDir,
}

/// A screen to look at a page on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Whether its owner prefers dark pages.
    pub is_dark: bool,
}

impl Browser {
    /// Starts one with a profile of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Browser {
        let home = TempDir::with_prefix("darter-test-browser-").expect("a temporary directory can be made");
        // chromedriver takes no socket and no address.
        let address = free_at_localhost();
        let mut driver = command("chromedriver");
        driver.arg(format!("--port={}", address.port())).env("HOME", home.path());
        let driver = Process::start(driver, home.path(), || TcpStream::connect(address).is_ok());
        let mut client = Client::new(address);
        let profile = home.path().join("profile").display().to_string();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            // Names that are not this machine's own lead nowhere.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*",
        ];
        let arguments: Vec<String> =
            arguments.map(str::to_owned).into_iter().chain([format!("--user-data-dir={profile}")]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = asked(&mut client, Request::post("/session").json(&wanted));
        let session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        Browser { client: client.into(), session, _driver: driver, _home: home }
    }

    /// Goes to a page, and returns when it has loaded.
    pub fn go_to(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What a function's body returns in the page.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    /// After a minute.
    pub fn wait_until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        wait_until(
            PATIENCE,
            || self.run(&script) == true,
            || format!("{expression} is not so; the page: {}", self.text("body")),
        );
    }

    /// The text of the first element that a selector means.
    ///
    /// # Panics
    /// When there is none.
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({}).textContent", json!(selector));
        self.run(&script).as_str().expect("an element has a text").to_owned()
    }

    /// Presses a key where the focus is: a character, or a code of WebDriver's as `\u{E004}` for Tab.
    pub fn press(&self, key: char) {
        let actions = [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }));
    }

    /// Looks at the page on that screen from now on.
    pub fn screen(&self, screen: Screen) {
        let Screen { width, height, is_dark } = screen;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.chromium("Emulation.setDeviceMetricsOverride", size);
        let theme = if is_dark { "dark" } else { "light" };
        let theme = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        self.chromium("Emulation.setEmulatedMedia", theme);
    }

    /// Keeps a picture of the whole page, as wide as the screen.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn keep_picture(&self, name: &str) -> PathBuf {
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight]");
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let taken =
            self.chromium("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": clip }));
        let png = STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64");
        let directory = artefacts();
        fs::create_dir_all(&directory).expect("a directory for artefacts can be made");
        let file = directory.join(format!("{name}.png"));
        fs::write(&file, png).expect("an artefact can be written");
        file
    }

    /// What the page has complained of since the last call: errors of scripts, what the policy has forbidden, what could
    /// not be loaded.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn chromium(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    fn post(&self, what: &str, body: &Value) -> Value {
        let request = Request::post(format!("/session/{}/{what}", self.session)).json(body);
        asked(&mut self.client.borrow_mut(), request)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session; its own process goes after that.
        let end = Request::delete(format!("/session/{}", self.session));
        let _ = self.client.borrow_mut().fetch(&end);
    }
}

/// Where pictures are kept: [`ARTEFACTS`], or a directory beside the build's results.
fn artefacts() -> PathBuf {
    let default = || crate::built("darter").with_file_name("test-artefacts");
    env::var_os(ARTEFACTS).map_or_else(default, PathBuf::from)
}

fn asked(client: &mut Client, request: Request) -> Value {
    let answer = client.fetch(&request).expect("chromedriver answers");
    let mut body: Value = serde_json::from_slice(&answer.body).expect("WebDriver speaks JSON");
    assert_eq!(answer.status(), 200, "{}", body["value"]["message"]);
    body["value"].take()
}
