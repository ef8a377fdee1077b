//! `--stay`: what to try while everything is left running.

use super::client::blob_path;
use super::cluster::Cluster;
use super::load::{BOOT_REPO, IMAGE_REPO, IMAGE_TAG, Load};
use super::node::Node;
use super::registry::Registry;

/// Commands and configurations with the addresses of this run.
pub(super) fn hints(registry: &Registry, cluster: &mut Cluster, load: &Load) -> String {
    let seed = of_node(cluster.seed());
    let others: String = cluster.peers().iter().map(of_node).collect();
    let node = &cluster.peers()[0];
    let (origin, origin_host) = (registry.url(), registry.host());
    let (front, admin) = (format!("http://{}", node.front()), format!("http://{}", node.admin()));
    // The largest layer shows most.
    let layer = load.images[0].layers.iter().max_by_key(|layer| layer.len());
    let layer = blob_path(IMAGE_REPO, layer.unwrap_or(&load.images[0].config));
    let boot_blob = blob_path(BOOT_REPO, &load.boot_blobs[0]);
    format!(
        r#"
Still running: the registry at {origin} ({IMAGE_REPO}:{IMAGE_TAG}, {BOOT_REPO})
and a cluster of darters:
{seed}{others}
A layer, straight from the registry and through peer 1:
  curl -o /dev/null -w '%{{time_total}} s\n' {origin}{layer}
  curl -o /dev/null -w '%{{time_total}} s\n' -H 'X-Dragonfly-Registry: {origin}' {front}{layer}
A range, as nydusd reads:
  curl -sS -r 117610443-117773873 -H 'X-Dragonfly-Registry: {origin}' {front}{boot_blob} | wc -c
What it counted, and who is in its cluster:
  curl {admin}/metrics
  curl {admin}/api/v1/peers

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
"#
    )
}

/// A line of a node.
fn of_node(node: &Node) -> String {
    format!(
        "  {}: process {}, front http://{}, admin http://{}, data {}, log {}\n",
        node.name(),
        node.pid(),
        node.front(),
        node.admin(),
        node.data_dir().display(),
        node.log().display()
    )
}
