//! The hall's refusals as numbers on Kafka's wire. Handlers translate here and nowhere else.

use millrace_kernel::group::GroupError;

use crate::error::BrokerError;

pub(super) use crate::error::codes::{code, group_code};

/// [`code`] as the number on the wire.
pub(super) fn number(error: &BrokerError) -> i16 {
    code(error).code()
}

/// [`group_code`] as the number on the wire.
pub(super) fn group_number(error: GroupError) -> i16 {
    group_code(error).code()
}
