//! Greets over HTTP: a program like any that cargo builds.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let address = std::env::var("GREETER_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let name = std::env::var("GREETER_NAME").unwrap_or_else(|_| "stranger".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {address}");
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, &name)) {
            eprintln!("a request failed: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (status, body) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", format!("Good day, {name}.\n")),
        _ => ("404 Not Found", "There is nothing here.\n".to_owned()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
