//! `--stay`: what to try while everything is left running.

use super::client::blob_path;
use super::load::{BOOT_REPO, IMAGE_REPO, IMAGE_TAG, Load};
use super::node::Node;
use super::registry::Registry;

/// Commands and configurations with the addresses of this run.
pub(super) fn hints(registry: &Registry, node: &Node, load: &Load) -> String {
    let (origin, origin_host) = (registry.url(), registry.host());
    let (front, admin) = (format!("http://{}", node.front()), format!("http://{}", node.admin()));
    // The largest layer shows most.
    let layer = load.image.layers.iter().max_by_key(|layer| layer.len());
    let layer = blob_path(IMAGE_REPO, layer.unwrap_or(&load.image.config));
    let boot_blob = blob_path(BOOT_REPO, &load.boot_blob);
    format!(
        r#"
Still running: the registry at {origin} ({IMAGE_REPO}:{IMAGE_TAG}, {BOOT_REPO})
and darter, process {pid}, front {front}, data {data}, log {log}.

A layer, straight from the registry and through darter:
  curl -o /dev/null -w '%{{time_total}} s\n' {origin}{layer}
  curl -o /dev/null -w '%{{time_total}} s\n' -H 'X-Dragonfly-Registry: {origin}' {front}{layer}
A range, as nydusd reads:
  curl -sS -r 117610443-117773873 -H 'X-Dragonfly-Registry: {origin}' {front}{boot_blob} | wc -c
What darter counted:
  curl {admin}/metrics

nydusd 2.1 to 2.3, the backend of its configuration (with the registry and repository of an image of yours:
the demo's blob has the size of one, and random bytes in it):
  {{ "type": "registry", "config": {{
      "scheme": "http", "host": "{origin_host}", "repo": "{BOOT_REPO}",
      "mirrors": [ {{
        "host": "{front}", "auth_through": true,
        "headers": {{ "X-Dragonfly-Registry": "{origin}" }},
        "ping_url": "{admin}/server/ping" }} ] }} }}
containerd, /etc/containerd/certs.d/{origin_host}/hosts.toml:
  server = "{origin}"
  [host."{front}"]
    capabilities = ["pull", "resolve"]
    [host."{front}".header]
      X-Dragonfly-Registry = "{origin}"

Ctrl-C ends it all.
"#,
        pid = node.pid(),
        data = node.data_dir().display(),
        log = node.log().display(),
    )
}
