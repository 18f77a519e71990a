//! Random requests, valid by the guard's own table, and what hostile hands make of them.

use common::{Random, SeededRandom};
use kafka_protocol::messages::ApiKey;
use shapes::{Request, Shape, Step};
use table::{REQUESTS, SHAPES};

#[allow(dead_code)]
#[path = "../../src/guard/shapes.rs"]
mod shapes;
#[path = "../../src/guard/table.rs"]
mod table;

/// Every API key and version of the table that the stock codec has a key for.
pub(crate) fn all() -> Vec<(i16, i16)> {
    let versions = |request: &'static Request| {
        (request.version_min..).zip(request.shapes).map(|(version, _)| (request.key, version))
    };
    REQUESTS.iter().filter(|request| ApiKey::try_from(request.key).is_ok()).flat_map(versions).collect()
}

/// A random valid frame of this key and version.
pub(crate) fn valid(random: &SeededRandom, key: i16, version: i16) -> Vec<u8> {
    let mut maker = Maker { random, out: Vec::new(), room: 2000 };
    maker.out.extend_from_slice(&key.to_be_bytes());
    maker.out.extend_from_slice(&version.to_be_bytes());
    maker.out.extend_from_slice(&(random.next_u64() as i32).to_be_bytes());
    maker.step(Step::String(true));
    if ApiKey::try_from(key).expect("a key of Kafka").request_header_version(version) >= 2 {
        maker.step(Step::Tags(&[]));
    }
    let request = REQUESTS.iter().find(|request| request.key == key).expect("in the table");
    maker.shape(request.shapes[usize::try_from(version - request.version_min).expect("in the table")]);
    maker.out
}

struct Maker<'r> {
    random: &'r SeededRandom,
    out: Vec<u8>,
    /// Elements that may still be made, so that nested arrays end.
    room: u64,
}

impl Maker<'_> {
    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn shape(&mut self, index: u16) {
        for step in SHAPES[usize::from(index)].steps {
            self.step(*step);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fixed(len) => self.random_bytes(len.into()),
            Step::String(nullable) => {
                let len = self.len(nullable, 12, 300);
                self.out.extend_from_slice(&len.map_or(-1, |len| len as i16).to_be_bytes());
                self.text(len.unwrap_or(0));
            }
            Step::CompactString(nullable) => {
                let len = self.len(nullable, 12, 300);
                self.varint(len.map_or(0, |len| len + 1));
                self.text(len.unwrap_or(0));
            }
            Step::Bytes(nullable) => {
                let len = self.len(nullable, 40, 5000);
                self.out.extend_from_slice(&len.map_or(-1, |len| len as i32).to_be_bytes());
                self.random_bytes(len.unwrap_or(0));
            }
            Step::CompactBytes(nullable) => {
                let len = self.len(nullable, 40, 5000);
                self.varint(len.map_or(0, |len| len + 1));
                self.random_bytes(len.unwrap_or(0));
            }
            Step::Array { nullable, element } => {
                let count = self.count(nullable);
                self.out.extend_from_slice(&count.map_or(-1, |count| count as i32).to_be_bytes());
                (0..count.unwrap_or(0)).for_each(|_| self.shape(element));
            }
            Step::CompactArray { nullable, element } => {
                let count = self.count(nullable);
                self.varint(count.map_or(0, |count| count + 1));
                (0..count.unwrap_or(0)).for_each(|_| self.shape(element));
            }
            Step::Nullable(shape) => {
                let present = self.below(3) > 0;
                self.out.push(if present { 1 } else { 0xFF });
                if present {
                    self.shape(shape);
                }
            }
            Step::Tags(known) => self.tags(known),
        }
    }

    fn tags(&mut self, known: &'static [(u32, u16)]) {
        let chosen: Vec<(u32, u16)> = known.iter().copied().filter(|_| self.below(2) == 0).collect();
        let unknown = if self.below(8) == 0 { self.below(4) } else { 0 };
        self.varint(chosen.len() as u64 + unknown);
        for (tag, shape) in chosen {
            let mut field = Maker { random: self.random, out: Vec::new(), room: 20 };
            field.shape(shape);
            self.varint(tag.into());
            self.varint(field.out.len() as u64);
            self.out.extend_from_slice(&field.out);
        }
        for index in 0..unknown {
            let len = self.below(20);
            self.varint(1000 + index);
            self.varint(len);
            self.random_bytes(len);
        }
    }

    fn len(&self, nullable: bool, usual: u64, rare: u64) -> Option<u64> {
        match self.below(40) {
            0..8 if nullable => None,
            39 => Some(self.below(rare)),
            _ => Some(self.below(usual)),
        }
    }

    fn count(&mut self, nullable: bool) -> Option<u64> {
        let count = self.len(nullable, 4, 60)?.min(self.room);
        self.room -= count;
        Some(count)
    }

    fn text(&mut self, len: u64) {
        for _ in 0..len {
            self.out.push(b'a' + self.below(26) as u8);
        }
    }

    fn random_bytes(&mut self, len: u64) {
        for _ in 0..len {
            self.out.push(self.random.next_u64() as u8);
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

/// Damages `bytes` in one to four ways, from `from` on.
pub(crate) fn mutate(random: &SeededRandom, bytes: &mut Vec<u8>, from: usize) {
    for _ in 0..=random.below(4) {
        if bytes.len() <= from {
            return;
        }
        let at = from + random.below((bytes.len() - from) as u64) as usize;
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next_u64() as u8,
            2 => bytes.truncate(at),
            3 => overwrite(bytes, at, &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
            4 => overwrite(bytes, at, &(random.next_u64() as i32 >> random.below(32)).to_be_bytes()),
            5 => overwrite(bytes, at, &i32::MAX.to_be_bytes()),
            6 => {
                let end = (at + random.below(50) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            7 => {
                let end = (at + random.below(20) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => (0..random.below(64)).for_each(|_| bytes.push(random.next_u64() as u8)),
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let len = with.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&with[..len]);
}
