//! `proxy.hijackHTTPS`: the authority and the hosts, and which of them go together.

use std::path::PathBuf;

use regex::Regex;

use super::{Pass, checked, is_path};
use crate::config::error::Problem;
use crate::config::hijack::HijackSettings;
use crate::config::keys::{self, Key};
use crate::config::rules::Pattern;

/// Patterns that each CONNECT may have to be compared with.
const HOSTS_MAX: usize = 64;

impl Pass<'_> {
    /// `None` where no TLS ends here.
    pub(super) fn hijack(&mut self) -> Option<HijackSettings> {
        let cert: Option<String> = self.optional_if(&keys::HIJACK_CERT, |path: &String| is_path(path));
        let key: Option<String> = self.optional_if(&keys::HIJACK_KEY, |path: &String| is_path(path));
        let hosts = self.hijacked_hosts();
        let is_given = |key: &Key| self.layers.value(key).is_some();
        let missing = match (is_given(&keys::HIJACK_CERT), is_given(&keys::HIJACK_KEY)) {
            (true, false) => Some(&keys::HIJACK_KEY),
            (false, true) => Some(&keys::HIJACK_CERT),
            (false, false) if !hosts.is_empty() => Some(&keys::HIJACK_CERT),
            _ => None,
        };
        if let Some(missing) = missing {
            let given = [&keys::HIJACK_CERT, &keys::HIJACK_KEY];
            let source = given.iter().map(|key| self.layers.source(key)).max();
            let source = source
                .filter(|_| hosts.is_empty())
                .unwrap_or_else(|| self.layers.list_source(keys::HIJACK_HOSTS));
            let text =
                "missing: TLS ends here only with an authority, cert and key; `darter proxy init` makes one";
            self.problems.push(Problem { source, key: missing.path.into(), text: text.into() });
        }
        Some(HijackSettings::new(PathBuf::from(cert?), PathBuf::from(key?), hosts))
    }

    fn hijacked_hosts(&mut self) -> Vec<Regex> {
        let raw = self.layers.raw();
        let list = keys::HIJACK_HOSTS;
        let len = raw.list_len(list);
        let source = self.layers.list_source(list);
        if len > HOSTS_MAX {
            let text = format!("{len} patterns; allowed: at most {HOSTS_MAX}");
            self.problems.push(Problem { source, key: list.into(), text });
            return Vec::new();
        }
        if len == 0 {
            self.show(list.to_owned(), "(none: https is tunnelled)", source);
        }
        let mut hosts = Vec::with_capacity(len);
        for index in 0..len {
            let item = format!("{list}[{index}]");
            self.needed(&item, &keys::HIJACK_HOST);
            let path = format!("{item}.regx");
            let Some(given) = self.layers.in_file(&path) else { continue };
            let pattern: Option<Pattern> =
                self.keep(path, given.source, checked(&keys::HIJACK_HOST, given.text, |_| true));
            hosts.extend(pattern.map(|Pattern(pattern)| pattern));
        }
        hosts
    }
}
