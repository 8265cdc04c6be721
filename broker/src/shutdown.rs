//! One token for the whole node: asked once, seen by every task.

use tokio::sync::watch;

/// The side that asks.
#[derive(Debug)]
pub(crate) struct ShutdownTrigger(watch::Sender<bool>);

/// The side that watches; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

/// A fresh pair, not yet asked.
pub(crate) fn channel() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl ShutdownTrigger {
    pub(crate) fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes once shutdown is asked for; at once if it already was, or if the node is gone.
    pub(crate) async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone, which is a shutdown too.
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}
