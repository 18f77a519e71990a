//! Bugs that can be put back, to see whether the tests find them. Only with the cargo feature `planted-bugs`, in which the
//! environment variable `OTTLA_PLANTED` names one; without the feature [`is`] is `false` and the code behind it is gone.
//!
//! Each stands at the one place where the rule lives that it breaks.

/// A rule, by how it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log acknowledges what it wrote and did not sync.
    AckBeforeFsync,
    /// The log takes a sync that failed for one that did not.
    AckAfterFailedFsync,
    /// The owner of a shared log does not read the seal after a flush.
    SkipSealCheck,
    /// The log acknowledges while its owner has no lease.
    SkipPublicationGate,
    /// A log is taken over without a seal in it.
    AdoptWithoutSeal,
    /// The log is trimmed up to what is durable, whether objects hold it or not.
    TrimUncommitted,
    /// An object is committed although nobody knows whether its put succeeded.
    CommitUnsurePut,
    /// A read of the object store that fails is taken for one that found nothing.
    FailedGetIsEmpty,
    /// Metadata commits objects of owners whose epoch has passed.
    SkipEpochCheck,
    /// Records of epochs that nobody was granted count.
    CountVoidEpochs,
    /// Who seals a log does not wait for metadata to be current.
    SealWithoutCatchingUp,
    /// A controller has logs sealed without knowing whether it still leads.
    SealUnconfirmed,
    /// A partition opens without what its records say of producers.
    ForgetProducers,
    /// A broker serves without a lease.
    ServeWithoutLease,
    /// Readers are served what is not durable yet.
    ReadUndurable,
    /// A partition is written to while its tail is handed over.
    MoveWithoutParking,
    /// A move whose outcome is not known is taken for one that failed.
    ResumeWithoutCancelling,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AckBeforeFsync,
        Self::AckAfterFailedFsync,
        Self::SkipSealCheck,
        Self::SkipPublicationGate,
        Self::AdoptWithoutSeal,
        Self::TrimUncommitted,
        Self::CommitUnsurePut,
        Self::FailedGetIsEmpty,
        Self::SkipEpochCheck,
        Self::CountVoidEpochs,
        Self::SealWithoutCatchingUp,
        Self::SealUnconfirmed,
        Self::ForgetProducers,
        Self::ServeWithoutLease,
        Self::ReadUndurable,
        Self::MoveWithoutParking,
        Self::ResumeWithoutCancelling,
    ];
}

/// Whether this bug is planted in this process.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether this bug is planted in this process.
///
/// # Panics
/// When `OTTLA_PLANTED` names no bug.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = || {
        let name = std::env::var("OTTLA_PLANTED").ok()?;
        let found = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
        Some(found.unwrap_or_else(|| panic!("OTTLA_PLANTED={name} is none of {:?}", Bug::ALL)))
    };
    *PLANTED.get_or_init(planted) == Some(bug)
}
