//! Real power cuts: the ext4 shutdown ioctl (without flushing the journal), under load, on a disk with a write cache.
//!
//! The disk is a loop device whose backing file lies on another ext4: what was written but not flushed is in the
//! outer file system's page cache, a flush of the disk is an fsync out there, and the cut takes the outer file
//! system down. So O_DIRECT alone saves nothing: without fdatasync acknowledged records are lost, which the second
//! test shows, with the same code and a `fdatasync` that does nothing.
//!
//! Needs root, loop devices and e2fsprogs, so it runs only when asked for:
//! `OTTLA_POWER_CUTS=200 cargo test --release -p ottla-wal --test power_cut -- --ignored --nocapture`

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Lsn, NodeEpoch, NodeId, Offset, Random, SeededRandom, StreamEpoch, StreamId};
use futures::executor::block_on;
use ottla_wal as wal;
use parking_lot::Mutex;
use wal::{AppendError, Opened, RecordKind, RecordMeta, TAG_BYTES, WalConfig, WalLocation, WriteAheadLog};

/// `_IOR('X', 125, __u32)` of the kernel's ext4 header.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither data nor the journal is flushed.
const NOLOGFLUSH: u32 = 2;
const STREAMS: u64 = 3;

static FDATASYNC_LEFT_OUT: AtomicBool = AtomicBool::new(false);
static FDATASYNCS: AtomicU64 = AtomicU64::new(0);
/// The switch above is the whole process's: one test at a time.
static ONE_TEST: Mutex<()> = Mutex::new(());

/// Takes libc's place in this program.
// SAFETY: the same signature and meaning as libc's.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    FDATASYNCS.fetch_add(1, Ordering::Relaxed);
    if FDATASYNC_LEFT_OUT.load(Ordering::Relaxed) {
        return 0;
    }
    // SAFETY: a system call that touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_fdatasync, fd) as libc::c_int }
}

fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let failed = || format!("{program} {arguments:?}: {}", text(&output.stderr));
    output.status.success().then(|| text(&output.stdout)).ok_or_else(failed)
}

fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|error| panic!("{error}"))
}

/// An ext4 on a loop device. The device caches writes as its backing file does, until a flush.
struct Volume {
    image: String,
    mount: PathBuf,
    device: Option<String>,
}

impl Volume {
    fn make(home: &Path, bytes: u64) -> Self {
        let (image, mount) = (home.join("image"), home.join("mount"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("image");
        std::fs::create_dir(&mount).expect("mount point");
        let image = image.to_str().expect("utf-8").to_owned();
        run("mkfs.ext4", &["-q", "-F", &image]);
        run("sync", &["-f", &image]);
        let mut volume = Self { image, mount, device: None };
        volume.attach();
        volume
    }

    fn attach(&mut self) {
        let device = run("losetup", &["--find", "--show", "--direct-io=off", &self.image]);
        run("mount", &[self.device.insert(device), self.mount.to_str().expect("utf-8")]);
    }

    fn detach(&mut self) -> Result<(), String> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let unmounted = try_run("umount", &[self.mount.to_str().expect("utf-8")]);
        unmounted.and(try_run("losetup", &["-d", &device])).map(|_| ())
    }

    #[allow(unsafe_code)]
    fn shut_down(&self) {
        let root = File::open(&self.mount).expect("mounted");
        let flags = NOLOGFLUSH;
        // SAFETY: the ioctl reads one u32 behind the pointer, which outlives the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(result, 0, "shutdown: {}", std::io::Error::last_os_error());
    }
}

/// A file system on a disk with a write cache, taken down when dropped.
struct Disk {
    inner: Volume,
    outer: Volume,
    _home: tempfile::TempDir,
}

impl Disk {
    fn make() -> Self {
        let home = tempfile::tempdir().expect("directory");
        let outer = Volume::make(home.path(), 256 << 20);
        let inner = Volume::make(&outer.mount, 160 << 20);
        Self { inner, outer, _home: home }
    }

    /// What the disk had not flushed is lost.
    fn cut_power(&self) {
        self.outer.shut_down();
        self.inner.shut_down();
    }

    fn power_up(&mut self) {
        self.inner.detach().and_then(|()| self.outer.detach()).unwrap_or_else(|error| panic!("{error}"));
        self.outer.attach();
        self.inner.attach();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for volume in [&mut self.inner, &mut self.outer] {
            if let Err(error) = volume.detach() {
                eprintln!("{error}");
            }
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
        known.acknowledged =
            waiting.iter().filter(|at| at.0 <= durable).map(|at| at.1).max().unwrap_or(known.acknowledged);
        waiting.retain(|at| at.0 > durable);
    }
}

/// Reads everything back. An error names what is missing, altered or invented.
fn check(opened: &Opened, known: &mut [Known]) -> Result<(), String> {
    let mut seen = vec![Vec::new(); known.len()];
    for record in &opened.recovered.records {
        let (stream, base) = (record.meta.stream.0, record.meta.base_offset.0);
        let named = |what: &str| format!("stream {stream}, record {base}: {what}");
        if record.block.bytes().is_none() {
            let block = block_on(opened.wal.read_block(record.block.own_lsn().expect("of this log")))
                .map_err(|error| named(&error.to_string()))?;
            record.block.publish(block.bytes().ok_or(named("no memory"))?);
        }
        let bytes = record.block.slice(record.position, record.len).ok_or(named("outside of its block"))?;
        if record.meta != meta(stream, base) || bytes != payload(stream, base) {
            return Err(named("altered"));
        }
        seen.get_mut(stream as usize).ok_or(named("invented"))?.push(base);
    }
    for (stream, (known, seen)) in known.iter_mut().zip(&seen).enumerate() {
        let (first, end) = (seen.first().copied(), seen.last().map_or(known.trimmed, |last| last + 1));
        let wrong = [
            ("has gaps or repeats", seen.windows(2).any(|pair| pair[0] + 1 != pair[1])),
            ("lost its start", first.is_some_and(|first| first > known.trimmed)),
            ("lost acknowledged records", end < known.acknowledged),
            ("has records that nobody appended", end > known.next),
        ];
        if let Some((what, _)) = wrong.iter().find(|(_, found)| *found) {
            return Err(format!("stream {stream} {what}: {first:?} to {end} of {known:?}"));
        }
        (known.next, known.acknowledged) = (end, end);
    }
    Ok(())
}

/// Cuts the power under load so many times; returns how many records were acknowledged, all of which were found.
fn cut_power(cuts: u64, sync: bool) -> Result<u64, String> {
    let mut disk = Disk::make();
    let random = SeededRandom::new(42);
    let mut known = [Known::default(); STREAMS as usize];
    let mut records = 0;
    for cut in 0..cuts {
        let opened = wal::open(&config(&disk.inner.mount)).map_err(|error| format!("after cut {cut}: {error}"))?;
        check(&opened, &mut known).map_err(|lost| format!("after cut {cut}: {lost}"))?;
        opened.wal.set_node_epoch(NodeEpoch(cut));
        if opened.wal.used() > opened.wal.capacity() / 2 {
            opened.wal.trim(opened.recovered.end);
            known.iter_mut().for_each(|known| known.trimmed = known.next);
        }
        let before: i64 = known.iter().map(|known| known.acknowledged).sum();
        let stop = AtomicBool::new(false);
        let delay = Duration::from_micros(1_000 + random.below(100_000));
        FDATASYNC_LEFT_OUT.store(!sync, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for (stream, known) in known.iter_mut().enumerate() {
                let (wal, stop) = (&*opened.wal, &stop);
                scope.spawn(move || produce(wal, stream as u64, known, stop));
            }
            std::thread::sleep(delay);
            disk.cut_power();
            stop.store(true, Ordering::Relaxed);
        });
        FDATASYNC_LEFT_OUT.store(false, Ordering::Relaxed);
        records += known.iter().map(|known| known.acknowledged).sum::<i64>() - before;
        drop(opened);
        disk.power_up();
    }
    let opened = wal::open(&config(&disk.inner.mount)).map_err(|error| format!("after the last cut: {error}"))?;
    check(&opened, &mut known).map_err(|lost| format!("after the last cut: {lost}"))?;
    assert!(opened.recovered.end > Lsn(0) && records > cuts as i64, "only {records} records were acknowledged");
    block_on(opened.wal.close()).expect("close");
    Ok(records as u64)
}

#[test]
#[ignore = "needs root and loop devices"]
fn no_acknowledged_record_is_lost_in_a_power_cut() {
    let _alone = ONE_TEST.lock();
    let cuts: u64 = std::env::var("OTTLA_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let syncs = FDATASYNCS.load(Ordering::Relaxed);
    let records = cut_power(cuts, true).unwrap_or_else(|lost| panic!("{lost}"));
    let syncs = FDATASYNCS.load(Ordering::Relaxed) - syncs;
    assert!(syncs > cuts, "the log does not sync by this program's fdatasync");
    eprintln!("{cuts} power cuts, {syncs} fdatasyncs, {records} records acknowledged, all of them found");
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_log_without_fdatasync_loses_acknowledged_records() {
    let _alone = ONE_TEST.lock();
    let lost = cut_power(20, false).expect_err("without fdatasync the test above must fail");
    assert!(lost.contains("lost acknowledged records") || lost.contains("damaged"), "{lost}");
    eprintln!("without fdatasync: {lost}");
}
