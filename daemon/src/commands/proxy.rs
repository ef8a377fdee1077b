//! `darter proxy init`: the authority by which clients of the forward proxy take this node for other hosts.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use url::Host;

use super::{CommandError, output};
use crate::termination::{Made, make};

/// In that directory: what clients are given.
const CERTIFICATE: &str = "ca.pem";
/// What nobody is given.
const KEY: &str = "ca-key.pem";

/// The flags of `darter proxy init`.
#[derive(Clone, Debug, Args)]
pub struct ProxyInitArgs {
    /// Write ca.pem and ca-key.pem into this directory, which is made if it is not there; neither is ever overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Have the authority believed for this host and names below it only; repeatable
    #[arg(long = "host", value_name = "HOST", value_parser = Host::parse)]
    hosts: Vec<Host>,
}

/// Writes a new authority, and says what to do with it.
///
/// # Errors
/// A file is there already; it cannot be written.
pub fn init(args: &ProxyInitArgs) -> Result<(), CommandError> {
    let [certificate, key] = [CERTIFICATE, KEY].map(|name| args.out.join(name));
    let made = make(&args.hosts, SystemTime::now())
        .map_err(|error| CommandError::Failed(format!("no authority can be made: {error}")))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&args.out)
        .map_err(|error| failed(&args.out, &error))?;
    write_both(&certificate, &key, &made)?;
    let for_whom = match args.hosts.as_slice() {
        [] => "every host; --host limits it".to_owned(),
        hosts => hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let (certificate, key) = (certificate.display(), key.display());
    output::print(&format!(
        "{certificate}: for clients of the forward proxy to believe; for {for_whom}\n\
         {key}: for the daemon alone. Whoever has it can be these hosts to whoever believes the other.\n\
         Name both in proxy.hijackHTTPS.cert and key, and hosts in proxy.hijackHTTPS.hosts; then say `darter reload`.\n"
    ))
}

/// Both files, or none.
fn write_both(certificate: &Path, key: &Path, made: &Made) -> Result<(), CommandError> {
    write_new(key, &made.key, 0o600).map_err(|error| failed(key, &error))?;
    write_new(certificate, &made.certificate, 0o644).map_err(|error| {
        // Just made, and in nobody's hands.
        let _ = fs::remove_file(key);
        failed(certificate, &error)
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn failed(path: &Path, error: &io::Error) -> CommandError {
    let path = path.display();
    CommandError::Failed(match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!(
                "{path} is there already; to begin anew remove it, and have clients believe the new ca.pem"
            )
        }
        _ => format!("{path} cannot be written: {error}"),
    })
}
