//! `darter get` of a whole image: an OCI layout, platform by platform, that a killed run has begun.

use std::fs;
use std::path::Path;
use std::time::Duration;

use darter::demo::registry::{self, Digest, RegistryOptions};
use darter_tests::one_answer::{OneAnswer, answer};
use darter_tests::{Daemon, Getter, Origin, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";
const OCI: &str = "application/vnd.oci.image";

fn daemon(origin: &Origin) -> Daemon {
    Daemon::builder().registry(&origin.url()).capacity("128MiB").prefetch(false).start()
}

/// An image for two platforms, whose larger layer is `layer`.
struct Image {
    origin: Origin,
    layers: [registry::Blob; 3],
    amd64: Digest,
}

impl Image {
    fn put(origin: Origin) -> Image {
        let layers =
            [(1, 6 * MIB), (2, 70_000), (3, 1)].map(|(seed, len)| registry::Blob::synthetic(seed, len));
        let mut amd64 = None;
        let mut manifests = Vec::new();
        for (architecture, layers) in [("arm64", &layers[2..]), ("amd64", &layers[..2])] {
            let config = json!({ "os": "linux", "architecture": architecture, "rootfs": {} }).to_string();
            let config = registry::Blob::bytes(config);
            for blob in layers.iter().chain([&config]) {
                origin.registry().add_blob(REPOSITORY, blob.clone());
            }
            let described: Vec<_> =
                layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect();
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": format!("{OCI}.manifest.v1+json"),
                "config": descriptor("config.v1+json", &config),
                "layers": described,
            });
            let body = manifest.to_string();
            let media_type = format!("{OCI}.manifest.v1+json");
            let digest =
                origin.registry().add_manifest(REPOSITORY, architecture, &media_type, body.clone().into());
            amd64 = Some(digest);
            manifests.push(json!({
                "mediaType": media_type,
                "digest": digest.to_string(),
                "size": body.len(),
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": manifests });
        let media_type = format!("{OCI}.index.v1+json");
        origin.registry().add_manifest(REPOSITORY, "1.0", &media_type, index.to_string().into());
        Image { origin, layers, amd64: amd64.expect("it was put in last") }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}{tag}", self.origin.registry().host())
    }
}

fn descriptor(media_type: &str, blob: &registry::Blob) -> Value {
    json!({ "mediaType": format!("{OCI}.{media_type}"), "digest": blob.digest().to_string(), "size": blob.len() })
}

/// Checks each blob against its name; how many there are.
fn right_blobs(layout: &Path) -> usize {
    let blobs: Vec<_> = fs::read_dir(layout.join("blobs/sha256")).expect("blobs").collect();
    for blob in &blobs {
        let path = blob.as_ref().expect("an entry").path();
        let found = Digest::of(&fs::read(&path).expect("a blob")).to_string();
        let name = path.file_name().and_then(|name| name.to_str());
        assert_eq!(name, found.strip_prefix("sha256:"));
    }
    blobs.len()
}

fn index_of(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON")
}

#[test]
fn an_image_becomes_an_oci_layout() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let amd64 = ["--plain-http", "--platform", "linux/amd64"];
    let got = getter.get(&[&[&*image.name(":1.0"), "--json"], &amd64[..]].concat()).json();
    let layout = getter.path();
    assert_eq!((&got["digest"], &got["platform"]), (&image.amd64.to_string().into(), &"linux/amd64".into()));
    assert_eq!((&got["layers"], &got["resumed_from_bytes"]), (&2.into(), &0.into()));
    assert_eq!(fs::read(layout.join("oci-layout")).expect("it"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(right_blobs(&layout), 4, "manifest, configuration and two layers");
    let index = index_of(&layout);
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], image.amd64.to_string());
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    assert_eq!(entry["platform"], json!({ "os": "linux", "architecture": "amd64" }));

    // The same again asks for no blob, and repairs one that is wrong.
    let hurt = layout.join("blobs/sha256").join(&image.layers[1].digest().to_string()["sha256:".len()..]);
    fs::write(&hurt, "hurt").expect("a blob can be overwritten");
    let again = getter.get(&[&[&*image.name(":1.0"), "--json"], &amd64[..]].concat()).json();
    assert_eq!(again["resumed_from_bytes"].as_u64(), again["length_bytes"].as_u64().map(|all| all - 70_000));
    assert_eq!(right_blobs(&layout), 4);

    // Another platform beside it.
    let got = getter.get(&[&image.name(":1.0"), "--plain-http", "--platform", "linux/arm64"]);
    assert_eq!(got.status, 0, "{got:?}");
    assert!(got.out.contains("linux/arm64"), "{got:?}");
    assert_eq!(right_blobs(&layout), 7);
    assert_eq!(index_of(&layout)["manifests"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_platform_that_is_not_there_is_told_with_those_that_are() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&image.name(":1.0"), "--plain-http", "--platform", "linux/riscv64"]);
    got.failed(3, &["linux/riscv64", "linux/arm64, linux/amd64", "--platform"]);
    // A tag of one image tells its platform in its configuration.
    let got = getter.get(&[&image.name(":arm64"), "--plain-http", "--platform", "linux/amd64"]);
    got.failed(3, &["is for linux/arm64 only"]);
    getter.get(&[&image.name(":2.0"), "--plain-http"]).failed(3, &["404", "MANIFEST_UNKNOWN"]);
}

#[test]
fn an_image_by_digest_is_that_image() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&image.name(&format!("@{}", image.amd64)), "--plain-http", "--json"]).json();
    assert_eq!(got["digest"], image.amd64.to_string());
    assert_eq!(index_of(&getter.path())["manifests"][0]["annotations"], Value::Null);
    // A registry that has another manifest under a digest than it says.
    let lying = OneAnswer::start(|_| {
        answer("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", b"{}")
    });
    let getter = Getter::new(lying.address);
    let got = getter.get(&[&image.name(&format!("@{}", image.amd64)), "--plain-http"]);
    got.failed(5, &["other bytes than its digest says"]);
    assert_eq!(getter.names(), [""; 0]);
}

#[test]
fn a_killed_image_is_gone_on_with() {
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let image = Image::put(origin);
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let digits = &image.layers[0].digest().to_string()["sha256:".len()..];
    let part = getter.path().join(format!("blobs/sha256/{digits}.part"));
    let part_bytes = || fs::metadata(&part).map_or(0, |part| part.len());
    let args = [&*image.name(":1.0"), "--plain-http", "--platform", "linux/amd64"];
    let mut child = getter.start(&args);
    wait_until(Duration::from_secs(60), || part_bytes() > 300_000, || "nothing comes".into());
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    let kept = part_bytes();
    assert!(kept < 6 * MIB && !getter.path().join("index.json").exists());
    let got = getter.get(&[&args[..], &["--json"]].concat()).json();
    assert!(got["resumed_from_bytes"].as_u64() >= Some(kept), "{got}");
    assert_eq!(right_blobs(&getter.path()), 4);
}
