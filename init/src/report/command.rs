//! Commands from the harness: bounded lines of JSON.

use slipform_init::contract::event::Command;

/// The longest line that can be a command.
const MAX_LINE: usize = 4096;

/// Cuts a stream into lines and parses them; a line that is too long is thrown away
/// up to its end.
#[derive(Debug, Default)]
pub(crate) struct CommandReader {
    line: Vec<u8>,
    skipping: bool,
}

impl CommandReader {
    /// Takes the next bytes, returns the commands that they complete, and for each
    /// line that is none the reason.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Result<Command, String>> {
        let mut results = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                if std::mem::take(&mut self.skipping) {
                    results.push(Err(format!("a line longer than {MAX_LINE} bytes")));
                } else if !self.line.trim_ascii().is_empty() {
                    results.push(
                        serde_json::from_slice(&self.line).map_err(|error| error.to_string()),
                    );
                }
                self.line.clear();
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            } else {
                self.skipping = true;
            }
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn commands_come_in_any_pieces() {
        let mut reader = CommandReader::default();
        assert_eq!(reader.take(b"\r\n{\"command\":"), []);
        assert_eq!(reader.take(b"\"power-off\"}"), []);
        assert_eq!(
            reader.take(b"\n{\"command\":\"reboot\"}\n"),
            [Ok(Command::PowerOff), Ok(Command::Reboot)]
        );
    }

    #[test]
    fn what_is_no_command_is_said_and_forgotten() {
        let mut reader = CommandReader::default();
        for bad in ["power-off", "{}", "{\"command\":\"explode\"}", "\u{0}"] {
            let results = reader.take(format!("{bad}\n").as_bytes());
            assert!(matches!(results[..], [Err(_)]), "{bad}: {results:?}");
        }
        let long = reader.take(&[b'x'; 100_000]);
        assert_eq!(long, []);
        assert!(reader.line.len() <= MAX_LINE);
        assert!(matches!(
            reader.take(b"y\n{\"command\":\"reboot\"}\n")[..],
            [Err(_), Ok(Command::Reboot)]
        ));
    }

    #[test]
    fn no_bytes_can_break_the_reader() {
        fuzz(
            &[b"{\"command\":\"power-off\"}\n{\"command\":\"reboot\"}\n"],
            |bytes, _| {
                let mut reader = CommandReader::default();
                reader.take(bytes);
                assert!(reader.line.len() <= MAX_LINE);
            },
        );
    }
}
