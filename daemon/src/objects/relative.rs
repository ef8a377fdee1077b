//! What an object is called below a directory: the only mint of paths that are written to. Pure.
//!
//! Names come from strangers. One that would lead out of the directory, or be the same file as another name, is refused and
//! not mended: what it would be mended to might be another object's name.

use std::path::{Path, PathBuf};

/// Bytes of a whole name; an object of a service has at most 1024.
const BYTES_MAX: usize = 4096;

/// A path of plain names, below any directory that it is joined to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RelativePath(String);

/// Why a name is no path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadName {
    #[error("it has no name")]
    Empty,
    #[error("its name begins with /, and would be written outside of the directory")]
    Absolute,
    #[error("its name has the part . or .., and would be written elsewhere")]
    Dots,
    #[error("its name has an empty part (//), and would be the same file as another")]
    EmptyPart,
    #[error("its name has a control character")]
    Control,
    #[error("its name begins or ends with a space, which cannot be asked for")]
    Spaces,
    #[error("its name is longer than {BYTES_MAX} bytes")]
    Long,
    #[error(
        "its name ends as that of a file under way (.part, .part.json): get it by itself, with -o and another name"
    )]
    UnderWay,
}

impl RelativePath {
    /// Looks at a name.
    ///
    /// # Errors
    /// It cannot be a file below a directory.
    pub(crate) fn parse(name: &str) -> Result<Self, BadName> {
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        if name.len() > BYTES_MAX {
            return Err(BadName::Long);
        }
        if name.starts_with('/') {
            return Err(BadName::Absolute);
        }
        if name.chars().any(char::is_control) {
            return Err(BadName::Control);
        }
        for part in name.split('/') {
            match part {
                "" => return Err(BadName::EmptyPart),
                "." | ".." => return Err(BadName::Dots),
                _ => {}
            }
        }
        if name.trim() != name {
            return Err(BadName::Spaces);
        }
        if name.ends_with(".part") || name.ends_with(".part.json") {
            return Err(BadName::UnderWay);
        }
        Ok(Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Below that directory.
    pub(crate) fn below(&self, directory: &Path) -> PathBuf {
        directory.join(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_paths() {
        for name in ["a", "a/b", "a/..b/c..", "ä/ö", "a b", ".hidden/x", "a\\b", "C:/x", "x.parts"] {
            let path = RelativePath::parse(name).unwrap();
            assert_eq!(path.below(Path::new("/out")), Path::new("/out").join(name), "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let check = |name: &str, expected| assert_eq!(RelativePath::parse(name), Err(expected), "{name:?}");
        check("", BadName::Empty);
        check("/etc/passwd", BadName::Absolute);
        check("//a", BadName::Absolute);
        check("../a", BadName::Dots);
        check("a/../../b", BadName::Dots);
        check("..", BadName::Dots);
        check("./a", BadName::Dots);
        check("a/.", BadName::Dots);
        check("a//b", BadName::EmptyPart);
        check("a/", BadName::EmptyPart);
        check("a\0b", BadName::Control);
        check("a\nb", BadName::Control);
        check(" a", BadName::Spaces);
        check("a/b ", BadName::Spaces);
        check("a.part", BadName::UnderWay);
        check("a.part.json", BadName::UnderWay);
        check(&"a".repeat(BYTES_MAX + 1), BadName::Long);
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_below_and_is_one_file(name in "[a./ \\\\\0-]{0,12}") {
            if let Ok(path) = RelativePath::parse(&name) {
                let joined = path.below(Path::new("/out"));
                prop_assert!(joined.starts_with("/out"));
                let plain = joined.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(plain);
                // Nothing was left out, so that no two names are one file.
                prop_assert_eq!(joined.components().skip(2).count(), name.split('/').count());
            }
        }
    }
}
