//! A RAFS v6 image is mounted by unchanged nydusd code and read to the last byte, lazily, through the front:
//! on a node that has nothing of it, then by a client without anything on a node that has it.

use std::fs;

use darter::demo::registry::{Blob, Tally};
use darter_tests::need::{Need, need};
use darter_tests::nydus::{Config, Form, Places};
use darter_tests::{Daemon, Io, Origin, on_both_io};
use nydus_utils::compress;
use tempfile::TempDir;

use crate::nydus::image::Image;
use crate::nydus::mount::RafsMount;
use crate::nydus::tree::{Tree, plant};

mod nydus {
    pub(crate) mod image;
    pub(crate) mod mount;
    pub(crate) mod tree;
}

on_both_io!(a_built_image_by_proxy, a_built_image_by_host, an_uncompressed_image, the_sample_image);

const SEED: u64 = 0x7261_6673;

fn a_built_image_by_proxy(io: Io) {
    built_image("a_built_image_by_proxy", io, Form::Proxy, compress::Algorithm::Zstd);
}

fn a_built_image_by_host(io: Io) {
    built_image("a_built_image_by_host", io, Form::Host, compress::Algorithm::Zstd);
}

/// Chunks of a plain image are read whole megabytes at a time.
fn an_uncompressed_image(io: Io) {
    built_image("an_uncompressed_image", io, Form::Host, compress::Algorithm::None);
}

/// What is right is said by nydusd itself, reading the blob from a file.
fn the_sample_image(io: Io) {
    if !can_mount("the_sample_image") {
        return;
    }
    let image = Image::sample();
    let expected = mounted(&image, &Config::local(&image.blobs));
    assert!(!expected.is_empty(), "the sample has files");
    for form in [Form::Proxy, Form::Host] {
        cold_then_warm(io, &image, form, &expected);
    }
}

fn built_image(test: &str, io: Io, form: Form, compressor: compress::Algorithm) {
    if !can_mount(test) {
        return;
    }
    let (source, built) = (directory(), directory());
    plant(source.path(), SEED).expect("the tree can be written");
    let image = Image::build(source.path(), compressor, built.path());
    cold_then_warm(io, &image, form, &Tree::read(source.path()));
}

fn can_mount(test: &str) -> bool {
    need(test, &[Need::Root, Need::Fuse])
}

/// Mounts and reads twice through one front; the second client starts with an empty cache of its own.
fn cold_then_warm(io: Io, image: &Image, form: Form, expected: &Tree) {
    let origin = Origin::start();
    let blob = origin.add(Blob::file(&image.blob()).expect("the blob can be read"));
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    let registry = origin.registry().host();
    let places = Places {
        front: daemon.front().to_string(),
        admin: daemon.admin().to_string(),
        registry: registry.clone(),
        fallback: registry,
    };
    let config = Config::deployed(form, &places);

    mounted(image, &config).assert_same(expected);
    let cold = origin.blob_bytes();
    assert!((1..=blob.len()).contains(&cold), "the registry gave {cold} bytes of {}", blob.len());

    origin.forget();
    mounted(image, &config).assert_same(expected);
    assert_eq!(origin.registry().counts().blob_get, Tally::default(), "the warm front asked the registry");
}

/// What a client that has just been installed sees of the image.
fn mounted(image: &Image, config: &Config) -> Tree {
    let (cache, point) = (directory(), directory());
    let mut config = config.clone();
    config.set_cache(cache.path());
    let mount = RafsMount::new(&image.bootstrap, &config.text(), point.path());
    let tree = Tree::read(point.path());
    drop(mount);
    assert_eq!(fs::read_dir(point.path()).expect("the directory below the mount").count(), 0);
    tree
}

fn directory() -> TempDir {
    TempDir::with_prefix("darter-nydus-").expect("a temporary directory can be made")
}
