//! The terminal: taken over, drawn on, given back as it was.

use std::io::{self, Read, Write, stdin, stdout};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::sync::mpsc;

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Keys that nobody has looked at yet.
const KEYS_MAX: usize = 16;
/// Of a terminal that does not say.
const SIZE: (usize, usize) = (80, 24);

/// Given back when it is dropped, also by a panic.
pub(super) struct Terminal {
    before: Termios,
    keys: mpsc::Receiver<u8>,
}

impl Terminal {
    /// Takes over what standard input and output are at.
    ///
    /// # Errors
    /// They are no terminal.
    pub(super) fn take() -> io::Result<Self> {
        tcgetwinsize(stdout())?;
        let before = tcgetattr(stdin())?;
        let mut taken = before.clone();
        // Keys come one by one and unseen. Ctrl-C stays a signal; one that stops would leave the other screen behind.
        taken.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        taken.special_codes[SpecialCodeIndex::VSUSP] = 0;
        tcsetattr(stdin(), OptionalActions::Flush, &taken)?;
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let terminal = Self { before, keys };
        write(ENTER)?;
        // It ends with the process: a read cannot be called back.
        std::thread::spawn(move || {
            let mut key = [0];
            while let Ok(1) = io::stdin().lock().read(&mut key)
                && sender.blocking_send(key[0]).is_ok()
            {}
        });
        Ok(terminal)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE,
        }
    }

    /// The next key; `None`: there will be no further one.
    pub(super) async fn key(&mut self) -> Option<u8> {
        self.keys.recv().await
    }

    /// Draws lines over what is there, in one write: nothing flickers.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            // No line end behind the last one, which would roll the screen.
            if number > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
