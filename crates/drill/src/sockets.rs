//! Bytes that went between brokers, by the kernel's own counters of their TCP connections.
//!
//! `ss` lists each socket with the process that holds it and what it received so far. A connection is *between
//! brokers* if both its ends are held by broker processes, and not by the same one. Each direction is counted once, by
//! its receiver. A connection that is closed takes its counters with it, so what it carried after it was last looked
//! at is missing: look often.

use std::collections::HashMap;
use std::process::Command;

/// What is known of the connections between some processes.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Bytes received by each socket so far: (local address, peer address).
    received: HashMap<(String, String), u64>,
    /// Bytes of sockets whose addresses were used again.
    retired: u64,
}

/// A TCP socket, as `ss` tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: String,
    peer: String,
    pid: u32,
    received: u64,
}

impl Sockets {
    /// Looks at the sockets of `pids` now, and returns the bytes that have gone between them in all that was seen so
    /// far. `None`: there is no `ss`, or it may not tell.
    pub fn look(&mut self, pids: &[u32]) -> Option<u64> {
        let output = Command::new("ss").args(["-tinpHO", "state", "established"]).output().ok()?;
        if !output.status.success() {
            return None;
        }
        self.note(&String::from_utf8_lossy(&output.stdout), pids)
    }

    fn note(&mut self, listing: &str, pids: &[u32]) -> Option<u64> {
        let sockets: Vec<Socket> = listing.lines().filter_map(parse).filter(|s| pids.contains(&s.pid)).collect();
        if sockets.is_empty() {
            // Brokers have sockets: whoever sees none may not look.
            return None;
        }
        let holder: HashMap<&str, u32> = sockets.iter().map(|socket| (socket.local.as_str(), socket.pid)).collect();
        for socket in &sockets {
            if holder.get(socket.peer.as_str()).is_none_or(|pid| *pid == socket.pid) {
                continue;
            }
            let known = self.received.entry((socket.local.clone(), socket.peer.clone())).or_default();
            if socket.received < *known {
                self.retired += *known;
            }
            *known = socket.received;
        }
        Some(self.retired + self.received.values().sum::<u64>())
    }
}

/// `0 0 127.0.0.1:9092 127.0.0.1:41234 users:(("ottla",pid=17,fd=9)) ... bytes_received:123 ...`
fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace();
    let (local, peer) = (words.nth(2)?, words.next()?);
    let digits = |key: &str| {
        let rest = &line[line.find(key)? + key.len()..];
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse::<u64>().ok()
    };
    // A Java listener on all addresses shows IPv4 peers as IPv6.
    let plain = |address: &str| address.replace("[::ffff:", "").replace(']', "");
    Some(Socket {
        local: plain(local),
        peer: plain(peer),
        pid: u32::try_from(digits("pid=")?).ok()?,
        // Left out by `ss` while it is zero.
        received: digits("bytes_received:").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn line(local: &str, peer: &str, pid: u32, received: u64) -> String {
        format!("0 0 {local} {peer} users:((\"x\",pid={pid},fd=7)) cubic rto:204 bytes_received:{received} segs_out:2")
    }

    #[test]
    fn only_what_goes_between_brokers_counts() {
        let mut sockets = Sockets::default();
        let listing = [
            line("127.0.0.1:1", "127.0.0.1:2", 10, 700),
            line("[::ffff:127.0.0.1]:2", "[::ffff:127.0.0.1]:1", 11, 50),
            line("127.0.0.1:1", "127.0.0.1:9", 10, 9_000),
            line("127.0.0.1:9", "127.0.0.1:1", 99, 9_000),
            line("127.0.0.1:3", "127.0.0.1:4", 10, 8_000),
            line("127.0.0.1:4", "127.0.0.1:3", 10, 8_000),
        ];
        assert_eq!(sockets.note(&listing.join("\n"), &[10, 11]), Some(750), "not clients, not a broker with itself");
        let grown = [line("127.0.0.1:1", "127.0.0.1:2", 10, 900), line("127.0.0.1:2", "127.0.0.1:1", 11, 50)];
        assert_eq!(sockets.note(&grown.join("\n"), &[10, 11]), Some(950));
        let again = [line("127.0.0.1:1", "127.0.0.1:2", 10, 5), line("127.0.0.1:2", "127.0.0.1:1", 12, 0)];
        assert_eq!(sockets.note(&again.join("\n"), &[10, 12]), Some(900 + 5 + 50), "ports come again");
        assert_eq!(sockets.note("", &[10]), None);
    }

    #[test]
    fn the_kernel_is_understood() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        client.write_all(&[7; 4321]).expect("written");
        server.read_exact(&mut [0; 4321]).expect("read");
        let output = Command::new("ss").args(["-tinpHO", "state", "established"]).output().expect("ss, of iproute2");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ours = text.lines().filter_map(parse).find(|socket| {
            socket.local == address.to_string() && socket.peer == client.local_addr().expect("bound").to_string()
        });
        let ours = ours.unwrap_or_else(|| panic!("not listed: {text}"));
        assert_eq!((ours.pid, ours.received), (std::process::id(), 4321));
    }
}
