//! The terminal: taken over, drawn on, given back as it was.

use std::io::{self, Read, Write, stdin, stdout};
use std::time::Duration;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Bytes of keys that nobody has looked at yet.
const KEYS_MAX: usize = 16;
/// Other keys, such as arrows, send more behind an Esc, and at once.
const ESCAPE_PATIENCE: Duration = Duration::from_millis(50);
const ESC: u8 = 27;
/// Of a terminal that does not say.
const SIZE: (usize, usize) = (80, 24);

/// Given back when it is dropped, also by a panic.
pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Takes over what standard input and output are at; with what its keys send.
    ///
    /// # Errors
    /// They are no terminal.
    pub(super) fn take() -> io::Result<(Self, mpsc::Receiver<u8>)> {
        tcgetwinsize(stdout())?;
        let before = tcgetattr(stdin())?;
        let mut taken = before.clone();
        // Keys come one by one and unseen. Ctrl-C stays a signal; one that stops, or ends with a core, would leave the
        // other screen behind.
        taken.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        taken.special_codes[SpecialCodeIndex::VSUSP] = 0;
        taken.special_codes[SpecialCodeIndex::VQUIT] = 0;
        tcsetattr(stdin(), OptionalActions::Flush, &taken)?;
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let terminal = Self { before };
        write(ENTER)?;
        // It ends with the process: a read cannot be called back.
        std::thread::spawn(move || {
            let mut key = [0];
            while let Ok(1) = io::stdin().lock().read(&mut key)
                && sender.blocking_send(key[0]).is_ok()
            {}
        });
        Ok((terminal, keys))
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE,
        }
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

/// Until somebody has typed `q`, Esc, Ctrl-C or Ctrl-\\, or there will be no further keys.
pub(super) async fn until_quit(mut keys: mpsc::Receiver<u8>) {
    let mut next = keys.recv().await;
    while let Some(key) = next {
        match key {
            b'q' | b'Q' | 3 | 28 => return,
            ESC => match timeout(ESCAPE_PATIENCE, keys.recv()).await {
                // Alone.
                Err(_) | Ok(None) => return,
                // An arrow, or another key with a name.
                Ok(Some(b'[')) => while let Some(0x20..0x40) = keys.recv().await {},
                Ok(Some(b'O')) => {
                    let _ = keys.recv().await;
                }
                Ok(Some(ESC)) => {
                    next = Some(ESC);
                    continue;
                }
                // Alt and a key.
                Ok(Some(_)) => {}
            },
            _ => {}
        }
        next = keys.recv().await;
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_that_end_it() {
        let typed = |bytes: &[u8]| {
            let (sender, keys) = mpsc::channel(64);
            bytes.iter().for_each(|byte| sender.try_send(*byte).expect("there is room"));
            (sender, keys)
        };
        for bytes in
            [&b"q"[..], b"Q", b"\x03", b"\x1c", b"\x1b", b"\x1b\x1b", b"xq", b"\x1b[Aq", b"\x1bOP\x1b"]
        {
            let (sender, keys) = typed(bytes);
            let quit = timeout(Duration::from_secs(60), until_quit(keys)).await;
            assert!(quit.is_ok(), "{bytes:?} keeps it waiting");
            drop(sender);
        }
        // Arrows, Page Up, F1, F5 with Shift, Alt-q, Alt with an arrow: all of it has come when it begins to read.
        for bytes in [&b"x"[..], b"\x1b[A", b"\x1b[5~", b"\x1bOP", b"\x1b[15;2~", b"\x1bq", b"\x1b\x1b[B"] {
            let (sender, keys) = typed(bytes);
            assert!(timeout(3 * ESCAPE_PATIENCE, until_quit(keys)).await.is_err(), "{bytes:?} ends it");
            drop(sender);
        }
        let (sender, keys) = typed(b"");
        drop(sender);
        until_quit(keys).await;
    }
}
