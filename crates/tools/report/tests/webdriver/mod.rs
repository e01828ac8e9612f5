//! A headless Chromium, driven by `chromedriver`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox", // a container's root has no user namespaces
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

pub(crate) struct Browser {
    driver: Child,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Nothing if this machine has no `chromedriver`, or no browser for it.
    pub(crate) fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let profile = tempfile::tempdir().unwrap();
        let own = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<_> = ARGUMENTS.into_iter().chain([own.as_str()]).collect();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut browser = Self { driver, session: String::new(), _profile: profile };
        let sessions = format!("http://127.0.0.1:{}/session", port.expect("chromedriver has not started"));
        let session = post(&sessions, &capabilities);
        if session["message"].as_str().is_some_and(|message| message.to_lowercase().contains("chrome binary"))
        {
            return None;
        }
        browser.session = format!("{sessions}/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Opens a page in a window of this width, in the light or dark scheme.
    pub(crate) fn open(&self, url: &str, width: u32, dark: bool) {
        let size = json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500});
        self.command("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }});
        self.command("Emulation.setEmulatedMedia", &json!({"features": [scheme]}));
        post(&format!("{}/url", self.session), &json!({"url": url}));
    }

    fn command(&self, name: &str, parameters: &Value) {
        post(&format!("{}/goog/cdp/execute", self.session), &json!({"cmd": name, "params": parameters}));
    }

    /// What the body of a function returns on the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        post(&format!("{}/execute/sync", self.session), &json!({"script": script, "args": []}))
    }

    /// What the page has written to the console since the last call.
    pub(crate) fn console(&self) -> Value {
        post(&format!("{}/se/log", self.session), &json!({"type": "browser"}))
    }
}

impl Drop for Browser {
    /// Ends the browser by the end of its session.
    fn drop(&mut self) {
        if !self.session.is_empty() {
            _ = ureq::delete(&self.session).call();
        }
        _ = self.driver.kill();
        _ = self.driver.wait();
    }
}

fn post(url: &str, body: &Value) -> Value {
    let request = ureq::post(url).header("content-type", "application/json");
    let mut answer = request.config().http_status_as_error(false).build().send(body.to_string()).unwrap();
    let answer = answer.body_mut().read_to_string().unwrap();
    serde_json::from_str::<Value>(&answer).unwrap()["value"].take()
}
