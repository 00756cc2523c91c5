//! Keeps a watch stream open: to the node in use, and to the next one when it fails or falls silent.

use super::{
    Picture, Selection, Update,
    brake::Brake,
    replica::{Fault, Replica},
    shown::Shown,
    stored,
};
use crate::{
    calls::ANSWER_BYTES,
    client::Shared,
    dice::Backoff,
    error::{Error, Refusal, Tried, Unreachable, Verdict, problem_of, verdict_of},
    nodes::Lane,
};
use futures_util::FutureExt as _;
use rollcall_proto::v1::{
    WatchResponse, discovery_service_client::DiscoveryServiceClient as Discovery,
};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};

/// First wait after every node failed once.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait while no node answers.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A stream that ends sooner counts as a failure of its node, whatever it has shown.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Wait after a refusal: nothing will change by itself soon.
const REFUSED_WAIT: Duration = Duration::from_secs(10);
/// Time for the whole of the first state.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Messages that are dealt with before the picture is shown again, while more are waiting.
const BURST: usize = 256;

struct Follower {
    shared: Arc<Shared>,
    selection: Selection,
    shown: Arc<Shown>,
    replica: Replica,
    brake: Brake,
    /// What was shown before any registry answered, until the brake knows of it.
    stood_in: Option<Arc<Picture>>,
    heard: Option<Instant>,
    problem: Option<Error>,
    node: usize,
    /// The stream has shown a whole state.
    progress: bool,
    failures: usize,
    backoff: Backoff,
}

/// Follows until the task is aborted.
pub(super) async fn supervise(shared: Arc<Shared>, selection: Selection, shown: Arc<Shown>) {
    let (replica, standby) = stored::start(&shared, &selection).await;
    let stood_in = standby.clone().map(Arc::new);
    if let Some(standby) = standby {
        shown.set_standby(standby);
    }
    let wait = shared.stand_in_after;
    let mut follower = Follower {
        node: shared.nodes.current(),
        shared,
        brake: Brake::new(selection.shrink_grace),
        selection,
        shown: Arc::clone(&shown),
        replica,
        stood_in,
        heard: None,
        problem: None,
        progress: false,
        failures: 0,
        backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
    };
    let follow = async {
        loop {
            if AssertUnwindSafe(follower.run()).catch_unwind().await.is_err() {
                tracing::error!("a watch panicked, it goes on with a new stream");
                follower.replica.spoil(&Fault::Gap);
                follower.node = follower.shared.nodes.after(follower.node);
                tokio::time::sleep(FIRST_WAIT).await;
            }
        }
    };
    let stand_in = async {
        tokio::time::sleep(wait).await;
        shown.reveal();
    };
    tokio::join!(biased; follow, stand_in);
}

impl Follower {
    async fn run(&mut self) {
        loop {
            let token = self.replica.begin();
            let resumed = !token.is_empty();
            let begun = Instant::now();
            self.progress = false;
            let error = match self.open(token).await {
                Ok(stream) => self.read(stream).await,
                Err(error) => error,
            };
            // Only a whole state of a node that stays is progress: one that never gets there, or ends each stream with
            // its first bookmark, is left in the usual rhythm.
            if self.progress && begun.elapsed() >= SHORT_LIFE {
                self.failures = 0;
                self.backoff.reset();
            }
            let token_refused = resumed && refuses_token(&error);
            if token_refused {
                self.replica.spoil(&Fault::OtherHistory);
            }
            let address = self.shared.nodes.address(self.node);
            tracing::debug!(%address, %error, "the watch stream ended");
            let refused = matches!(error, Error::Refused(_)) && !token_refused;
            self.problem = Some(error);
            self.show(false);
            self.shared.nodes.failed(self.node);
            self.node = self.shared.nodes.after(self.node);
            self.failures += 1;
            if self.failures >= self.shared.nodes.count() {
                self.shown.reveal();
            }
            if refused {
                tokio::time::sleep(self.shared.dice.shorten(REFUSED_WAIT, 0.5)).await;
            } else if self.failures.is_multiple_of(self.shared.nodes.count()) {
                tokio::time::sleep(self.backoff.next(&self.shared.dice)).await;
            }
        }
    }

    async fn open(&self, token: Vec<u8>) -> Result<Streaming<WatchResponse>, Error> {
        let channel = self.shared.nodes.channel(self.node, Lane::Calls);
        let mut service = Discovery::new(channel).max_decoding_message_size(ANSWER_BYTES);
        let wait = self.shared.attempt_timeout;
        match timeout(wait, service.watch(self.selection.request(token))).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.error_of(&status)),
            Err(_) => {
                self.shared.nodes.forget(self.node, Lane::Calls);
                Err(self.silent(wait))
            }
        }
    }

    /// Reads a stream to its end, and says how it ended.
    async fn read(&mut self, mut stream: Streaming<WatchResponse>) -> Error {
        let patience = self.selection.bookmarks * 2 + Duration::from_secs(2);
        let (whole_by, mut waiting) = (Instant::now() + WHOLE_WITHIN, 0);
        loop {
            let now = Instant::now();
            if self.brake.due().is_some_and(|due| due <= now) {
                self.let_go(now);
            }
            if !self.replica.is_whole() && now >= whole_by {
                return self.silent_of("a whole state", WHOLE_WITHIN);
            }
            let due = self.brake.due();
            let next = tokio::select! {
                biased;
                next = stream.message(), if waiting < BURST => Some(next),
                () = std::future::ready(()), if waiting > 0 => None,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => continue,
                () = tokio::time::sleep(patience) => {
                    self.shared.nodes.forget(self.node, Lane::Calls);
                    return self.silent(patience);
                }
            };
            let message = match next {
                None => {
                    waiting = 0;
                    self.show(true);
                    // A node that never pauses must not keep the runtime to itself.
                    tokio::task::yield_now().await;
                    continue;
                }
                Some(Ok(Some(message))) => message,
                Some(Ok(None)) => return self.tried("the node ended the stream".to_owned(), None),
                Some(Err(status)) => return self.error_of(&status),
            };
            if let Err(fault) = self.take(message) {
                self.replica.spoil(&fault);
                return self.protocol(fault);
            }
            waiting += 1;
        }
    }

    fn take(&mut self, message: WatchResponse) -> Result<(), Fault> {
        let now = Instant::now();
        if let Some(picture) = self.stood_in.take_if(|_| self.shown.is_revealed()) {
            self.brake.begin_with(picture.services.values());
        }
        let updates = self.replica.receive(message, now)?;
        (self.heard, self.problem) = (Some(now), None);
        self.progress |= self.replica.is_whole();
        for update in updates {
            let update = match self.brake.pass(update, self.replica.services(), now) {
                Update::Reset(_) => Update::Reset(Arc::new(self.picture(true))),
                other => other,
            };
            self.push(update);
        }
        Ok(())
    }

    fn push(&self, update: Update) {
        self.shown.push(update, || Arc::new(self.picture(true)));
    }

    fn let_go(&mut self, now: Instant) {
        for update in self.brake.let_go(now) {
            self.push(update);
        }
        self.show(true);
    }

    fn show(&self, connected: bool) {
        self.shown.show(self.picture(connected));
    }

    fn picture(&self, connected: bool) -> Picture {
        let mut picture = Picture {
            connected,
            heard: self.heard,
            problem: self.problem.clone(),
            ..self.replica.picture()
        };
        self.brake.cover(&mut picture);
        picture
    }

    fn error_of(&self, status: &Status) -> Error {
        let refusal = Refusal::read("watch", self.shared.nodes.address(self.node), status);
        let verdict = verdict_of(status, &refusal);
        if verdict == Verdict::Final && refusal.code != Code::Internal {
            return Error::Refused(Box::new(refusal));
        }
        self.tried(problem_of(status), refusal.reason)
    }

    fn silent(&self, waited: Duration) -> Error {
        self.tried(format!("silent for {waited:?}"), None)
    }

    fn silent_of(&self, what: &str, waited: Duration) -> Error {
        self.tried(format!("did not send {what} within {waited:?}"), None)
    }

    fn tried(&self, problem: String, reason: Option<String>) -> Error {
        let address = self.shared.nodes.address(self.node).clone();
        Error::Unreachable(Box::new(Unreachable {
            call: "watch",
            waited: self.heard.map_or(Duration::ZERO, |heard| heard.elapsed()),
            tried: vec![Tried { address, problem, reason, retry_after: None }],
            outcome_unknown: false,
        }))
    }

    fn protocol(&self, fault: Fault) -> Error {
        let problem = match fault {
            Fault::Protocol(problem) => problem,
            Fault::Gap => "services may have vanished unseen".to_owned(),
            Fault::OtherHistory => "its revisions belong to another history".to_owned(),
        };
        let address = self.shared.nodes.address(self.node).clone();
        Error::Protocol { call: "watch", address, problem }
    }
}

/// A token that is refused belongs to another cluster, or to a form of this one that is gone.
fn refuses_token(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange)
    )
}
