//! The two shapes of everything that decides.
//!
//! A **Machine** reacts to events and never waits. It is a convention, not a trait, because nobody is generic over it:
//!
//! ```text
//! fn handle(&mut self, env: &mut Env, event: Event, out: &mut Vec<Output>); // the only way its state changes
//! fn next_deadline(&self) -> Option<MonoMs>;                                // the driver sets one timer, sends a tick
//! ```
//!
//! A driver (an actor of the shell, or the simulator) feeds events in and carries outputs out; the machine reads no
//! clock and draws no luck but what [`Env`] hands it. `out` is the driver's, so that it is allocated once.
//!
//! A **[`Decider`]** turns commands into records and records into state. Whoever drives one (the controller, a shard)
//! puts the records into a log between the two steps, so start-up, failover and catching up are the same code.

use millrace_model::env::Env;

/// What follows from a command: records to put in the log, and the answer that may leave once they are safe there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<Record, Reply> {
    pub records: Vec<Record>,
    pub reply: Reply,
}

impl<Record, Reply> Decision<Record, Reply> {
    /// An answer that changes nothing.
    pub fn reply(reply: Reply) -> Self {
        Self { records: Vec::new(), reply }
    }
}

/// Commands become records, records become state.
pub trait Decider {
    type Command;
    type Record;
    type Reply;
    type Error;

    /// What would follow from `command`. Changes nothing: the caller logs the records, then applies them.
    ///
    /// # Errors
    /// The decider's own: facts for whoever sent the command.
    fn decide(
        &self,
        env: &mut Env,
        command: Self::Command,
    ) -> Result<Decision<Self::Record, Self::Reply>, Self::Error>;

    /// Now it is so. Replay calls it too: there is no other way in, and it cannot fail.
    fn apply(&mut self, record: &Self::Record);

    /// Records that rebuild this state when applied to a fresh decider. Drivers append them behind the log's end and
    /// trim what lies before, which bounds replay.
    fn snapshot(&self) -> Vec<Self::Record>;
}
