//! `OS/ARCH[/VARIANT]`, in the words of Go that image indices use. Pure.

use std::fmt;
use std::str::FromStr;

/// What an image runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `v8`.
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on this machine's architecture.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether an image for `other` is one for this. Where no variant is asked for, any will do.
    pub fn takes(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl FromStr for Platform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None)
                if word(os) && word(architecture) && variant.is_none_or(word) =>
            {
                let variant = variant.map(str::to_owned);
                Ok(Self { os: os.into(), architecture: architecture.into(), variant })
            }
            _ => Err("expected OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7"),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_read_and_shown() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "linux/arm/v7/x", "linux//v7", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_variant_counts_where_it_is_asked_for() {
        let check = |wanted: &str, offered: &str, expected| {
            let takes = wanted.parse::<Platform>().unwrap().takes(&offered.parse().unwrap());
            assert_eq!(takes, expected, "{wanted} {offered}");
        };
        check("linux/arm", "linux/arm/v7", true);
        check("linux/arm/v7", "linux/arm/v7", true);
        check("linux/arm/v6", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm", false);
        check("linux/amd64", "linux/arm64", false);
    }
}
