//! The token with which other machines may change something through the admin port.
//!
//! It is in a file, for the daemon and for the commands that show it alike: letters, digits and a few signs in one line, as
//! `Authorization: Bearer` takes them. The daemon keeps its hash only, and compares hashes, which takes as long for a token
//! that is nearly right as for any other.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderValue, header};

use crate::sandbox;

/// Of a token: nobody guesses 16 bytes by asking over a network.
const BYTES_MIN: usize = 16;
/// Of its file.
const FILE_BYTES_MAX: usize = 1024;
/// Anything for others, and writing for the group. The group may read: Kubernetes gives secrets to a pod's user so.
const MODE_REFUSED: u32 = 0o027;
/// A header that has the token where `Authorization` is for a registry.
pub(crate) const HEADER: &str = "x-darter-token";

/// What is compared with what a request shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    hash: blake3::Hash,
}

/// Why a file has no token that can be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{path} cannot be read ({source}{}): it is to hold a token; {how}", sandbox::hint(.source), how = HowTo(.path))]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{path} has mode {mode:o}, and whoever reads it may change something here: chmod 600 {path} (in Kubernetes \
         defaultMode: 0400)"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} holds {bytes} bytes, and a token has {BYTES_MIN} at least; {how}", how = HowTo(.path))]
    Short { path: PathBuf, bytes: usize },
    #[error(
        "{path} holds no token, which is one line of at most {FILE_BYTES_MAX} letters, digits and -._~+/=; {how}",
        how = HowTo(.path)
    )]
    Malformed { path: PathBuf },
}

/// How a file gets a token.
struct HowTo<'a>(&'a Path);

impl fmt::Display for HowTo<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "write one with: (umask 077; head -c 32 /dev/urandom | base64 > {})", self.0.display())
    }
}

/// What a file holds, as it is shown to an admin port.
///
/// # Errors
/// It cannot be read, others may read it too, or it is no token.
pub(crate) fn read(path: &Path) -> Result<String, TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & MODE_REFUSED != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let malformed = || TokenError::Malformed { path: path.to_owned() };
    if bytes.len() > FILE_BYTES_MAX {
        return Err(malformed());
    }
    let text = str::from_utf8(&bytes).map_err(|_| malformed())?.trim_ascii();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    match text {
        _ if !text.bytes().all(is_plain) => Err(malformed()),
        _ if text.len() < BYTES_MIN => Err(TokenError::Short { path: path.to_owned(), bytes: text.len() }),
        _ => Ok(text.to_owned()),
    }
}

impl Token {
    pub(crate) fn of(text: &str) -> Self {
        Self { hash: blake3::hash(text.as_bytes()) }
    }

    /// Whether a request shows it, in one of the two headers; `None`: it shows no token at all.
    pub(super) fn is_shown_by(&self, headers: &HeaderMap) -> Option<bool> {
        let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(bearer);
        let own = headers.get_all(HEADER).iter().map(HeaderValue::as_bytes);
        bearers.chain(own).map(|shown| self.is(shown)).reduce(|one, other| one | other)
    }

    /// Whether it is what this value of `Authorization` has, which is then for nobody else.
    pub(super) fn is_in(&self, authorization: &HeaderValue) -> bool {
        bearer(authorization).is_some_and(|shown| self.is(shown))
    }

    fn is(&self, shown: &[u8]) -> bool {
        // Hashes compare themselves in constant time.
        blake3::hash(shown) == self.hash
    }

    /// For telling one token from another, and nothing else.
    pub(crate) fn fingerprint(&self) -> blake3::Hash {
        self.hash
    }
}

impl fmt::Debug for Token {
    /// A hash of a token that somebody has thought of could be tried out.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token")
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TOKEN: &str = "bm90IGEgc2VjcmV0IGF0IGFsbA==";

    #[track_caller]
    fn check_file(text: &[u8], mode: u32, expected: Result<&str, &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match (read(&path), expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected),
            (Err(error), Err(words)) => {
                let said = error.to_string();
                assert!(said.contains(words) && said.contains(path.to_str().unwrap()), "{said}");
            }
            (seen, _) => panic!("{seen:?}"),
        }
    }

    #[test]
    fn a_file_has_a_token_or_says_what_to_do() {
        check_file(TOKEN.as_bytes(), 0o600, Ok(TOKEN));
        check_file(format!("{TOKEN}\n").as_bytes(), 0o440, Ok(TOKEN));
        check_file(TOKEN.as_bytes(), 0o604, Err("mode 604"));
        check_file(TOKEN.as_bytes(), 0o644, Err("chmod 600"));
        check_file(TOKEN.as_bytes(), 0o660, Err("chmod 600"));
        check_file(b"0123456789abcde\n", 0o600, Err("15 bytes, and a token has 16"));
        check_file(b"", 0o600, Err("(umask 077; head -c 32 /dev/urandom"));
        check_file(b"two words are not one token", 0o600, Err("no token"));
        check_file(&[0xff; 32], 0o600, Err("no token"));
        check_file(&[b'a'; 1025], 0o600, Err("no token"));
        let said = read(Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(said.contains("/nowhere/token cannot be read") && said.contains("umask"), "{said}");
    }

    #[test]
    fn a_request_shows_it_in_either_header() {
        let check = |lines: &[(&'static str, &str)], expected: Option<bool>| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(Token::of(TOKEN).is_shown_by(&headers), expected, "{lines:?}");
        };
        let bearer = format!("Bearer {TOKEN}");
        check(&[], None);
        check(&[("authorization", &bearer)], Some(true));
        check(&[("authorization", &bearer.replace("Bearer", "bearer"))], Some(true));
        check(&[("authorization", &format!("{bearer}x"))], Some(false));
        check(&[("authorization", "Bearer ")], Some(false));
        check(&[("authorization", "Basic dTpw")], None);
        check(&[("authorization", TOKEN)], None);
        check(&[("x-darter-token", TOKEN)], Some(true));
        check(&[("x-darter-token", "")], Some(false));
        check(&[("authorization", "Bearer of-a-registry"), ("x-darter-token", TOKEN)], Some(true));
        check(&[("authorization", "Bearer of-a-registry")], Some(false));
    }

    #[test]
    fn nothing_of_it_is_in_a_log() {
        let token = Token::of(TOKEN);
        assert_eq!(format!("{token:?}"), "Token");
    }
}
