//! Which files a daemon needs while it runs: those of its own, those that its configuration names, and those that the
//! system's resolver, its certificates and the runtime read.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::Paths;
use crate::config::{IdentitySource, Inputs, Settings};

/// What stays open to a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Directories in which files are made, written and removed.
    pub written: Paths,
    /// Files, and directories with all that is in them, that are read.
    pub read: Paths,
    /// TCP ports that may still be bound; `None`: any, since the system is to choose one.
    pub bound: Option<Vec<u16>>,
    /// Whether rings are used; otherwise nobody makes one.
    pub io_uring: bool,
}

/// Read by the system's resolver (glibc's or musl's), the runtime and the allocator. What is not there is left out.
const READ: &[&str] = &[
    // Modules of the resolver that are loaded when the first name is looked up.
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    // What systemd's and other resolvers write, to which /etc/resolv.conf leads.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    // How many processors there are, and how much of them and of memory may be used.
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/proc/self",
    "/proc/sys/vm/overcommit_memory",
    "/dev/null",
];

/// Of `/etc`, where not all of it is read.
const READ_IN_ETC: &[&str] =
    &["resolv.conf", "hosts", "host.conf", "nsswitch.conf", "gai.conf", "services", "protocols", "localtime"];

/// Certificates of authorities, as distributions keep them: directories, the files that their names lead to, and bundles.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki/ca-trust-source",
    "/usr/share/ssl/certs",
    "/var/lib/ca-certificates",
];

/// Directories of many: a file in one of them is read, and what is beside it is not.
const SHARED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/usr/local/etc",
    "/var",
    "/var/lib",
    "/var/run",
    "/var/tmp",
];

impl Rules {
    /// Of a daemon with that configuration. `home` is that of its user, whose other files are none of its business;
    /// `is_root`: it reads files that others may not.
    #[must_use]
    pub fn of(inputs: &Inputs, settings: &Settings, is_root: bool) -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let mut read: Paths = READ.iter().chain(CERTIFICATES).map(PathBuf::from).collect();
        let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(env::var_os);
        read.extend(variables.flat_map(|value| env::split_paths(&value).collect::<Vec<_>>()));
        // A rule is for the file that is there now, and tools replace resolv.conf by a new one. What strangers may read
        // in /etc is no secret; what only root may is why root does not get all of it.
        match is_root {
            true => read.extend(READ_IN_ETC.iter().map(|name| Path::new("/etc").join(name))),
            false => read.push("/etc".into()),
        }
        // Names of functions for profiles.
        read.extend(settings.pprof_port.and_then(|_| env::current_exe().ok()));
        for named in named(inputs, settings) {
            read.extend(around(&named, home.as_deref()));
        }
        // Somebody may have moved the slabs to another disk, and left a link.
        let written = vec![settings.data_dir.clone(), settings.data_dir.join("store")];
        let ports = || settings.cluster.iter().map(|cluster| cluster.listen.port());
        let bound = ports().all(|port| port != 0).then(|| ports().collect());
        Self { written, read, bound, io_uring: true }
    }
}

/// The files that a configuration is made of.
fn named(inputs: &Inputs, settings: &Settings) -> Paths {
    let mut named: Paths = inputs.file.iter().cloned().collect();
    match settings.cluster.as_ref().map(|cluster| &cluster.identity) {
        Some(IdentitySource::Secrets(file)) => named.push(file.clone()),
        Some(IdentitySource::Files { ca, cert, key }) => named.extend([ca, cert, key].map(PathBuf::clone)),
        None => {}
    }
    named.extend(settings.admin_token.as_ref().map(|token| token.path().to_owned()));
    for registry in &settings.registries {
        let files = registry.tls.files();
        named.extend([files.ca, files.certificate, files.key].into_iter().flatten());
    }
    named
}

/// The file itself, and the directory that it is in, so that a new file of that name is read too: that of the name, as
/// Kubernetes changes what is behind a link there, and that of what the name leads to. Not a directory of many.
fn around(file: &Path, home: Option<&Path>) -> Paths {
    let is_own = |directory: &PathBuf| {
        let home = home.and_then(|home| fs::canonicalize(home).ok());
        !SHARED.iter().any(|shared| directory == Path::new(shared)) && home.as_ref() != Some(directory)
    };
    let parent = match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return vec![file.to_owned()],
    };
    let target = fs::canonicalize(file).ok();
    let target_parent = target.as_deref().and_then(Path::parent).map(Path::to_owned);
    let directories = [fs::canonicalize(parent).ok(), target_parent];
    let mut paths = vec![file.to_owned()];
    paths.extend(directories.into_iter().flatten().filter(is_own));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    /// The rules of a configuration with that text in a directory of its own.
    fn rules(text: &str, is_root: bool) -> (tempfile::TempDir, Rules) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("darter.yaml");
        fs::write(&file, text).unwrap();
        let inputs = Inputs { file: Some(file), overrides: Vec::new() };
        let settings = load(inputs.file.as_deref(), &[]).unwrap().settings;
        (home, Rules::of(&inputs, &settings, is_root))
    }

    #[test]
    fn only_the_data_directory_is_written() {
        let (_home, rules) = rules("dataDir: /var/lib/darter", true);
        assert_eq!(rules.written, ["/var/lib/darter", "/var/lib/darter/store"].map(PathBuf::from));
        assert_eq!(rules.bound, Some(Vec::new()));
    }

    #[test]
    fn what_is_beside_the_configuration_is_read_too() {
        let (home, rules) = rules("", true);
        let own = fs::canonicalize(home.path()).unwrap();
        assert!(rules.read.contains(&own), "{rules:?}");
    }

    #[test]
    fn a_directory_of_many_is_not_opened_for_one_file() {
        let check = |file: &str, home: Option<&str>, expected: &[&str]| {
            let found = around(Path::new(file), home.map(Path::new));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{file}");
        };
        check("/etc/darter.yaml", None, &["/etc/darter.yaml"]);
        check("/tmp/secret", None, &["/tmp/secret"]);
        check("/", None, &["/"]);
        let home = tempfile::tempdir().unwrap();
        let own = fs::canonicalize(home.path()).unwrap();
        let (own, file) = (own.to_str().unwrap(), own.join("darter.yaml"));
        let file = file.to_str().unwrap();
        check(file, Some(own), &[file]);
        check(file, Some("/root"), &[file, own]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_opens_both_places() {
        let home = tempfile::tempdir().unwrap();
        let own = fs::canonicalize(home.path()).unwrap();
        for directory in ["named", "1"] {
            fs::create_dir(own.join(directory)).unwrap();
        }
        fs::write(own.join("1/secret"), "").unwrap();
        std::os::unix::fs::symlink("../1/secret", own.join("named/secret")).unwrap();
        let found = around(&own.join("named/secret"), None);
        assert_eq!(found, [own.join("named/secret"), own.join("named"), own.join("1")]);
    }

    #[test]
    fn root_does_not_read_all_of_etc() {
        let etc = PathBuf::from("/etc");
        assert!(!rules("", true).1.read.contains(&etc));
        assert!(rules("", true).1.read.contains(&etc.join("resolv.conf")));
        assert!(rules("", false).1.read.contains(&etc));
    }
}
