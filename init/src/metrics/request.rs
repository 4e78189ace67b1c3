//! What a client asks for: the head of an HTTP request (RFC 9112), as far as an answer
//! needs it. Pure; clients are hostile.

/// Longest head.
pub(crate) const HEAD_MAX: usize = 4 * 1024;

/// What is done about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It is not whole yet.
    More,
    /// The metrics; without the body for HEAD.
    Metrics {
        /// GET.
        body: bool,
    },
    /// An error, by its status line.
    Error(&'static str),
}

/// Looks at what has come so far.
pub(crate) fn wanted(bytes: &[u8]) -> Wanted {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
    match end {
        Some(end) if end <= HEAD_MAX => line(bytes.get(..end).unwrap_or_default()),
        None if bytes.len() <= HEAD_MAX => Wanted::More,
        _ => Wanted::Error("431 Request Header Fields Too Large"),
    }
}

fn line(head: &[u8]) -> Wanted {
    const BAD: Wanted = Wanted::Error("400 Bad Request");
    let Ok(head) = std::str::from_utf8(head) else {
        return BAD;
    };
    let mut words = head.split("\r\n").next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return BAD;
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !target.starts_with('/') {
        return BAD;
    }
    if target.split('?').next() != Some("/metrics") {
        return Wanted::Error("404 Not Found");
    }
    match method {
        "GET" => Wanted::Metrics { body: true },
        "HEAD" => Wanted::Metrics { body: false },
        _ => Wanted::Error("405 Method Not Allowed"),
    }
}

/// The answer's bytes.
pub(crate) fn answer(status: &str, body: &str, with_body: bool) -> Vec<u8> {
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        text.push_str(body);
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn requests_are_told_apart() {
        let metrics = Wanted::Metrics { body: true };
        for (text, expected) in [
            ("", Wanted::More),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", Wanted::More),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", metrics),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\nrest", metrics),
            (
                "HEAD /metrics HTTP/1.1\r\n\r\n",
                Wanted::Metrics { body: false },
            ),
            ("GET / HTTP/1.1\r\n\r\n", Wanted::Error("404 Not Found")),
            (
                "GET /metrics/../x HTTP/1.1\r\n\r\n",
                Wanted::Error("404 Not Found"),
            ),
            (
                "POST /metrics HTTP/1.1\r\n\r\n",
                Wanted::Error("405 Method Not Allowed"),
            ),
            (
                "GET /metrics HTTP/2\r\n\r\n",
                Wanted::Error("400 Bad Request"),
            ),
            (
                "GET metrics HTTP/1.1\r\n\r\n",
                Wanted::Error("400 Bad Request"),
            ),
            (
                "GET  /metrics HTTP/1.1\r\n\r\n",
                Wanted::Error("400 Bad Request"),
            ),
            ("\r\n\r\n", Wanted::Error("400 Bad Request")),
        ] {
            assert_eq!(wanted(text.as_bytes()), expected, "{text:?}");
        }
        let long = [
            b"GET /metrics HTTP/1.1\r\nx: ".to_vec(),
            vec![b'x'; HEAD_MAX],
        ]
        .concat();
        let too_large = Wanted::Error("431 Request Header Fields Too Large");
        assert_eq!(wanted(&long), too_large);
        assert_eq!(wanted(&[long, b"\r\n\r\n".to_vec()].concat()), too_large);
    }

    #[test]
    fn answers_byte_for_byte() {
        let rest =
            "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 2\r\n";
        assert_eq!(
            answer("200 OK", "a\n", true),
            format!("HTTP/1.1 200 OK\r\n{rest}Connection: close\r\n\r\na\n").as_bytes()
        );
        assert_eq!(
            answer("405 Method Not Allowed", "a\n", false),
            format!("HTTP/1.1 405 Method Not Allowed\r\n{rest}Allow: GET, HEAD\r\nConnection: close\r\n\r\n")
                .as_bytes()
        );
    }

    #[test]
    fn no_request_can_break_the_reader() {
        fuzz(
            &[b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"],
            |bytes, random| {
                let _ = wanted(bytes);
                let _ = wanted(&bytes[..random.below(bytes.len() + 1)]);
            },
        );
    }
}
