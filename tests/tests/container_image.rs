//! The image of `deploy/container`: what is in it, and that it serves as nobody's user, without a capability, with one
//! directory to write into.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::Duration;

use darter_tests::need::need;
use darter_tests::{Client, Container, ContainerImage, Daemon, Origin, Request, wait_until};
use serde_json::json;

const USER: u32 = 65532;
const MIB: u64 = 1 << 20;
const READY_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn it_serves_a_pull_as_nobodys_user_and_finds_it_again() {
    if !need("it_serves_a_pull_as_nobodys_user_and_finds_it_again", &ContainerImage::NEEDS) {
        return;
    }
    let image = ContainerImage::build();
    let config = image.config();
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/darter"]));
    assert_eq!(config["Cmd"], json!(["serve"]));
    let data = fs::metadata(image.root().join("var/lib/darter")).expect("a volume gets its owner from here");
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o777), (USER, USER, 0o700));
    assert!(image.root().join("etc/ssl/certs/ca-certificates.crt").exists(), "registries are not believed");
    for kept in ["src", "var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin"] {
        assert!(!image.root().join(kept).exists(), "/{kept} is of no use in the image");
    }

    let volume = tempfile::tempdir().expect("a temporary directory can be made");
    chown(volume.path(), Some(USER), Some(USER)).expect("root may");
    let (origin, (front, admin)) = (Origin::start(), Daemon::free_addresses());
    let (registry, listen, admin_listen) = (origin.url(), front.to_string(), admin.to_string());
    let args = [
        "serve",
        "--registry",
        &registry,
        "--front",
        &listen,
        "--admin",
        &admin_listen,
        "--capacity",
        "64MiB",
    ];
    let daemon = Container::specified(&image.runtime(&args, volume.path()));
    let blob = origin.blob(1, 8 * MIB);
    let pull = || {
        daemon.start();
        let ready = || {
            let answer = Client::new(admin).fetch(&Request::get("/readyz"));
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        wait_until(READY_WITHIN, ready, || format!("it is not ready: {}", daemon.log()));
        blob.read(&mut Client::new(front), blob.whole()).expect("a pull is served");
        // The first process of a container is asked to end, and does.
        daemon.stop();
    };
    pull();
    let given = origin.blob_bytes();
    assert_eq!(given, blob.len());
    pull();
    assert_eq!(origin.blob_bytes(), given, "what it had cached is lost: {}", daemon.log());
}
