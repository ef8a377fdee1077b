//! The `darter` binary: reads the command line, calls the library, says how it went.
//!
//! Exit status: 0; 1 when a command failed; 2 when the command line or the configuration is wrong; and what
//! [`CommandError`] tells apart.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use darter::cli::{Cli, ClusterCommand, Command, ConfigCommand, ShowArgs};
use darter::commands::{self, CommandError};
use darter::config::{self, ConfigError};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` would panic when nobody reads.
            let _ = writeln!(std::io::stderr(), "darter: {}", with_causes(&error));
            let command = error.downcast_ref().map(CommandError::exit_status);
            let config = error.is::<ConfigError>().then_some(2);
            ExitCode::from(command.or(config).unwrap_or(1))
        }
    }
}

/// The error with its causes, each said once: many a message has its cause in the midst, before what to do.
fn with_causes(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => {
            let inputs = args.inputs();
            let resolved = inputs.load()?;
            Ok(darter::serve::run(inputs, resolved)?)
        }
        Command::Demo(args) => Ok(darter::demo::run(&args)?),
        Command::Get(args) => Ok(commands::get::run(&args)?),
        Command::Ls(args) => Ok(commands::ls::run(&args)?),
        Command::Stat(args) => Ok(commands::stat::run(&args)?),
        Command::Rm(args) => Ok(commands::rm::run(&args)?),
        Command::Pin(args) => Ok(commands::pin::run(&args)?),
        Command::Verify(args) => Ok(commands::verify::run(&args)?),
        Command::Preheat(args) => Ok(commands::preheat::run(&args)?),
        Command::Peers(args) => Ok(commands::peers::run(&args)?),
        Command::Top(args) => Ok(commands::top::run(&args)?),
        Command::Reload(args) => Ok(commands::reload::run(&args)?),
        Command::Doctor(args) => Ok(darter::doctor::run(&args)?),
        Command::Init(args) => Ok(darter::init::run(&args)?),
        Command::Cluster(ClusterCommand::Init(args)) => Ok(commands::cluster::init(&args)?),
        Command::Completions(args) => Ok(commands::completions::run(&args)?),
        Command::Man(args) => Ok(commands::man::run(&args)?),
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = || anyhow::Error::from(io::Error::other("the disk is full"));
        assert_eq!(with_causes(&cause().context("cannot write")), "cannot write: the disk is full");
        let words = "cannot write (the disk is full): free some space";
        assert_eq!(with_causes(&cause().context(words)), words);
    }
}
