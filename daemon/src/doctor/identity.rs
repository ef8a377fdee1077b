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

/// A file with certificates, at least one.
#[derive(Clone, Debug)]
pub(super) struct CertificateSeen {
    pub(super) path: PathBuf,
    pub(super) used_as: Use,
    pub(super) lives: Vec<Life>,
}

/// What certificates in a file are there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Use {
    /// One, and those that vouch for it: all have to be valid.
    Chain,
    /// Others are believed by each of them: an old one may stay beside its successor.
    Authorities,
}

/// From when to when a certificate is valid, in Unix seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) begins_at_s: i64,
    pub(super) ends_at_s: i64,
}

/// Whoever renews certificates should have done so by then.
const ENDS_SOON: Duration = Duration::from_secs(SOON_DAYS * 86_400);
const SOON_DAYS: u64 = 14;

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
    findings.extend(identity.certificates.iter().map(|seen| match seen.used_as {
        Use::Chain => chain(seen, now_s),
        Use::Authorities => authorities(seen, now_s),
    }));
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

fn chain(seen: &CertificateSeen, now_s: i64) -> Finding {
    const CHECK: &str = "certificate";
    let shown = seen.path.display();
    let begins_at_s = seen.lives.iter().map(|life| life.begins_at_s).max().unwrap_or(i64::MAX);
    let ends_at_s = seen.lives.iter().map(|life| life.ends_at_s).min().unwrap_or(i64::MIN);
    let left = ends_at_s.saturating_sub(now_s);
    let days = left.unsigned_abs() / 86_400;
    if begins_at_s > now_s {
        let hours = begins_at_s.saturating_sub(now_s) / 3600;
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

/// Those of a public bundle end one by one, and nothing depends on a single one.
fn authorities(seen: &CertificateSeen, now_s: i64) -> Finding {
    const CHECK: &str = "authorities";
    let (shown, all) = (seen.path.display(), seen.lives.len());
    let valid = seen.lives.iter().filter(|life| life.begins_at_s <= now_s && now_s < life.ends_at_s);
    let left_s = valid.map(|life| life.ends_at_s.saturating_sub(now_s).unsigned_abs()).collect::<Vec<_>>();
    let soon = left_s.iter().filter(|left_s| **left_s < ENDS_SOON.as_secs()).count();
    match (left_s.iter().max(), all - left_s.len()) {
        (None, _) => Finding::failed(
            CHECK,
            format!("of {all} in {shown} none is valid now"),
            "put those in their place that are in use, or set this machine's clock",
        ),
        (Some(last), 0) if soon == 0 => {
            Finding::ok(CHECK, format!("all {all} in {shown} are valid, for up to {} days", last / 86_400))
        }
        (Some(_), not_valid) => Finding::warning(
            CHECK,
            format!(
                "of {all} in {shown} {not_valid} are not valid now, and {soon} expire within {SOON_DAYS} days"
            ),
            "add their successors, and take out those whose certificates nobody has any more",
        ),
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
            for used_as in [Use::Chain, Use::Authorities] {
                let lives = vec![Life { begins_at_s, ends_at_s }];
                let seen = CertificateSeen { path: "/c".into(), used_as, lives };
                let found =
                    findings(&Identity { certificates: vec![seen], ..Identity::default() }, 1000 * DAY);
                assert_eq!(found[0].level, level, "{found:?}");
            }
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
    fn one_valid_authority_is_enough() {
        let check = |used_as, ends: &[i64], level, words: &str| {
            let lives = ends.iter().map(|day| Life { begins_at_s: 0, ends_at_s: day * DAY }).collect();
            let seen = CertificateSeen { path: "/c".into(), used_as, lives };
            let found = findings(&Identity { certificates: vec![seen], ..Identity::default() }, 1000 * DAY);
            assert!(found[0].level == level && found[0].seen.contains(words), "{found:?}");
        };
        check(Use::Authorities, &[2000, 999], Level::Warning, "1 are not valid now, and 0 expire");
        check(Use::Authorities, &[2000, 1001], Level::Warning, "0 are not valid now, and 1 expire");
        check(Use::Authorities, &[999, 998], Level::Failed, "of 2 in /c none is valid");
        check(Use::Authorities, &[2000, 1500], Level::Ok, "up to 1000 days");
        check(Use::Chain, &[2000, 999], Level::Failed, "has expired");
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
