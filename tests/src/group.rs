//! A consumer group's member over the classic protocol: joins, syncs, beats, commits, leaves.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use millrace_model::consumer_protocol::Subscription;

use crate::ask::{text, topic_name};
use crate::kafka::Connection;

pub const JOIN_GROUP: i16 = 9;
pub const SYNC_GROUP: i16 = 5;
pub const HEARTBEAT: i16 = 4;
pub const LEAVE_GROUP: i16 = 5;
pub const OFFSET_COMMIT: i16 = 9;
pub const OFFSET_FETCH: i16 = 9;

pub const ILLEGAL_GENERATION: i16 = 22;
pub const UNKNOWN_MEMBER_ID: i16 = 25;
pub const REBALANCE_IN_PROGRESS: i16 = 27;
pub const MEMBER_ID_REQUIRED: i16 = 79;

/// Partitions by topic.
pub type Assignment = BTreeMap<String, Vec<i32>>;
/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// One member of one group, on a connection of its own.
#[derive(Debug)]
pub struct Member {
    pub connection: Connection,
    pub group: String,
    /// Empty until the coordinator has given one.
    pub id: String,
    pub generation: i32,
    /// What it tells the leader that it wants.
    pub topics: Vec<String>,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
}

impl Member {
    /// # Errors
    /// The broker is down.
    pub fn open(address: SocketAddr, group: &str) -> io::Result<Self> {
        Ok(Self {
            connection: Connection::try_open(address)?,
            group: group.to_owned(),
            id: String::new(),
            generation: -1,
            topics: Vec::new(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
        })
    }

    /// Joins, with a member id that it asks for first if it has none; waits until the group is together.
    ///
    /// # Errors
    /// The connection broke.
    pub fn join(&mut self) -> io::Result<JoinGroupResponse> {
        let mut answer = self.connection.try_ask(JOIN_GROUP, &self.join_request())?;
        if answer.error_code == MEMBER_ID_REQUIRED {
            self.id = answer.member_id.to_string();
            answer = self.connection.try_ask(JOIN_GROUP, &self.join_request())?;
        }
        if answer.error_code == 0 {
            self.id = answer.member_id.to_string();
            self.generation = answer.generation_id;
        }
        Ok(answer)
    }

    /// The request to join as this member.
    pub fn join_request(&self) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Subscription::to(self.topics.clone()).encode(0));
        JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(self.session_timeout_ms)
            .with_rebalance_timeout_ms(self.rebalance_timeout_ms)
            .with_member_id(text(&self.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    }

    /// Waits for its assignment; the leader hands everyone's in.
    ///
    /// # Errors
    /// The connection broke.
    pub fn sync(
        &mut self,
        assignments: &[(String, Assignment)],
    ) -> io::Result<Result<Assignment, i16>> {
        let assignment = |(member, parts): &(String, Assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(encode_assignment(parts))
        };
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.iter().map(assignment).collect());
        let answer = self.connection.try_ask(SYNC_GROUP, &request)?;
        Ok(match answer.error_code {
            0 => Ok(decode_assignment(answer.assignment)),
            code => Err(code),
        })
    }

    /// Joins and syncs until the group stands: `partitions_of` says how many partitions each topic has.
    ///
    /// # Errors
    /// The connection broke, or the coordinator does not know this member any more (as an error of kind
    /// `InvalidData`).
    pub fn enter(&mut self, topics: &[(String, i32)]) -> io::Result<Assignment> {
        loop {
            let joined = self.join()?;
            match joined.error_code {
                0 => {}
                REBALANCE_IN_PROGRESS => continue,
                code => return Err(refused("JoinGroup", code)),
            }
            let assignments = if joined.leader.as_str() == self.id {
                let members = joined.members.iter().map(|it| it.member_id.to_string()).collect();
                assign_ranges(members, topics)
            } else {
                Vec::new()
            };
            match self.sync(&assignments)? {
                Ok(mine) => return Ok(mine),
                Err(REBALANCE_IN_PROGRESS) => {}
                Err(code) => return Err(refused("SyncGroup", code)),
            }
        }
    }

    /// # Errors
    /// The connection broke.
    pub fn heartbeat(&mut self) -> io::Result<i16> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id));
        Ok(self.connection.try_ask(HEARTBEAT, &request)?.error_code)
    }

    /// Commits as this member: the first error code, 0 if there is none.
    ///
    /// # Errors
    /// The connection broke.
    pub fn commit(&mut self, offsets: &Offsets) -> io::Result<i16> {
        let request = commit_request(&self.group, offsets).with_member_id(text(&self.id));
        let request = request.with_generation_id_or_member_epoch(self.generation);
        let answer = self.connection.try_ask(OFFSET_COMMIT, &request)?;
        let mut codes = answer.topics.iter().flat_map(|it| &it.partitions).map(|it| it.error_code);
        Ok(codes.find(|&code| code != 0).unwrap_or(0))
    }

    /// # Errors
    /// The connection broke.
    pub fn leave(&mut self) -> io::Result<i16> {
        let me = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_members(vec![me]);
        let answer = self.connection.try_ask(LEAVE_GROUP, &request)?;
        Ok(answer.members.first().map_or(answer.error_code, |it| it.error_code))
    }
}

fn refused(api: &str, code: i16) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{api}: error {code}"))
}

/// A commit from nobody in particular: what tools send for a group without members.
pub fn commit_request(group: &str, offsets: &Offsets) -> OffsetCommitRequest {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for ((topic, partition), offset) in offsets {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text("")));
        match topics.last_mut() {
            Some(last) if last.name.as_str() == topic => last.partitions.push(partition),
            _ => topics.push(
                OffsetCommitRequestTopic::default()
                    .with_name(topic_name(topic))
                    .with_partitions(vec![partition]),
            ),
        }
    }
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics)
}

/// All that a group has committed.
///
/// # Errors
/// The connection broke, or the coordinator answers with an error (as an error of kind `InvalidData`).
pub fn committed(connection: &mut Connection, group: &str) -> io::Result<Offsets> {
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_member_epoch(-1)
        .with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![group]);
    let answer = connection.try_ask(OFFSET_FETCH, &request)?;
    let mut found = Offsets::new();
    for group in answer.groups {
        if group.error_code != 0 {
            return Err(refused("OffsetFetch", group.error_code));
        }
        for topic in group.topics {
            for it in topic.partitions {
                if it.error_code != 0 {
                    return Err(refused("OffsetFetch", it.error_code));
                }
                found.insert((topic.name.to_string(), it.partition_index), it.committed_offset);
            }
        }
    }
    Ok(found)
}

/// Ranges of each topic's partitions for the members, in order of their ids: Kafka's range assignor.
pub fn assign_ranges(
    mut members: Vec<String>,
    topics: &[(String, i32)],
) -> Vec<(String, Assignment)> {
    members.sort();
    let count = members.len() as i32;
    let assign = |(rank, member): (usize, String)| {
        let rank = rank as i32;
        let mut mine = Assignment::new();
        for (topic, partitions) in topics {
            let (each, more) = (partitions / count, partitions % count);
            let from = each * rank + rank.min(more);
            let to = from + each + i32::from(rank < more);
            if from < to {
                mine.insert(topic.clone(), (from..to).collect());
            }
        }
        (member, mine)
    };
    members.into_iter().enumerate().map(assign).collect()
}

/// As Kafka's `ConsumerProtocolAssignment`, version 0.
fn encode_assignment(assignment: &Assignment) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(assignment.len() as i32);
    for (topic, partitions) in assignment {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
        out.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|&it| out.put_i32(it));
    }
    out.put_i32(-1);
    out.freeze()
}

/// Empty bytes are an empty assignment: what a member gets whom the leader forgot.
fn decode_assignment(mut bytes: Bytes) -> Assignment {
    let mut found = Assignment::new();
    if bytes.is_empty() {
        return found;
    }
    bytes.advance(2);
    for _ in 0..bytes.get_i32() {
        let length = bytes.get_i16() as usize;
        let topic = String::from_utf8_lossy(&bytes.split_to(length)).into_owned();
        let partitions = (0..bytes.get_i32()).map(|_| bytes.get_i32()).collect();
        found.insert(topic, partitions);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_partition_once() {
        for members in 1..7 {
            let names = (0..members).map(|it| format!("m{it}")).collect();
            let topics = [("a".to_owned(), 5), ("b".to_owned(), 2)];
            let mut seen: Vec<(String, i32)> = assign_ranges(names, &topics)
                .into_iter()
                .flat_map(|(_, mine)| mine)
                .flat_map(|(topic, parts)| parts.into_iter().map(move |it| (topic.clone(), it)))
                .collect();
            seen.sort();
            let mut all: Vec<_> = (0..5).map(|it| ("a".to_owned(), it)).collect();
            all.extend((0..2).map(|it| ("b".to_owned(), it)));
            assert_eq!(seen, all, "{members} members");
        }
    }

    #[test]
    fn an_assignment_round_trips() {
        let assignment = Assignment::from([("topic".to_owned(), vec![0, 7])]);
        assert_eq!(decode_assignment(encode_assignment(&assignment)), assignment);
        assert_eq!(decode_assignment(Bytes::new()), Assignment::new());
    }
}
