//! Secrets and certificates: who may read them, and until when they hold. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::finding::Finding;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    /// What nobody else may read; with its permissions.
    pub(super) private: Vec<(PathBuf, u32)>,
    pub(super) certificates: Vec<CertificateSeen>,
    /// Of a cluster by secrets: the role of this node, and how many generations there are to be believed.
    pub(super) by_secrets: Option<String>,
    /// Places of seeds that could not be looked up, and why.
    pub(super) seeds_not_found: Vec<(String, String)>,
}

/// A certificate in a file.
#[derive(Clone, Debug)]
pub(super) struct CertificateSeen {
    pub(super) path: PathBuf,
    /// Unix seconds. Of several the first that ends.
    pub(super) ends_at_s: i64,
    /// Unix seconds.
    pub(super) begins_at_s: i64,
}

/// Whoever renews certificates should have done so by then.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

/// `now_s` are Unix seconds.
pub(super) fn findings(identity: &Identity, now_s: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(role) = &identity.by_secrets {
        findings.push(Finding::ok(
            "secrets",
            format!("make this node a {role}; its certificates renew themselves"),
        ));
    }
    findings.extend(identity.private.iter().map(|(path, mode)| private(path, *mode)));
    findings.extend(identity.certificates.iter().map(|certificate| lasting(certificate, now_s)));
    findings.extend(identity.seeds_not_found.iter().map(|(place, reason)| {
        Finding::warning(
            "seeds",
            format!("{place}: {reason}"),
            "correct cluster.join, or the name; until a seed is found this node goes to registries by itself",
        )
    }));
    findings
}

fn private(path: &std::path::Path, mode: u32) -> Finding {
    let (check, shown) = ("permissions", path.display());
    if mode & 0o077 == 0 {
        return Finding::ok(check, format!("{shown} is its owner's alone"));
    }
    Finding::warning(
        check,
        format!("{shown} has mode {mode:o}: other users may use what is in it"),
        format!("chmod 600 {shown} (in Kubernetes defaultMode: 0400)"),
    )
}

fn lasting(certificate: &CertificateSeen, now_s: i64) -> Finding {
    const CHECK: &str = "certificate";
    let shown = certificate.path.display();
    let left = certificate.ends_at_s.saturating_sub(now_s);
    let days = left.unsigned_abs() / 86_400;
    if certificate.begins_at_s > now_s {
        let hours = certificate.begins_at_s.saturating_sub(now_s) / 3600;
        return Finding::failed(
            CHECK,
            format!("{shown} is valid only in {hours} hours"),
            "set this machine's clock, or have it issued anew",
        );
    }
    match u64::try_from(left) {
        Err(_) | Ok(0) => Finding::failed(
            CHECK,
            format!("{shown} has expired {days} days ago"),
            "put a renewed one in its place, with the same key; it is taken up without a restart",
        ),
        Ok(left) if left < ENDS_SOON.as_secs() => Finding::warning(
            CHECK,
            format!("{shown} expires in {days} days"),
            "renew it, with the same key; it is taken up without a restart",
        ),
        Ok(_) => Finding::ok(CHECK, format!("{shown} is valid for {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn certificates_end() {
        let check = |begins_at_s, ends_at_s, level| {
            let finding = lasting(&CertificateSeen { path: "/c".into(), ends_at_s, begins_at_s }, 1000 * DAY);
            assert_eq!(finding.level, level, "{finding:?}");
        };
        check(0, 1000 * DAY, Level::Failed);
        check(0, 999 * DAY, Level::Failed);
        check(0, 1013 * DAY, Level::Warning);
        check(0, 1014 * DAY, Level::Ok);
        check(1001 * DAY, 1100 * DAY, Level::Failed);
        check(i64::MIN, i64::MAX, Level::Ok);
        check(i64::MAX, i64::MIN, Level::Failed);
    }

    #[test]
    fn secrets_are_their_owners() {
        for (mode, level) in
            [(0o600, Level::Ok), (0o400, Level::Ok), (0o640, Level::Warning), (0o604, Level::Warning)]
        {
            assert_eq!(private("/s".as_ref(), mode).level, level, "{mode:o}");
        }
    }

    #[test]
    fn seeds_that_are_not_found_are_named() {
        let identity = Identity {
            seeds_not_found: vec![("dns://nowhere:1".into(), "the name servers do not know it".into())],
            by_secrets: Some("peer".into()),
            ..Identity::default()
        };
        let levels: Vec<_> = findings(&identity, 0).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warning]);
        assert!(findings(&Identity::default(), 0).is_empty(), "a node without a cluster has nothing to show");
    }
}
