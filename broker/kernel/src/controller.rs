//! The controller: the metadata decider over a metadata log.
//!
//! Commands are decided against the *head* (the committed image plus the records in flight), so that they pipeline; a
//! reply leaves once everything that it reveals is committed and its image is published. Losing leadership drops the
//! head and fails what is parked: the next leader's log says what counts. Replay is bounded: after
//! [`METADATA_REPLAY_RECORDS_MAX`] records the whole image is proposed again as one entry, and once that is committed
//! the log may forget what lies before.
//!
//! Driven by one task of the shell (or the simulator). A broken invariant here stops the process: there is no smaller
//! thing to give up.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_model::env::Env;
use millrace_model::limits::METADATA_REPLAY_RECORDS_MAX;
use millrace_model::offset::LeaderEpoch;

use crate::machine::Decider;
use crate::metadata::image::{Delta, Image};
use crate::metadata::record::Record;
use crate::metadata::{Command, Metadata, MetadataRefused, MetadataSettings, Reply};
use crate::metadata_log::{Committed, Leadership, MetadataLog, NotLeader, ProposalId};

/// What happens to the controller.
#[derive(Debug)]
pub enum ControllerEvent<T> {
    Command {
        command: Command,
        token: T,
    },
    /// The metadata log committed something, or leadership changed.
    LogMoved,
}

/// What the driver has to carry out, in order.
#[derive(Debug, PartialEq)]
pub enum ControllerOutput<T> {
    /// The cluster is different: publish this before any reply that follows.
    Image {
        image: Arc<Image>,
        delta: Delta,
    },
    Reply {
        token: T,
        result: Result<Reply, MetadataRefused>,
    },
}

/// The decider over a log. `T` is the driver's token for a reply.
#[derive(Debug)]
pub struct Controller<L, T> {
    log: L,
    committed: Metadata,
    published: Arc<Image>,
    /// There while this node leads.
    head: Option<Head<T>>,
    /// Records that replay would read beside the last snapshot.
    replay_records: usize,
    /// Records of the last snapshot.
    snapshot_records: usize,
}

/// What a leader decides against. Invariant: `state` is the committed state with all of `in_flight` applied.
#[derive(Debug)]
struct Head<T> {
    epoch: LeaderEpoch,
    state: Metadata,
    in_flight: VecDeque<InFlight<T>>,
    snapshot: Option<ProposalId>,
}

#[derive(Debug)]
struct InFlight<T> {
    proposal: ProposalId,
    parked: Vec<(T, Result<Reply, MetadataRefused>)>,
}

impl<L: MetadataLog, T> Controller<L, T> {
    /// Knows nothing yet: the first event replays the log.
    pub fn new(log: L, settings: MetadataSettings) -> Self {
        Self {
            log,
            committed: Metadata::new(settings),
            published: Arc::new(Image::default()),
            head: None,
            replay_records: 0,
            snapshot_records: 0,
        }
    }

    /// The committed cluster, as last published.
    pub fn image(&self) -> &Arc<Image> {
        &self.published
    }

    /// The log, for whoever drives it.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    pub fn handle(
        &mut self,
        env: &mut Env,
        event: ControllerEvent<T>,
        out: &mut Vec<ControllerOutput<T>>,
    ) {
        self.catch_up(out);
        self.follow_leadership(out);
        if let ControllerEvent::Command { command, token } = event {
            self.handle_command(env, command, token, out);
        }
        self.bound_replay(out);
    }

    /// Applies what is committed, publishes the image, answers those who waited for it.
    fn catch_up(&mut self, out: &mut Vec<ControllerOutput<T>>) {
        let mut answered = Vec::new();
        let mut snapshot = None;
        while let Some(Committed { index, records, proposal }) = self.log.next_committed() {
            for record in &records {
                self.committed.apply(record);
            }
            self.committed.set_index(index);
            if records.first() == Some(&Record::SnapshotStart) {
                snapshot = Some(index);
                self.snapshot_records = records.len();
                self.replay_records = 0;
            } else {
                self.replay_records += records.len();
            }
            self.settle(proposal, &mut answered);
        }
        if self.committed.image().index() > self.published.index() {
            // NOTE: simpler than it should be: an image costs one pointer per topic to publish. It matters beyond some
            // ten thousand topics, when many of them are created one by one.
            let image = Arc::new(self.committed.image().clone());
            let delta = image.diff(&self.published);
            self.published = Arc::clone(&image);
            out.push(ControllerOutput::Image { image, delta });
        }
        out.extend(answered);
        if let Some(index) = snapshot {
            self.log.trim_before(index);
        }
    }

    fn settle(&mut self, proposal: Option<ProposalId>, answered: &mut Vec<ControllerOutput<T>>) {
        let (Some(proposal), Some(head)) = (proposal, &mut self.head) else { return };
        // Proposals of an earlier leadership of this node may still come; nobody waits for them.
        let Some(done) = head.in_flight.pop_front_if(|first| first.proposal == proposal) else {
            return;
        };
        if head.snapshot == Some(proposal) {
            head.snapshot = None;
        }
        let reply = |(token, result)| ControllerOutput::Reply { token, result };
        answered.extend(done.parked.into_iter().map(reply));
    }

    fn follow_leadership(&mut self, out: &mut Vec<ControllerOutput<T>>) {
        let leads = match self.log.leadership() {
            Leadership::Leader { epoch } => Some(epoch),
            Leadership::Follower { .. } => None,
        };
        if self.head.as_ref().map(|head| head.epoch) == leads {
            return;
        }
        self.drop_head(out);
        self.head = leads.map(|epoch| Head {
            epoch,
            state: self.committed.clone(),
            in_flight: VecDeque::new(),
            snapshot: None,
        });
    }

    /// What was decided on records that may never count is void, refusals too.
    fn drop_head(&mut self, out: &mut Vec<ControllerOutput<T>>) {
        let lost = self.head.take().into_iter().flat_map(|head| head.in_flight);
        for (token, _) in lost.flat_map(|lost| lost.parked) {
            let result = Err(MetadataRefused::LeadershipLost);
            out.push(ControllerOutput::Reply { token, result });
        }
    }

    fn handle_command(
        &mut self,
        env: &mut Env,
        command: Command,
        token: T,
        out: &mut Vec<ControllerOutput<T>>,
    ) {
        let Some(head) = &mut self.head else {
            let leader = match self.log.leadership() {
                Leadership::Follower { leader } => leader,
                Leadership::Leader { .. } => None,
            };
            let result = Err(MetadataRefused::NotLeader { leader });
            out.push(ControllerOutput::Reply { token, result });
            return;
        };
        let (records, result) = match head.state.decide(env, command) {
            Ok(decision) => (decision.records, Ok(decision.reply)),
            Err(refused) => (Vec::new(), Err(refused)),
        };
        if records.is_empty() {
            // Even so it reveals the head: it waits for what is in flight.
            match head.in_flight.back_mut() {
                Some(last) => last.parked.push((token, result)),
                None => out.push(ControllerOutput::Reply { token, result }),
            }
            return;
        }
        match head.propose(&mut self.log, records) {
            Ok(in_flight) => in_flight.parked.push((token, result)),
            Err(NotLeader { leader }) => {
                self.drop_head(out);
                let result = Err(MetadataRefused::NotLeader { leader });
                out.push(ControllerOutput::Reply { token, result });
            }
        }
    }

    fn bound_replay(&mut self, out: &mut Vec<ControllerOutput<T>>) {
        let Some(head) = &mut self.head else { return };
        let due = self.replay_records > METADATA_REPLAY_RECORDS_MAX + self.snapshot_records;
        if !due || head.snapshot.is_some() {
            return;
        }
        let records = head.state.snapshot();
        match head.propose(&mut self.log, records) {
            Ok(in_flight) => head.snapshot = Some(in_flight.proposal),
            Err(NotLeader { .. }) => self.drop_head(out),
        }
    }
}

impl<T> Head<T> {
    fn propose<L: MetadataLog>(
        &mut self,
        log: &mut L,
        records: Vec<Record>,
    ) -> Result<&mut InFlight<T>, NotLeader> {
        // Applied before it is proposed, since proposing takes the records; a refusal ends this head.
        for record in &records {
            self.state.apply(record);
        }
        let proposal = log.propose(records)?;
        self.in_flight.push_back(InFlight { proposal, parked: Vec::new() });
        Ok(self.in_flight.back_mut().expect("just pushed"))
    }
}

#[cfg(test)]
mod tests;
