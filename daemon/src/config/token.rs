//! `health.tokenFile`: with what is in it other machines may change something through the admin port.

use std::path::{Path, PathBuf};

use super::error::Problem;
use super::layers::Source;
use super::{Resolved, keys};
use crate::admin::token::{self, Token};

/// The file, and the token once it has been read.
#[derive(Clone, Debug)]
pub struct TokenSetting {
    path: PathBuf,
    token: Option<Token>,
}

impl TokenSetting {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, token: None }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

/// Reads the file, if one is named, and says what is wrong with it and where it was named.
pub(super) fn read_file(resolved: &mut Resolved) -> Vec<Problem> {
    let Some(setting) = &mut resolved.settings.admin_token else { return Vec::new() };
    let row = resolved.effective.iter_mut().find(|row| row.key == keys::ADMIN_TOKEN_FILE.path);
    match token::read(&setting.path) {
        Ok(text) => {
            let token = Token::of(&text);
            if let Some(row) = row {
                row.content = Some(token.fingerprint());
            }
            setting.token = Some(token);
            Vec::new()
        }
        Err(error) => {
            let source = row.map_or(Source::Default, |row| row.source.clone());
            vec![Problem { source, key: keys::ADMIN_TOKEN_FILE.path.into(), text: error.to_string() }]
        }
    }
}
