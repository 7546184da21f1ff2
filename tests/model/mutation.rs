//! Ways to get the edges wrong, each of which the model must notice.

use super::histories::{self, Focus};

/// A rule of DESIGN section 5 taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    /// R1: transactions are released at once, visible or not.
    NoBarrier,
    /// R1: those that are visible are released first, whatever is before them.
    VisibleFirst,
    /// R2: lookups run when a barrier was sent, before the release.
    LookUpBeforeRelease,
    /// R2: what a row was before is not matched.
    NoOldImages,
    /// R3: marks are written, and V moves and is recorded without waiting for them.
    MarksNotDurable,
    /// R3: a restart finds no marks.
    MarksForgotten,
    /// R3: commits marked early are not on record.
    EarlyNotRecorded,
    /// R3: a restart goes on at the recorded position though early commits are invisible.
    VIgnoresEarly,
    /// R4: the statement begins, and the key is tracked when it answers.
    ReadThenTrack,
    /// R4: `as_of` is V when the answer arrives.
    AsOfAtArrival,
    /// R5: bytes of whatever stamp are answered with what the ledger says.
    BytesOfAnyStamp,
    /// R6: stamps begin anew with every start.
    NoFloor,
    /// R6: a result's stamp is its packed snapshot, however many results there were.
    StampReused,
    /// R7: F follows V although rows were looked up.
    NoClosure,
    /// R7: one step where the longest path has two.
    OneStepOfTwo,
    /// R7: after a start F is V at once.
    FAtOnce,
    /// R10: what was looked up counts as firm whatever the stream has reached.
    LookupsFirm,
    /// R10: entries count as firm whatever the stream has reached.
    AllFirm,
    /// R10: results are accepted over a lost connection.
    ConnectionIgnored,
    /// R10: a broken history is gone on with.
    NoEpoch,
    /// R1: a product that joins is cached at once and not marked.
    JoinUnmarked,
    /// R1: new rules count from the transaction after the next one on.
    RulesFollowLate,
    /// R14: a position is acknowledged before it is recorded.
    AcknowledgeUnrecorded,
    /// R14: acknowledged while the lookups of a group are under way.
    AcknowledgeBeforeLookups,
}

use Mutation as M;

/// Each with the histories that are about it, save `LookupsFirm`, which has a history of its own.
pub(crate) const ALL: [(M, Focus); 23] = [
    (M::NoBarrier, histories::EVERYTHING),
    (M::VisibleFirst, histories::EVERYTHING),
    (M::JoinUnmarked, histories::JOINING),
    (M::LookUpBeforeRelease, histories::READ_LOOKUPS),
    (M::NoOldImages, histories::EVERYTHING),
    (M::MarksNotDurable, histories::LATE_WRITES),
    (M::MarksForgotten, histories::RESTARTS),
    (M::EarlyNotRecorded, histories::EARLY),
    (M::VIgnoresEarly, histories::EARLY),
    (M::ReadThenTrack, histories::LEAVING),
    (M::AsOfAtArrival, histories::EVERYTHING),
    (M::BytesOfAnyStamp, histories::EVERYTHING),
    (M::NoFloor, histories::LATE_WRITES),
    (M::StampReused, histories::EVERYTHING),
    (M::NoClosure, histories::LOOKUPS),
    (M::OneStepOfTwo, histories::LOOKUPS),
    (M::FAtOnce, histories::RESTARTED_LOOKUPS),
    (M::AllFirm, histories::SOURCE_CRASHES),
    (M::ConnectionIgnored, histories::SOURCE_CRASHES),
    (M::NoEpoch, histories::EVERYTHING),
    (M::AcknowledgeUnrecorded, histories::EVERYTHING),
    (M::RulesFollowLate, histories::EDITS),
    (M::AcknowledgeBeforeLookups, histories::EVERYTHING),
];
