//! One client connection: reads frames, runs their handlers in order, sends the replies in order.
//!
//! Produce requests are applied as they arrive and answered when their bytes are safe, so many of them overlap; every
//! other request waits until the earlier ones are answered, as in Kafka, where one request of a connection runs at a
//! time. An idle connection holds no buffer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use millrace_wire::frame::{self, PREFIX_BYTES, Split};
use millrace_wire::{ApiKey, header};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Instrument, debug, info};

use crate::context::RequestContext;
use crate::kafka::api::produce::{self, Received};
use crate::kafka::dispatch;
use crate::kafka::pipeline::{Outbound, Pending, Reply, ReplyPiece};
use crate::partition::handle::Posted;
use crate::service::{Hall, HeldBytes};
use crate::shutdown::Shutdown;

/// The first read of an idle connection asks for this much.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Reads grow to this while they keep filling what they asked for.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Unread input that a connection may pile up while one of its requests runs.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;
/// A frame larger than this takes its bytes from the node's budget before they are read.
const BUDGETED_BYTES_MIN: usize = 64 * 1024;
/// A client that takes no byte for this long is closed.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// A begun frame must be complete after this long.
const FRAME_STALL: Duration = Duration::from_secs(60);

/// What a request that is running at shutdown may still take.
const DRAIN: Duration = Duration::from_secs(1);

/// Why a connection ends.
enum End {
    /// The client closed, between requests.
    Closed,
    /// Shut down, after the last reply was sent.
    Drained,
    Idle,
    Because(String),
}

/// Serves `stream` until it ends; returns when every resource of the connection is free.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    hall: Arc<Hall>,
    shutdown: Shutdown,
) {
    let context = RequestContext::kafka(peer, local);
    let mut connection = Connection {
        stream,
        hall,
        context,
        inbound: BytesMut::new(),
        read_bytes: READ_BYTES_MIN,
        pending: Pending::default(),
        outbound: Outbound::default(),
        signal: Arc::new(Notify::new()),
        budget: None,
        last_active: Instant::now(),
    };
    match connection.run(shutdown).await {
        End::Closed | End::Drained => debug!(%peer, "connection closed"),
        End::Idle => debug!(%peer, "idle connection closed"),
        End::Because(reason) => {
            info!(%peer, client_id = connection.context.client_id(), error = reason, "connection closed");
        }
    }
}

struct Connection {
    stream: TcpStream,
    hall: Arc<Hall>,
    context: RequestContext,
    /// Bytes read and not yet taken as frames.
    inbound: BytesMut,
    read_bytes: usize,
    pending: Pending,
    outbound: Outbound,
    /// Told by partition owners when one of `pending` may be complete.
    signal: Arc<Notify>,
    /// The node's bytes that the frame being read has reserved.
    budget: Option<HeldBytes>,
    last_active: Instant,
}

impl Connection {
    async fn run(&mut self, shutdown: Shutdown) -> End {
        loop {
            if let Err(end) = self.work_off_input(&shutdown).await {
                return end;
            }
            if let Err(end) = self.answer_done() {
                return end;
            }
            if let Err(end) = self.send().await {
                return end;
            }
            if shutdown.is_requested() && self.pending.is_empty() {
                return End::Drained;
            }
            if let Err(end) = self.wait(&shutdown).await {
                return end;
            }
        }
    }

    /// Executes the complete frames in `inbound` as far as order and limits allow.
    async fn work_off_input(&mut self, shutdown: &Shutdown) -> Result<(), End> {
        // Appends that came together are written together.
        let mut posted = Posted::default();
        while self.pending.has_room() {
            let frame_bytes_max = self.frame_bytes_max();
            let frame = match frame::split(&mut self.inbound, frame_bytes_max) {
                Ok(Split::Frame(frame)) => frame,
                Ok(Split::Incomplete { .. }) => return Ok(()),
                Err(error) => return Err(End::Because(error.to_string())),
            };
            self.last_active = Instant::now();
            let size_bytes = frame.len();
            let head = header::peek(frame).map_err(|error| End::Because(error.to_string()))?;
            self.hall.metrics.request(head.api_key);
            let request = dispatch::admit(head).map_err(End::Because)?;
            self.context.set_client_id(&request.client_id());
            let span = request.span(&self.context);
            if request.api() == ApiKey::Produce {
                let budget = match self.budget.take() {
                    Some(budget) => budget,
                    None => match self.hall.try_reserve_bytes(size_bytes) {
                        Some(budget) => budget,
                        None => {
                            posted.work();
                            self.await_budget(size_bytes).await?
                        }
                    },
                };
                let (hall, signal) = (&self.hall, &self.signal);
                let received = Received { size_bytes, budget, span };
                let begun = produce::begin(hall, request, received, signal, &mut posted);
                self.pending.push(begun.map_err(End::Because)?);
                continue;
            }
            posted.work();
            self.answer_all_pending().await?;
            self.budget = None;
            let (api, started) = (request.api(), self.last_active);
            let reply = self.run_handler(request, shutdown).instrument(span).await?;
            self.queue(reply)?;
            self.hall.metrics.answered(api, started.elapsed());
            if self.outbound_is_long() {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Runs one handler to its end; meanwhile notices a client that goes away.
    async fn run_handler(
        &mut self,
        request: dispatch::Request,
        shutdown: &Shutdown,
    ) -> Result<Reply, End> {
        let handler = dispatch::handle(Arc::clone(&self.hall), self.context.clone(), request);
        tokio::pin!(handler);
        loop {
            let may_read = self.inbound.len() < READ_AHEAD_BYTES_MAX;
            tokio::select! {
                biased;
                reply = &mut handler => return Ok(reply),
                () = shutdown.requested() => {
                    // What needs longer waits for others: a long poll, a join. The client asks again elsewhere.
                    let reply = tokio::time::timeout(DRAIN, &mut handler).await;
                    return reply.map_err(|_| End::Drained);
                }
                ready = self.stream.readable(), if may_read => {
                    ready.map_err(|error| End::Because(error.to_string()))?;
                    self.inbound.reserve(READ_BYTES_MIN);
                    let mut window = (&mut self.inbound).limit(READ_BYTES_MIN);
                    match self.stream.try_read_buf(&mut window) {
                        Ok(0) => return Err(End::Closed),
                        Ok(read) => self.hall.metrics.received(read),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(End::Because(error.to_string())),
                    }
                }
            }
        }
    }

    fn queue(&mut self, reply: Reply) -> Result<(), End> {
        match reply {
            Reply::Frame(frame) => self.outbound.tail().unsplit(frame),
            Reply::Pieces(pieces) => {
                for piece in pieces {
                    match piece {
                        ReplyPiece::Bytes(bytes) => self.outbound.push_bytes(bytes),
                        ReplyPiece::File(range) => {
                            self.outbound.push_file(range).map_err(End::Because)?;
                        }
                    }
                }
            }
            Reply::Close(reason) => return Err(End::Because(reason.to_string())),
        }
        Ok(())
    }

    fn outbound_is_long(&self) -> bool {
        !self.outbound.is_empty()
    }

    /// Waits for, and encodes, every reply of an earlier produce request.
    async fn answer_all_pending(&mut self) -> Result<(), End> {
        loop {
            self.answer_done()?;
            if self.pending.is_empty() {
                return Ok(());
            }
            self.send().await?;
            self.wait_for_head().await;
        }
    }

    /// Encodes the replies that are complete, oldest first.
    fn answer_done(&mut self) -> Result<(), End> {
        while let Some(done) = self.pending.pop_done() {
            done.respond(&self.hall.metrics, self.outbound.tail()).map_err(End::Because)?;
        }
        Ok(())
    }

    /// Waits until the oldest produce request may be answered, or until its time is up.
    async fn wait_for_head(&mut self) {
        let Some(head) = self.pending.front() else { return };
        let signal = self.signal.notified();
        if tokio::time::timeout_at(head.deadline(), signal).await.is_err() {
            head.time_out();
        }
    }

    /// Sends all that is queued, as fast as the client takes it.
    async fn send(&mut self) -> Result<(), End> {
        loop {
            let done = self.outbound.try_send(&self.stream);
            let sent = self.outbound.take_sent();
            if sent > 0 {
                self.hall.metrics.sent(sent);
            }
            match done {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(End::Because(format!("send failed: {error}"))),
            }
            match tokio::time::timeout(WRITE_STALL, self.stream.writable()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(End::Because(error.to_string())),
                Err(_) => {
                    let seconds = WRITE_STALL.as_secs();
                    return Err(End::Because(format!("the client took no byte for {seconds} s")));
                }
            }
        }
    }

    /// Waits for input, for a completed produce request, or for a deadline.
    async fn wait(&mut self, shutdown: &Shutdown) -> Result<(), End> {
        let may_read = self.pending.has_room();
        if may_read && self.read_now()? {
            return Ok(());
        }
        if self.inbound.is_empty() && self.pending.is_empty() {
            self.inbound = BytesMut::new();
            self.outbound.release();
            self.read_bytes = READ_BYTES_MIN;
        }
        if may_read {
            self.reserve_budget().await?;
        }
        let deadline = self.next_deadline();
        tokio::select! {
            ready = self.stream.readable(), if may_read => {
                ready.map_err(|error| End::Because(error.to_string()))?;
                self.read_now()?;
            }
            () = self.signal.notified(), if !self.pending.is_empty() => {}
            () = shutdown.requested(), if !shutdown.is_requested() => {}
            () = tokio::time::sleep_until(deadline) => self.deadline_passed()?,
        }
        Ok(())
    }

    fn frame_bytes_max(&self) -> usize {
        self.hall.config.socket_request_max_bytes
    }

    /// Size of the frame that has begun, if it says so yet; a hostile size ends the connection before its bytes come.
    fn announced(&self) -> Result<Option<usize>, End> {
        frame::peek_size(&self.inbound, self.frame_bytes_max())
            .map_err(|error| End::Because(error.to_string()))
    }

    fn next_deadline(&self) -> Instant {
        if let Some(head) = self.pending.front() {
            return head.deadline();
        }
        let stall = if self.inbound.is_empty() {
            self.hall.config.connections_max_idle
        } else {
            FRAME_STALL
        };
        self.last_active + stall
    }

    fn deadline_passed(&mut self) -> Result<(), End> {
        let now = Instant::now();
        match self.pending.front() {
            Some(head) if head.deadline() <= now => {
                head.time_out();
                Ok(())
            }
            Some(_) => Ok(()),
            None if self.inbound.is_empty() => Err(End::Idle),
            None => Err(End::Because("a frame was begun and not finished in time".into())),
        }
    }

    /// A large frame waits for the node's budget before its bytes are read: back-pressure by TCP. What is reserved grows
    /// with what was received, so a claimed size costs nothing.
    async fn reserve_budget(&mut self) -> Result<(), End> {
        let Some(size) = self.announced()? else { return Ok(()) };
        if size < BUDGETED_BYTES_MIN {
            return Ok(());
        }
        let received = self.inbound.len();
        let wanted = (size + PREFIX_BYTES).min((2 * received).max(BUDGETED_BYTES_MIN));
        let held = self.held_bytes();
        if held < wanted {
            let Some(more) = self.hall.try_reserve_bytes(wanted - held) else {
                // Connections that hold a part and wait for the rest would wait for each other: the whole in one piece.
                self.budget = None;
                self.budget = Some(self.await_budget(size + PREFIX_BYTES).await?);
                return Ok(());
            };
            match &mut self.budget {
                Some(budget) => budget.merge(more),
                None => self.budget = Some(more),
            }
        }
        Ok(())
    }

    /// Waits in turn for the node's budget while holding nothing of it: what this connection has in flight is answered
    /// first.
    async fn await_budget(&mut self, bytes: usize) -> Result<HeldBytes, End> {
        self.answer_all_pending().await?;
        self.send().await?;
        let reserved = tokio::time::timeout(FRAME_STALL, self.hall.reserve_bytes(bytes)).await;
        reserved.map_err(|_| {
            End::Because(format!(
                "the broker had no memory for a request of {bytes} bytes for {} s (queued.max.request.bytes)",
                FRAME_STALL.as_secs()
            ))
        })
    }

    fn held_bytes(&self) -> usize {
        self.budget.as_ref().map_or(0, HeldBytes::bytes)
    }

    /// Reads what the socket has; `Ok(true)` when that may have completed a frame.
    fn read_now(&mut self) -> Result<bool, End> {
        let received = self.inbound.len();
        let window = match self.announced()? {
            Some(size) if size >= BUDGETED_BYTES_MIN => {
                (size + PREFIX_BYTES).min(self.held_bytes()).saturating_sub(received)
            }
            Some(size) => (size + PREFIX_BYTES).saturating_sub(received).max(self.read_bytes),
            None => self.read_bytes,
        };
        if window == 0 {
            return Ok(false); // its budget comes first
        }
        self.inbound.reserve(window);
        let mut target = (&mut self.inbound).limit(window);
        match self.stream.try_read_buf(&mut target) {
            Ok(0) if self.inbound.is_empty() => Err(End::Closed),
            Ok(0) => Err(End::Because("the client closed inside a frame".into())),
            Ok(read) => {
                if received == 0 {
                    self.last_active = Instant::now();
                }
                self.hall.metrics.received(read);
                if read == window {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                }
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(End::Because(format!("read failed: {error}"))),
        }
    }
}
