//! The body of an answer: it sees how the answer ends, ends it at its deadline, and tells the [`Pick`].

use super::{call::CallError, details::sanitize, observe::Outcome, pick::Pick, report::Load};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

/// The body of an answer. The call counts as in flight until it is read to its end, dropped, or read after its
/// deadline: then a gRPC answer ends with the status DEADLINE_EXCEEDED, an HTTP answer with an error. That is the
/// endpoint's fault where it kept its reader waiting for half of the time or more.
pub struct Answer<B> {
    inner: B,
    pick: Option<Pick>,
    ending: Ending,
    limit: Option<Limit>,
    /// Its reader has begun.
    read: bool,
    /// Its reader asked before, and nothing has come since.
    waiting: bool,
    over: bool,
}

/// Why the body of an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The deadline passed; always [`CallError::Deadline`].
    #[error(transparent)]
    Deadline(CallError),
    /// It broke off.
    #[error("the answer broke off")]
    Broken(#[source] BoxError),
}

/// What the end of an answer means, as its protocol says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// How a call with these trailers ended, or with this head where that is all; without any where none came.
    pub(super) verdict: fn(Option<&HeaderMap>) -> Outcome,
    /// How one ended whose body nobody reads, although its head was good.
    pub(super) dropped: Outcome,
    /// The trailers that say that the deadline passed; `None` = an error says so.
    pub(super) late: fn(&CallError) -> Option<HeaderMap>,
}

/// When an answer must have ended.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) at: Instant,
    /// Whether missing it says something about the endpoint.
    pub(super) counts: bool,
    begun: Instant,
    /// When something of the body came last; before that, the beginning.
    heard: Instant,
    attempts: u32,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    /// Of an attempt that begins now, the `attempts`th of a call that began then.
    pub(super) fn new(at: Instant, begun: Instant, attempts: u32) -> Self {
        // A late attempt that is cut short proves nothing: its time was spent by others.
        let counts = is_half(at.saturating_duration_since(Instant::now()), (begun, at));
        Self { at, counts, begun, heard: begun, attempts, alarm: None }
    }

    /// Whether the endpoint is to blame that this has passed. A reader that did not wait for it proves nothing, nor does
    /// a stream that flows up to here.
    fn blames(&self, waiting: bool) -> bool {
        let silent = self.at.saturating_duration_since(self.heard);
        self.counts && waiting && is_half(silent, (self.begun, self.at))
    }
}

fn is_half(part: Duration, (from, to): (Instant, Instant)) -> bool {
    part * 2 >= to.saturating_duration_since(from)
}

impl<B: http_body::Body> Answer<B> {
    /// An answer whose head, with these headers, was good.
    pub(super) fn open(
        inner: B,
        headers: &HeaderMap,
        mut pick: Pick,
        ending: Ending,
        limit: Option<Limit>,
    ) -> Self {
        if inner.is_end_stream() {
            // Nobody would read it: the head says how it ended, or nothing does.
            pick.report((ending.verdict)(Some(headers)));
            return Self::closed(inner, ending);
        }
        pick.answered();
        Self { inner, pick: Some(pick), ending, limit, read: false, waiting: false, over: false }
    }

    /// An answer whose outcome is reported already.
    pub(super) fn closed(inner: B, ending: Ending) -> Self {
        let (pick, limit) = (None, None);
        Self { inner, pick, ending, limit, read: false, waiting: false, over: false }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        sanitize(trailers);
        if let (Some(pick), Some(load)) = (&self.pick, Load::from_trailers(trailers)) {
            pick.report_load(load);
        }
        self.end((self.ending.verdict)(Some(trailers)));
    }

    /// The end by the deadline, where that has passed; wakes the reader when it does.
    fn late(
        &mut self,
        cx: &mut Context<'_>,
        sleep: bool,
    ) -> Option<Result<Frame<Bytes>, BodyError>> {
        let limit = self.limit.as_mut()?;
        let passed = Instant::now() >= limit.at || {
            let at = limit.at;
            sleep && {
                let alarm = limit.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
                alarm.as_mut().poll(cx).is_ready()
            }
        };
        if !passed {
            return None;
        }
        let limit = self.limit.take()?;
        self.over = true;
        let pick = self.pick.take()?;
        let error = CallError::Deadline {
            service: pick.service().clone(),
            endpoint: pick.address(),
            waited: limit.begun.elapsed(),
            attempts: limit.attempts,
        };
        let blamed = limit.blames(self.waiting);
        pick.report(if blamed { Outcome::Timeout } else { Outcome::Cancelled });
        Some(match (self.ending.late)(&error) {
            Some(trailers) => Ok(Frame::trailers(trailers)),
            None => Err(BodyError::Deadline(error)),
        })
    }
}

impl<B> Answer<B> {
    fn end(&mut self, outcome: Outcome) {
        self.limit = None;
        if let Some(pick) = self.pick.take() {
            pick.report(outcome);
        }
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        // What was read of it was no end: the rest may be on its way, or never come.
        self.end(if self.read { Outcome::Cancelled } else { self.ending.dropped });
    }
}

impl<B> http_body::Body for Answer<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.read = true;
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.waiting &= polled.is_pending();
        // A body that never pauses does not outlast its deadline either.
        if let Some(end) = self.late(cx, polled.is_pending()) {
            return Poll::Ready(Some(end));
        }
        let Poll::Ready(frame) = polled else {
            self.waiting = true;
            return Poll::Pending;
        };
        if let Some(limit) = &mut self.limit {
            limit.heard = Instant::now();
        }
        Poll::Ready(match frame {
            None => {
                let outcome = (self.ending.verdict)(None);
                self.end(outcome);
                None
            }
            Some(Err(error)) => {
                self.end(Outcome::Failure);
                Some(Err(BodyError::Broken(error.into())))
            }
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    self.trailers(&mut trailers);
                    Some(Ok(Frame::trailers(trailers)))
                }
                Err(frame) => {
                    if self.inner.is_end_stream() {
                        // Servers that pass it on do not ask for what comes after it.
                        let outcome = (self.ending.verdict)(None);
                        self.end(outcome);
                    }
                    Some(Ok(frame))
                }
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for Answer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("pick", &self.pick).finish_non_exhaustive()
    }
}
