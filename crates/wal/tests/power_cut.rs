//! Real power cuts: the ext4 shutdown ioctl (without flushing the journal) on a loop device, under load.
//!
//! Needs root, loop devices and e2fsprogs, so it runs only when asked for:
//! `OTTLA_POWER_CUTS=200 cargo test --release -p ottla-wal --test power_cut -- --ignored --nocapture`

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Lsn, NodeEpoch, NodeId, Offset, Random, SeededRandom, StreamEpoch, StreamId};
use futures::executor::block_on;
use ottla_wal as wal;
use wal::{AppendError, Opened, RecordKind, RecordMeta, TAG_BYTES, WalConfig, WalLocation, WriteAheadLog};

/// `_IOR('X', 125, __u32)` of the kernel's ext4 header.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither data nor the journal is flushed.
const NOLOGFLUSH: u32 = 2;
const STREAMS: u64 = 3;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A file system on a loop device, taken down when dropped.
struct Disk {
    device: String,
    mount: PathBuf,
    _home: tempfile::TempDir,
}

impl Disk {
    fn make() -> Self {
        let home = tempfile::tempdir().expect("directory");
        let image = home.path().join("image");
        File::create(&image).and_then(|file| file.set_len(256 << 20)).expect("image");
        let device = run("losetup", &["--find", "--show", image.to_str().expect("utf-8")]);
        run("mkfs.ext4", &["-q", "-F", &device]);
        let mount = home.path().join("mount");
        std::fs::create_dir(&mount).expect("mount point");
        let disk = Self { device, mount, _home: home };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &[&self.device, self.mount.to_str().expect("utf-8")]);
    }

    fn unmount(&self) {
        run("umount", &[self.mount.to_str().expect("utf-8")]);
    }

    #[allow(unsafe_code)]
    fn cut_power(&self) {
        let root = File::open(&self.mount).expect("mounted");
        let flags = NOLOGFLUSH;
        // SAFETY: the ioctl reads one u32 behind the pointer, which outlives the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(result, 0, "shutdown: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for (program, argument) in [("umount", self.mount.as_os_str()), ("losetup", "-d".as_ref())] {
            let mut command = Command::new(program);
            command.arg(argument);
            if program == "losetup" {
                command.arg(&self.device);
            }
            // What is not mounted any more need not be unmounted.
            let _ = command.output();
        }
    }
}

fn config(mount: &Path) -> WalConfig {
    WalConfig {
        capacity_bytes: 64 << 20,
        segment_bytes: 4 << 20,
        block_bytes_max: 256 << 10,
        memory_bytes: 32 << 20,
        ..WalConfig::new(WalLocation::Directory(mount.join("wal")), NodeId(1), "power")
    }
}

fn meta(stream: u64, base: i64) -> RecordMeta {
    RecordMeta {
        stream: StreamId(stream),
        stream_epoch: StreamEpoch(1),
        kind: RecordKind::Data,
        base_offset: Offset(base),
        next_offset: Offset(base + 1),
        max_timestamp_ms: base,
        tag: [base as u8; TAG_BYTES],
    }
}

fn payload(stream: u64, base: i64) -> Vec<u8> {
    let random = SeededRandom::new(stream << 40 | base as u64);
    let len = if random.below(20) == 0 { random.below(300_000) } else { random.below(5_000) };
    (0..len / 8 + 1).flat_map(|_| random.next_u64().to_le_bytes()).take(len as usize).collect()
}

/// What one stream knows: acknowledged below `acknowledged`, appended below `next`, trimmed below `trimmed`.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    next: i64,
    acknowledged: i64,
    trimmed: i64,
}

fn produce(wal: &dyn WriteAheadLog, stream: u64, known: &mut Known, stop: &AtomicBool) {
    let random = SeededRandom::new(stream << 50 | known.next as u64);
    let mut waiting = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match wal.append(&meta(stream, known.next), &payload(stream, known.next), &mut |_| ()) {
            Ok(appended) => {
                known.next += 1;
                waiting.push((appended.end, known.next));
            }
            Err(AppendError::Full | AppendError::NoMemory) => std::thread::sleep(Duration::from_micros(200)),
            Err(_) => break,
        }
        if random.below(3) == 0 && waiting.last().is_some_and(|last| block_on(wal.durable().wait(last.0)).is_err()) {
            break;
        }
        let durable = wal.durable().get();
        known.acknowledged = waiting.iter().filter(|at| at.0 <= durable).map(|at| at.1).max().unwrap_or(known.acknowledged);
        waiting.retain(|at| at.0 > durable);
    }
}

/// Reads everything back; returns the position of the first record of each stream that is still there.
fn check(opened: &Opened, known: &mut [Known]) {
    let mut seen = vec![Vec::new(); known.len()];
    for record in &opened.recovered.records {
        let (stream, base) = (record.meta.stream.0, record.meta.base_offset.0);
        assert_eq!(record.meta, meta(stream, base));
        let block = record.block.bytes().is_none().then(|| block_on(opened.wal.read_block(record.block.lsn())));
        if let Some(block) = block {
            record.block.publish(block.expect("readable").bytes().expect("with memory"));
        }
        let bytes = record.block.slice(record.position, record.len).expect("in its block");
        assert_eq!(bytes, payload(stream, base), "stream {stream}, record {base}");
        seen[stream as usize].push(base);
    }
    for (stream, (known, seen)) in known.iter_mut().zip(&seen).enumerate() {
        assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "stream {stream} has gaps or repeats");
        let (first, end) = (seen.first().copied(), seen.last().map_or(known.trimmed, |last| last + 1));
        assert!(first.is_none_or(|first| first <= known.trimmed), "stream {stream} lost its start: {known:?}");
        assert!(end >= known.acknowledged, "stream {stream} lost acknowledged records: {end} of {known:?}");
        assert!(end <= known.next, "stream {stream} has records that nobody appended: {end} of {known:?}");
        (known.next, known.acknowledged) = (end, end);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn no_acknowledged_record_is_lost_in_a_power_cut() {
    let cuts: u64 = std::env::var("OTTLA_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let disk = Disk::make();
    let random = SeededRandom::new(42);
    let mut known = [Known::default(); STREAMS as usize];
    let mut records = 0;
    for cut in 0..cuts {
        let opened = wal::open(&config(&disk.mount)).unwrap_or_else(|error| panic!("after cut {cut}: {error}"));
        check(&opened, &mut known);
        opened.wal.set_node_epoch(NodeEpoch(cut));
        if opened.wal.used() > opened.wal.capacity() / 2 {
            opened.wal.trim(opened.recovered.end);
            known.iter_mut().for_each(|known| known.trimmed = known.next);
        }
        let before: i64 = known.iter().map(|known| known.acknowledged).sum();
        let stop = AtomicBool::new(false);
        let delay = Duration::from_micros(1_000 + random.below(60_000));
        std::thread::scope(|scope| {
            for (stream, known) in known.iter_mut().enumerate() {
                let (wal, stop) = (&*opened.wal, &stop);
                scope.spawn(move || produce(wal, stream as u64, known, stop));
            }
            std::thread::sleep(delay);
            disk.cut_power();
            stop.store(true, Ordering::Relaxed);
        });
        records += known.iter().map(|known| known.acknowledged).sum::<i64>() - before;
        drop(opened);
        disk.unmount();
        disk.mount();
    }
    let opened = wal::open(&config(&disk.mount)).expect("after the last cut");
    check(&opened, &mut known);
    assert!(opened.recovered.end > Lsn(0) && records > cuts as i64, "only {records} records were acknowledged");
    eprintln!("{cuts} power cuts, {records} records acknowledged and found");
    block_on(opened.wal.close()).expect("close");
    drop(opened);
    disk.unmount();
}
