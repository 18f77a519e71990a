//! Sealing at every step of the writer: before, between and after each of its writes, syncs and looks at the seal; the
//! log is read at once, or some more steps of the writer later. Whatever the writer acknowledged must be found, also
//! after a power cut, and a second reading must find the same, although the writer goes on until it sees the seal.

use common::{NodeEpoch, NodeId};
use parking_lot::Mutex;

use super::*;
use crate::format::seal_sector::{SealSector, SealedBy};
use crate::recovery::recover_sealed;
use crate::seal::{find_end, write};

const SEALED: SealSector =
    SealSector { uuid: UUID, sealed: Some(SealedBy { node: NodeId(2), epoch: NodeEpoch(1) }), end: None };

/// What the one who seals has found.
type Found = Arc<Mutex<Option<Result<Lsn, String>>>>;

/// What an owner asks before it opens its log.
pub(super) fn is_sealed(device: &SimulatedDevice) -> bool {
    let mut page = vec![0; 4096];
    device.read_seal(&mut page).expect("simulated");
    SealSector::decode(&page).expect("whole").sealed.is_some()
}

fn read(device: &SimulatedDevice, found: &Found) {
    let end = find_end(device, UUID, SEGMENT).map_err(|error| error.to_string());
    *found.lock() = Some(end);
}

/// Runs some lives of a log that is sealed at I/O step `step`, and read `later` steps after that. Returns whether the
/// seal came while the log was written.
fn run_sealed(seed: u64, step: u64, later: u64, checks_seal: bool) -> Result<bool, String> {
    let mut history = History::new(seed, Honesty::Honest);
    history.shared = checks_seal;
    let device = Arc::clone(&history.device);
    write(&*device, &SealSector::open(UUID)).map_err(|error| error.to_string())?;
    let found = Found::default();
    let finding = Arc::clone(&found);
    let sealing = move |device: &SimulatedDevice| {
        write(device, &SEALED).expect("simulated");
        device.beside_after(later, Box::new(move |device| read(device, &finding)));
    };
    device.beside_after(step, Box::new(sealing));
    let mut reached = false;
    for _ in 0..3 {
        match history.live() {
            Ok(()) | Err(Stop::Crash) => {}
            Err(Stop::Sealed) => reached = true,
            Err(Stop::Violation(what)) => return Err(what),
        }
    }
    // The owner is gone: what has not happened yet happens now.
    while let Some(what) = device.take_beside() {
        what(&device);
    }
    let end = found.lock().take().ok_or("nobody read the log")??;
    if history.random.below(2) == 0 {
        device.lose_power();
    }
    for _ in 0..2 {
        let recovery = recover_sealed(&*device, UUID, SEGMENT, end).map_err(|error| error.to_string())?;
        assert_eq!(recovery.recovered.end, end);
        history.check(&recovery.recovered.records, &recovery.start.ring)?;
    }
    Ok(reached)
}

fn run_all_sealed(histories: u64, checks_seal: bool) -> Result<u64, String> {
    let mut seals = 0;
    for seed in 0..histories {
        for later in [0, 1, 2, 5, 11] {
            for step in 0.. {
                let run = run_sealed(seed, step, later, checks_seal);
                let reached = run.map_err(|what| format!("seed {seed}, step {step}, read {later} later: {what}"))?;
                if !reached && checks_seal {
                    break;
                }
                if step > 60 && !checks_seal {
                    break;
                }
                seals += u64::from(reached);
            }
        }
    }
    Ok(seals)
}

#[test]
fn whoever_seals_at_any_step_finds_all_that_was_acknowledged() {
    // Each is run some hundred times.
    let histories = std::env::var("OTTLA_WAL_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(40) / 8;
    let seals = run_all_sealed(histories, true).unwrap_or_else(|what| panic!("{what}"));
    assert!(seals >= histories, "{seals} seals in {histories} histories");
    eprintln!("{histories} histories, {seals} seals");
}

/// The same without the writer's look at the seal: the test must find it out.
#[test]
fn a_writer_that_does_not_look_at_the_seal_is_found_out() {
    let found = run_all_sealed(20, false).expect_err("records were acknowledged after the seal");
    assert!(found.contains("lost"), "{found}");
}
