//! A conversation over TCP: send, then wait for a text, step by step.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::Seen;
use crate::plan::TcpStep;

/// Longest answer to one step.
const MAX_ANSWER: usize = 1 << 20;
/// Longest that one try of the whole conversation may take.
const ONE_TRY: Duration = Duration::from_secs(15);
/// How much of a wrong answer is shown.
const SHOWN: usize = 160;

/// Goes through the steps once, on one connection.
pub(crate) fn converse(port: u16, steps: &[TcpStep], left: Duration) -> Seen {
    let deadline = Instant::now() + left.clamp(Duration::from_secs(1), ONE_TRY);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = match TcpStream::connect_timeout(&address, until(deadline)) {
        Ok(stream) => stream,
        Err(error) => return Seen::Nothing(format!("no connection: {error}")),
    };
    for (n, step) in steps.iter().enumerate() {
        let number = n + 1;
        match take(&mut stream, step, deadline) {
            Ok(()) => {}
            // Nothing at all to the first step: user networking accepts before the guest does.
            Err((answer, how)) if n == 0 && answer.is_empty() => {
                return Seen::Nothing(format!("step 1: {how}"));
            }
            Err((answer, how)) => {
                let shown = answer[..answer.len().min(SHOWN)].escape_ascii();
                return Seen::Wrong(format!(
                    "step {number}: expected {:?}, got \"{shown}\" ({how})",
                    step.expect
                ));
            }
        }
    }
    Seen::Good(format!("{} steps answered as expected", steps.len()))
}

/// One step; else what came, and how it ended.
fn take(
    stream: &mut TcpStream,
    step: &TcpStep,
    deadline: Instant,
) -> Result<(), (Vec<u8>, String)> {
    let mut answer = Vec::new();
    let broke = |error: &std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no more in time".to_owned(),
        _ => format!("the connection broke: {error}"),
    };
    let sent = stream
        .set_write_timeout(Some(until(deadline)))
        .and_then(|()| stream.write_all(step.send.as_bytes()));
    if let Err(error) = sent {
        return Err((answer, broke(&error)));
    }
    let want = step.expect.as_bytes();
    let mut chunk = [0; 4096];
    while !(want.is_empty() || answer.windows(want.len()).any(|window| window == want)) {
        if Instant::now() >= deadline {
            return Err((answer, "no more in time".to_owned()));
        }
        if answer.len() > MAX_ANSWER {
            return Err((answer, format!("more than {MAX_ANSWER} bytes came")));
        }
        let read = stream
            .set_read_timeout(Some(until(deadline)))
            .and_then(|()| stream.read(&mut chunk));
        match read {
            Ok(0) => return Err((answer, "the connection was closed".to_owned())),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((answer, broke(&error))),
        }
    }
    Ok(())
}

fn until(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn step(send: &str, expect: &str) -> TcpStep {
        TcpStep {
            send: send.into(),
            expect: expect.into(),
        }
    }

    /// A server that answers each received chunk with the next text, then closes.
    fn served(answers: &'static [&'static str], steps: &[TcpStep]) -> Seen {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
            Ok(listener) => listener,
            Err(error) => panic!("{error}"),
        };
        let port = listener
            .local_addr()
            .map(|address| address.port())
            .unwrap_or(0);
        let server = std::thread::spawn(move || {
            if let Ok((mut stream, _)) = listener.accept() {
                let mut chunk = [0; 1024];
                for answer in answers {
                    if stream.read(&mut chunk).unwrap_or(0) == 0 {
                        return;
                    }
                    drop(stream.write_all(answer.as_bytes()));
                }
            }
        });
        let seen = converse(port, steps, Duration::from_secs(5));
        drop(server.join());
        seen
    }

    #[test]
    fn steps_follow_each_other() {
        let steps = [
            step("PING\r\n", "+PONG"),
            step("SET a 1\r\n", "+OK"),
            step("GET a\r\n", "$1\r\n1"),
        ];
        let seen = served(&["+PONG\r\n", "+OK\r\n", "$1\r\n1\r\n"], &steps);
        assert_eq!(seen, Seen::Good("3 steps answered as expected".into()));
    }

    #[test]
    fn a_wrong_answer_names_step_and_text() {
        let steps = [step("PING\r\n", "+PONG"), step("SET a 1\r\n", "+OK")];
        let seen = served(&["+PONG\r\n", "-READONLY\r\n"], &steps);
        assert!(
            matches!(&seen, Seen::Wrong(text) if text.contains("step 2: expected \"+OK\", got \"-READONLY\\r\\n\"")),
            "{seen:?}"
        );
    }

    #[test]
    fn a_closed_first_step_is_no_answer() {
        let seen = served(&[], &[step("PING\r\n", "+PONG")]);
        assert!(matches!(seen, Seen::Nothing(_)), "{seen:?}");
    }
}
