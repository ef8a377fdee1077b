//! `darter reload`: a daemon reads its configuration again.

use clap::Args;
use http::Method;

use super::admin_client::AdminClient;
use super::text::plain;
use super::{AdminArgs, CommandError, output};
use crate::admin::api::{ChangeInfo, ReloadedInfo};

/// The flags of `darter reload`.
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Characters of a value or a warning that are shown; JSON has all.
const SHOWN_CHARS_MAX: usize = 400;

/// Has the daemon read its configuration again, with the flags it was started with, and prints what has changed and
/// what waits for a restart.
///
/// # Errors
/// The daemon does not answer; or the configuration is wrong, and nothing has changed.
pub fn run(args: &ReloadArgs) -> Result<(), CommandError> {
    let client = AdminClient::new(&args.admin);
    let reloaded: ReloadedInfo = super::run_to_end(client.call(Method::POST, "reload"))?;
    if args.admin.json {
        return output::print_json(&reloaded);
    }
    output::print(&text_of(&reloaded))
}

fn text_of(reloaded: &ReloadedInfo) -> String {
    let ReloadedInfo { file, taken_up, need_restart, warnings } = reloaded;
    let shown = |text: &str| plain(text, SHOWN_CHARS_MAX);
    let mut text = String::new();
    let mut list = |changes: &[ChangeInfo], remark: &str| {
        for ChangeInfo { key, old, new } in changes {
            text += &format!("{}: {} -> {}{remark}\n", shown(key), shown(old), shown(new));
        }
    };
    list(taken_up, "");
    list(need_restart, " (needs a restart)");
    for warning in warnings {
        text += &format!("warning: {}\n", shown(warning));
    }
    let read = match file {
        Some(file) => format!("{} was read again", shown(file)),
        None => "the daemon was started without --config".into(),
    };
    let outcome = match (taken_up.len(), need_restart.len()) {
        (0, 0) => "nothing has changed".into(),
        (changed, 0) => format!("taken up: {changed}"),
        (changed, restart) => format!("taken up: {changed}; need a restart: {restart}"),
    };
    text + &format!("{read}; {outcome}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, old: &str, new: &str) -> ChangeInfo {
        ChangeInfo { key: key.into(), old: old.into(), new: new.into() }
    }

    fn check(file: Option<&str>, taken_up: &[ChangeInfo], need_restart: &[ChangeInfo], expected: &str) {
        let reloaded = ReloadedInfo {
            file: file.map(str::to_owned),
            taken_up: taken_up.to_vec(),
            need_restart: need_restart.to_vec(),
            warnings: Vec::new(),
        };
        assert_eq!(text_of(&reloaded), expected);
    }

    #[test]
    fn what_has_changed_is_told_and_what_has_not() {
        let (verbose, data) = (change("verbose", "false", "true"), change("dataDir", "/a", "/b\u{1b}"));
        check(None, &[], &[], "the daemon was started without --config; nothing has changed\n");
        check(Some("f"), &[], &[], "f was read again; nothing has changed\n");
        check(
            Some("f"),
            std::slice::from_ref(&verbose),
            &[],
            "verbose: false -> true\nf was read again; taken up: 1\n",
        );
        check(
            Some("f"),
            &[verbose],
            &[data],
            "verbose: false -> true\ndataDir: /a -> /b (needs a restart)\nf was read again; taken up: 1; need a \
             restart: 1\n",
        );
    }
}
