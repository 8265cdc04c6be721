//! The controller's thread: commands in, decisions made durable, images published, replies out.
//!
//! It blocks on the disk, so it is a thread and no task. Commands that queue up while one group is being synced become
//! the next group. A broken invariant here, or a metadata log that cannot be written, stops the node: there is no
//! smaller thing to give up.

use std::sync::Arc;

use arc_swap::ArcSwap;
use millrace_kernel::controller::{Controller, ControllerEvent, ControllerOutput};
use millrace_kernel::metadata::image::Image;
use millrace_kernel::metadata::{Command, MetadataRefused, MetadataSettings, Reply};
use millrace_model::env::{Env, Prng};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::controller::local::LocalLog;
use crate::error::BrokerError;
use crate::partition::clock::Clock;
use crate::partition::registry::Registry;
use crate::shutdown::ShutdownTrigger;

/// Commands that may wait for the controller; at this many, askers wait.
const COMMANDS_QUEUED_MAX: usize = 1024;
/// Commands that share one sync.
const COMMANDS_PER_GROUP_MAX: usize = 256;

type Token = oneshot::Sender<Result<Reply, MetadataRefused>>;

/// What the thread is told; `None` ends it.
type Message = Option<(Command, Token)>;

/// What the hall holds of the controller.
#[derive(Clone)]
pub(crate) struct ControllerHandle {
    commands: mpsc::Sender<Message>,
    image: Arc<ArcSwap<Image>>,
    published: watch::Receiver<u64>,
}

impl ControllerHandle {
    /// The cluster as this node last learned of it.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// The index of the newest image, for those who wait for another: it moves once [`Self::image`] has it.
    pub(crate) fn published(&self) -> watch::Receiver<u64> {
        self.published.clone()
    }

    /// Ends the controller's thread once it has answered what came before. Blocks while its queue is full.
    pub(crate) fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.commands.blocking_send(None);
    }

    /// Asks for a change; the answer comes once the change is durable and this node's image has it.
    ///
    /// # Errors
    /// The controller refuses the command as a whole, or is gone.
    pub(crate) async fn ask(&self, command: Command) -> Result<Reply, BrokerError> {
        let (token, answer) = oneshot::channel();
        self.commands.send(Some((command, token))).await.map_err(|_| BrokerError::ShuttingDown)?;
        answer.await.map_err(|_| BrokerError::ShuttingDown)?.map_err(BrokerError::from)
    }
}

/// The controller before its thread runs: commands are already possible, for start-up.
pub(crate) struct ControllerActor {
    controller: Controller<LocalLog, Token>,
    commands: mpsc::Receiver<Message>,
    registry: Arc<Registry>,
    image: Arc<ArcSwap<Image>>,
    published: watch::Sender<u64>,
    env: Env,
    clock: Clock,
    fatal: ShutdownTrigger,
}

impl ControllerActor {
    pub(crate) fn new(
        log: LocalLog,
        settings: MetadataSettings,
        registry: Arc<Registry>,
        clock: Clock,
        rng: Prng,
        fatal: ShutdownTrigger,
    ) -> (Self, ControllerHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let image = Arc::new(ArcSwap::from_pointee(Image::default()));
        let (published, watcher) = watch::channel(0);
        let handle =
            ControllerHandle { commands: sender, image: Arc::clone(&image), published: watcher };
        let env = Env { now: clock.now(), rng };
        let controller = Controller::new(log, settings);
        let this = Self { controller, commands, registry, image, published, env, clock, fatal };
        (this, handle)
    }

    /// Replays the log: afterwards the image and the registry are as the last run left them.
    pub(crate) fn replay(&mut self) {
        self.handle(ControllerEvent::LogMoved);
    }

    /// One command with its answer, for start-up, before the thread runs.
    ///
    /// # Errors
    /// What the controller refuses, or a log that cannot be written.
    pub(crate) fn ask_now(&mut self, command: Command) -> Result<Reply, BrokerError> {
        let (token, mut answer) = oneshot::channel();
        self.handle(ControllerEvent::Command { command, token });
        self.commit().map_err(|cause| BrokerError::Storage { reason: cause.to_string().into() })?;
        let answered = answer.try_recv().map_err(|_| BrokerError::ShuttingDown)?;
        answered.map_err(BrokerError::from)
    }

    /// The thread's loop, until it is told to end.
    pub(crate) fn run(mut self) {
        while let Some(Some((command, token))) = self.commands.blocking_recv() {
            self.handle(ControllerEvent::Command { command, token });
            let mut ends = false;
            for _ in 1..COMMANDS_PER_GROUP_MAX {
                match self.commands.try_recv() {
                    Ok(Some((command, token))) => {
                        self.handle(ControllerEvent::Command { command, token });
                    }
                    Ok(None) => {
                        ends = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            if let Err(cause) = self.commit() {
                error!(error = %cause, "the metadata log cannot be written: the broker stops");
                self.fatal.request();
                return;
            }
            if ends {
                return;
            }
        }
    }

    fn commit(&mut self) -> Result<(), crate::controller::local::LocalLogError> {
        self.controller.log_mut().sync()?;
        self.handle(ControllerEvent::LogMoved);
        Ok(())
    }

    fn handle(&mut self, event: ControllerEvent<Token>) {
        self.env.now = self.clock.now();
        let mut out = Vec::new();
        self.controller.handle(&mut self.env, event, &mut out);
        for output in out {
            match output {
                ControllerOutput::Image { image, delta } => {
                    self.registry.reconcile(&image, &delta);
                    let index = image.index();
                    self.image.store(image);
                    self.published.send_replace(index);
                }
                ControllerOutput::Reply { token, result } => {
                    // Whoever asked may have gone.
                    let _ = token.send(result);
                }
            }
        }
    }
}

impl From<MetadataRefused> for BrokerError {
    fn from(refused: MetadataRefused) -> Self {
        match refused {
            MetadataRefused::NotLeader { .. } | MetadataRefused::LeadershipLost => {
                Self::ShuttingDown
            }
            other => Self::InvalidRequest(other.to_string()),
        }
    }
}
