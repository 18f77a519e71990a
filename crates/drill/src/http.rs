//! As much HTTP/1.1 as asking an admin port takes: one request a connection, the answer read to its end.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer answers than this are cut off.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as far as it is text.
    pub body: String,
}

/// Gets `path` from `address` (`host:port`).
///
/// # Errors
/// The connection fails, is silent for ten seconds, or the answer is no HTTP.
pub fn get(address: &str, path: &str) -> io::Result<Answer> {
    ask(address, "GET", path, "")
}

/// Puts `body` to `path`.
///
/// # Errors
/// As [`get`].
pub fn put(address: &str, path: &str, body: &str) -> io::Result<Answer> {
    ask(address, "PUT", path, body)
}

/// A broker's metric from its admin port, summed over its labels; `None` if it is not told.
#[must_use]
pub fn metric(admin: &str, name: &str) -> Option<u64> {
    let answer = get(admin, "/metrics").ok().filter(|answer| answer.status == 200)?;
    sum(&answer.body, name)
}

fn sum(exposition: &str, name: &str) -> Option<u64> {
    let values = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with([' ', '{']);
        labelled.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.fold(None, |sum: Option<u64>, value| Some(sum.unwrap_or(0) + value as u64))
}

fn ask(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed() {
        let text = "# TYPE x counter\nx{a=\"1\"} 5\nx{a=\"2\"} 7\nx_other 9\n";
        assert_eq!(sum(text, "x"), Some(12));
        assert_eq!(sum("y 4\n", "y"), Some(4));
        assert_eq!(sum(text, "z"), None);
    }
}
