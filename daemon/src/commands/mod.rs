//! What people and scripts ask of a running daemon: `get` through its front, the others at its admin port; and what
//! asks none, such as `cluster`.
//!
//! Each command is a function of its flags that prints its result, as text or JSON, to standard output, and its
//! progress to standard error. Its exit status says what a script would act on; see [`CommandError`].

mod admin_client;
pub mod cluster;
pub mod completions;
mod failures;
pub(crate) mod front_request;
pub mod get;
mod kubernetes;
pub mod ls;
pub mod man;
pub(crate) mod output;
pub mod peers;
pub mod pin;
pub mod preheat;
pub mod proxy;
pub mod reload;
pub mod rm;
pub mod stat;
pub(crate) mod text;
pub mod top;
pub mod verify;
pub(crate) mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use http::HeaderValue;

use crate::admin::token;
use crate::objects::ObjectError;

/// The end of each help text.
pub(crate) const EXIT_STATUS: &str = "Exit status: 0 done; 1 failed; 2 the command line is wrong, or an ID names more \
                                      than one content; 3 there is no such content, blob or image; 4 no daemon \
                                      answers; 5 the bytes are not those of the digest; 130 interrupted";

/// Why a command did not do what it was asked, and so its exit status. Messages say what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// 1: anything that is none of the others.
    #[error("{0}")]
    Failed(String),
    /// 2: what was asked makes no sense, or could mean several things.
    #[error("{0}")]
    Usage(String),
    /// 3: it was understood, and there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// 4: no daemon answers there.
    #[error("{0}")]
    Unreachable(String),
    /// 5: bytes are not those of the digest.
    #[error("{0}")]
    WrongBytes(String),
    /// 130: Ctrl-C or SIGTERM.
    #[error("{0}")]
    Interrupted(String),
}

impl CommandError {
    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
            Self::WrongBytes(_) => 5,
            Self::Interrupted(_) => 130,
        }
    }
}

impl From<ObjectError> for CommandError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Usage(message) => Self::Usage(message),
            ObjectError::NotFound(message) => Self::NotFound(message),
            ObjectError::Failed(message) => Self::Failed(message),
        }
    }
}

/// The flags of all commands that ask the admin port.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin port of the daemon
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:40901", value_parser = crate::cli::socket_addr)]
    admin: SocketAddr,
    /// To change something at the admin port of another machine, show it the token in this file
    #[arg(long, value_name = "FILE", env = "DARTER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl AdminArgs {
    /// What is shown to the admin port, if a file was named.
    ///
    /// # Errors
    /// The file cannot be read or has no token.
    fn token(&self) -> Result<Option<String>, CommandError> {
        let read = self.token_file.as_deref().map(token::read).transpose();
        read.map_err(|error| CommandError::Failed(format!("--token-file or DARTER_TOKEN_FILE: {error}")))
    }
}

/// A header that has a secret, which nothing prints.
fn secret_header(text: &str) -> Result<HeaderValue, CommandError> {
    let mut value = HeaderValue::from_str(text).map_err(|error| CommandError::Failed(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Runs an asynchronous command on this thread.
pub(crate) fn run_to_end<T>(
    command: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error: io::Error| CommandError::Failed(format!("cannot run on this machine: {error}")))?;
    runtime.block_on(command)
}
