//! One request in HTTP/1.1 (RFC 9112) over a plain socket: status, headers, body by
//! `content-length`, chunks or the end of the connection. All bounded: the other
//! end is a guest under test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Seen, json};
use crate::plan::HttpProbe;

/// Longest answer that is read.
const MAX_ANSWER: usize = 4 << 20;
/// Longest that one request may take; the next try may be luckier.
const ONE_TRY: Duration = Duration::from_secs(15);
/// How much of a wrong body is shown.
const SHOWN: usize = 160;

/// Asks once, on this port of the host.
pub(crate) fn ask(port: u16, request: &HttpProbe, left: Duration) -> Seen {
    let deadline = Instant::now() + left.clamp(Duration::from_secs(1), ONE_TRY);
    let what = format!("{} {}", request.method, request.path);
    let answer = match exchange(port, request, deadline) {
        Ok(answer) => answer,
        Err(text) => return Seen::Nothing(format!("{what}: {text}")),
    };
    match parse(&answer, request.method == "HEAD") {
        Ok(parsed) => judge(request, &what, &parsed),
        Err(text) => Seen::Wrong(format!("{what}: {text}")),
    }
}

/// The request as it is sent. Headers of the plan take the place of ours.
fn head(request: &HttpProbe) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    let given = |name: &str| {
        let mut names = request.headers.keys();
        names.any(|given| given.eq_ignore_ascii_case(name))
    };
    let ours = [
        ("host", "127.0.0.1"),
        ("user-agent", "slipform-test"),
        ("accept", "*/*"),
    ];
    for (name, value) in ours.into_iter().filter(|(name, _)| !given(name)) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = &request.body {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("connection: close\r\n\r\n");
    text
}

fn exchange(port: u16, request: &HttpProbe, deadline: Instant) -> Result<Vec<u8>, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bodyless = request.method == "HEAD";
    let is_complete = |answer: &[u8]| is_complete(answer, bodyless);
    let left = || {
        deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut stream = TcpStream::connect_timeout(&address, left())
        .map_err(|error| format!("no connection: {error}"))?;
    let text = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => format!("the connection broke: {error}"),
    };
    stream.set_write_timeout(Some(left())).map_err(text)?;
    stream.write_all(head(request).as_bytes()).map_err(text)?;
    // A server may refuse by its answer and not read the body to its end.
    if let Some(body) = &request.body {
        drop(stream.write_all(body.as_bytes()));
    }
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        if Instant::now() >= deadline {
            return Err("no whole answer in time".to_owned());
        }
        stream.set_read_timeout(Some(left())).map_err(text)?;
        match stream.read(&mut chunk) {
            Ok(0) if answer.is_empty() => {
                return Err("the connection was closed without an answer".to_owned());
            }
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset behind a complete answer: servers that do not linger do that.
            Err(_) if is_complete(&answer) => return Ok(answer),
            Err(error) => return Err(text(error)),
        }
        if answer.len() > MAX_ANSWER {
            answer.truncate(MAX_ANSWER);
            return Ok(answer);
        }
        if is_complete(&answer) {
            return Ok(answer);
        }
    }
}

/// Status and body.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// Where the head ends and the body begins.
fn split(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&answer[..at], &answer[at + 4..]))
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

fn is_chunked(head: &[u8]) -> bool {
    header(head, "transfer-encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"))
}

/// The body is there to its announced end; without an announcement only the end
/// of the connection tells.
fn is_complete(answer: &[u8], bodyless: bool) -> bool {
    let Some((head, body)) = split(answer) else {
        return false;
    };
    if bodyless {
        return true;
    }
    if is_chunked(head) {
        return dechunk(body).is_some();
    }
    header(head, "content-length")
        .and_then(|value| value.parse::<usize>().ok())
        .is_some_and(|length| body.len() >= length)
}

fn parse(answer: &[u8], bodyless: bool) -> Result<Answer, String> {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    let (head, body) = split(answer).ok_or_else(|| format!("no HTTP answer: {}", shown(answer)))?;
    let line = String::from_utf8_lossy(head);
    let line = line.split("\r\n").next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or_else(|| format!("no HTTP answer: {}", shown(line.as_bytes())))?;
    let body = if bodyless {
        Vec::new()
    } else if is_chunked(head) {
        dechunk(body).ok_or("the chunked body is cut off")?
    } else {
        match header(head, "content-length").map(|value| value.parse::<usize>()) {
            Some(Ok(length)) if body.len() < length.min(MAX_ANSWER / 2) => {
                return Err(format!(
                    "the body is cut off: {} of {length} bytes",
                    body.len()
                ));
            }
            Some(Ok(length)) => body[..body.len().min(length)].to_vec(),
            Some(Err(_)) => return Err("its content-length is no number".to_owned()),
            None => body.to_vec(),
        }
    };
    Ok(Answer { status, body })
}

/// The joined chunks (RFC 9112, 7.1), if the last one is there.
fn dechunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?;
        let size = size.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        body = body.get(end + 2..)?;
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(..size)?);
        body = body.get(size.checked_add(2)?..)?;
    }
}

fn judge(request: &HttpProbe, what: &str, answer: &Answer) -> Seen {
    let mut got = format!("{what} gave status {}", answer.status);
    if answer.status != request.status {
        return Seen::Wrong(format!("{got}, not {}", request.status));
    }
    if let Some(want) = &request.contains {
        let found = want.is_empty()
            || answer
                .body
                .windows(want.len())
                .any(|window| window == want.as_bytes());
        if !found {
            let shown = String::from_utf8_lossy(&answer.body[..answer.body.len().min(SHOWN)]);
            return Seen::Wrong(format!(
                "{got} without {want:?}; its body of {} bytes begins with {shown:?}",
                answer.body.len()
            ));
        }
        got.push_str(&format!(" with {want:?} in it"));
    }
    match json::judge(&request.json, &answer.body) {
        Ok(()) => Seen::Good(got),
        Err(text) => Seen::Wrong(format!("{got}, but {text}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn request(contains: Option<&str>) -> HttpProbe {
        HttpProbe {
            contains: contains.map(str::to_owned),
            ..HttpProbe::default()
        }
    }

    fn served(answer: &'static [u8], contains: Option<&'static str>) -> Seen {
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
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap_or(0);
                assert!(head[..read].starts_with(b"GET / HTTP/1.1\r\nhost: "));
                drop(stream.write_all(answer));
            }
        });
        let seen = ask(port, &request(contains), Duration::from_secs(5));
        drop(server.join());
        seen
    }

    #[test]
    fn answers_are_judged() {
        let hello = Some("hello");
        let good: &[&[u8]] = &[
            b"HTTP/1.0 200 OK\r\n\r\nwell hello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello and more",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ];
        for answer in good {
            let seen = served(answer, hello);
            assert!(matches!(seen, Seen::Good(_)), "{seen:?}");
        }
        let wrong: &[(&[u8], &str)] = &[
            (
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello",
                "status 404, not 200",
            ),
            (
                b"HTTP/1.1 200 OK\r\n\r\nbye",
                "without \"hello\"; its body of 3 bytes begins with \"bye\"",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
                "cut off: 5 of 50",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello",
                "no number",
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nhello",
                "cut off",
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP answer: SSH-2.0"),
            (b"hello", "no HTTP answer: hello"),
        ];
        for (answer, text) in wrong {
            let seen = served(answer, hello);
            assert!(
                matches!(&seen, Seen::Wrong(detail) if detail.contains(text)),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn silence_is_not_an_answer() {
        let seen = served(b"", None);
        assert!(
            matches!(&seen, Seen::Nothing(detail) if detail.contains("without an answer")),
            "{seen:?}"
        );
        // Port 9 of the loopback: nobody listens.
        let seen = ask(9, &request(None), Duration::from_secs(1));
        assert!(
            matches!(&seen, Seen::Nothing(detail) if detail.contains("no connection")),
            "{seen:?}"
        );
    }

    #[test]
    fn any_bytes_are_taken() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        let mut seed = 0x0123_4567_89ab_cdef_u64;
        for _ in 0..20_000 {
            let mut bytes = text.to_vec();
            for _ in 0..3 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            if let Ok(answer) = parse(&bytes, false) {
                assert!(answer.body.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn requests_say_what_the_plan_says() {
        let mut probe = request(None);
        probe.method = "POST".into();
        probe.path = "/items?x=1".into();
        probe.body = Some("{}".into());
        let own = [("Host", "example"), ("content-type", "application/json")];
        probe.headers = own.map(|(name, value)| (name.into(), value.into())).into();
        assert_eq!(
            head(&probe),
            "POST /items?x=1 HTTP/1.1\r\nuser-agent: slipform-test\r\naccept: */*\r\n\
             Host: example\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
             connection: close\r\n\r\n"
        );
    }

    #[test]
    fn json_and_bodyless_answers_are_judged() {
        let mut probe = request(None);
        probe.json.insert("ok".into(), true.into());
        let answer = |body: &str| Answer {
            status: 200,
            body: body.into(),
        };
        let seen = judge(&probe, "GET /", &answer("{\"ok\":true}"));
        assert!(matches!(seen, Seen::Good(_)), "{seen:?}");
        let seen = judge(&probe, "GET /", &answer("{\"ok\":false}"));
        assert!(
            matches!(&seen, Seen::Wrong(text) if text.contains("has false at")),
            "{seen:?}"
        );
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n";
        assert!(is_complete(head, true) && !is_complete(head, false));
        assert!(parse(head, true).is_ok() && parse(head, false).is_err());
    }
}
