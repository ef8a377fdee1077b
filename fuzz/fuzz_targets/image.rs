//! What `darter get` reads: a line with the name of an image, from a person; a line with a media type and then an index
//! or manifest, from a registry.
//!
//! A name that is read is shown as one that means the same, and names a directory below the current one. Of a document
//! only what is a sha256 digest is asked for, and no more than an image can have.
#![no_main]

use std::path::{Component, Path};

use darter::commands::get::manifest::{Document, choose, platform_of_config};
use darter::commands::get::platform::Platform;
use darter::commands::get::reference::ImageReference;
use libfuzzer_sys::fuzz_target;

/// Layers of one image; daemon/src/commands/get/manifest.rs.
const LAYERS_MAX: usize = 1024;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let (name, content_type) = (text(), text());
    let body = lines.next().unwrap_or_default();
    if let Ok(reference) = ImageReference::parse(name, false) {
        assert_eq!(ImageReference::parse(&reference.to_string(), false).as_ref(), Ok(&reference));
        let directory = reference.directory_name();
        let mut components = Path::new(&directory).components();
        assert!(
            matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)),
            "{directory}"
        );
    }
    let _ = name.parse::<Platform>();
    let _ = platform_of_config(body);
    match Document::parse(body, Some(content_type)) {
        Ok(Document::Index(images)) => _ = choose(&images, &Platform::of_this_machine()),
        Ok(Document::Manifest { layers, .. }) => assert!(layers.len() <= LAYERS_MAX),
        Err(_) => {}
    }
});
