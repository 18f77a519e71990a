//! Who may commit and fetch offsets of a consumer group: its members, under their present epoch.

use protocol::ErrorCode;

use super::group::ConsumerGroup;

/// First version of OffsetCommit whose clients know member epochs.
pub(crate) const MEMBER_EPOCH_SINCE: i16 = 9;

impl ConsumerGroup {
    /// Whether a commit in the name of `member` is taken. Without members anybody may commit, as operators do.
    pub(crate) fn may_commit(&self, member: &str, epoch: i32, version: i16) -> Result<(), ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let known = self.members.get(member).ok_or(ErrorCode::UnknownMemberId)?;
        if version < MEMBER_EPOCH_SINCE {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch == known.current.epoch { Ok(()) } else { Err(ErrorCode::StaleMemberEpoch) }
    }

    /// Whether a fetch in the name of `member` is answered; without a name it always is.
    pub(crate) fn may_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        let Some(member) = member.filter(|_| epoch >= 0) else { return Ok(()) };
        let known = self.members.get(member).ok_or(ErrorCode::UnknownMemberId)?;
        if epoch == known.current.epoch { Ok(()) } else { Err(ErrorCode::StaleMemberEpoch) }
    }
}
