//! The `darter` binary: reads the command line, calls the library, says how it went.
//!
//! Exit status: 0; 1 when a command failed; 2 when the command line or the configuration is wrong.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use darter::cli::{Cli, Command, ConfigCommand, ShowArgs};
use darter::config::{self, ConfigError};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("darter: {error:#}");
            let status = if error.is::<ConfigError>() { 2 } else { 1 };
            ExitCode::from(status)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => {
            let resolved = config::load(args.config.as_deref(), &args.overrides())?;
            Ok(darter::serve::run(&resolved)?)
        }
        Command::Demo(args) => Ok(darter::demo::run(&args)?),
        Command::Config(ConfigCommand::Check { file }) => print(&config::commands::check(&file)?),
        Command::Config(ConfigCommand::Show(ShowArgs { serve, json })) => {
            print(&config::commands::show(serve.config.as_deref(), &serve.overrides(), json)?)
        }
    }
}

/// `print!` would panic when the reader of a pipe has left.
fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
