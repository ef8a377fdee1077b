//! `darter man`: the manual pages, made of the same words as `--help`.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{CommandError, output};
use crate::cli::Cli;

/// The flags of `darter man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write the pages of all commands into this directory; without it, the page darter(1) is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints darter(1), or writes all pages.
///
/// # Errors
/// Standard output or the directory cannot be written to.
pub fn run(args: &ManArgs) -> Result<(), CommandError> {
    let failed =
        |what: String| move |error: io::Error| CommandError::Failed(format!("cannot write {what}: {error}"));
    let Some(directory) = &args.out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(failed("the manual page".into()))?;
        return output::print_bytes(&page);
    };
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(failed(format!("manual pages into {}", directory.display())))
}
