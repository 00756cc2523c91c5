//! The body of a request on its way: [`Kept`] holds it so that it can be sent again.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};
use tonic::{Status, body::Body};

/// The body of a request.
pub(super) enum Kept {
    /// It was complete at once, and small: it can be sent any number of times.
    Whole(Arc<Whole>),
    /// It comes bit by bit, or is large: it is sent once, and can be sent again only while nobody has read of it.
    Once(Slot),
}

/// A complete body.
pub(super) struct Whole {
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    length: u64,
}

/// Where a body that was not begun is put back.
#[derive(Clone)]
pub(super) struct Slot(Arc<Mutex<Option<Rest>>>);

struct Rest {
    /// What was read while it was not clear whether it is small.
    begun: VecDeque<Frame<Bytes>>,
    body: Body,
}

/// A body that is being sent.
enum Sent {
    Whole { whole: Arc<Whole>, next: usize },
    Once { rest: Option<Rest>, untouched: bool, slot: Slot },
}

impl Kept {
    /// Takes what of a body is there without waiting, up to `limit` bytes.
    pub(super) fn new(mut body: Body, limit: usize) -> Self {
        let mut context = Context::from_waker(Waker::noop());
        let mut begun = VecDeque::new();
        let mut length = 0;
        while length <= limit && limit > 0 {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(None) => return Self::Whole(Arc::new(Whole::new(begun, length))),
                Poll::Ready(Some(Ok(frame))) => {
                    length += frame.data_ref().map_or(0, Bytes::len);
                    begun.push_back(frame);
                }
                // The error comes again, or the end does, when the rest is read.
                Poll::Ready(Some(Err(status))) => {
                    let failed = futures_util::stream::once(async { Err(status) });
                    body = Body::new(Failing(Box::pin(failed)));
                    break;
                }
                Poll::Pending => break,
            }
        }
        Self::Once(Slot(Arc::new(Mutex::new(Some(Rest { begun, body })))))
    }

    /// The body for one attempt; `None` = it cannot be sent again.
    pub(super) fn send(&self) -> Option<Body> {
        match self {
            Self::Whole(whole) if whole.data.is_empty() && whole.trailers.is_none() => {
                Some(Body::empty())
            }
            Self::Whole(whole) => {
                Some(Body::new(Sent::Whole { whole: Arc::clone(whole), next: 0 }))
            }
            Self::Once(slot) => {
                let rest = slot.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
                let slot = slot.clone();
                Some(Body::new(Sent::Once { rest: Some(rest), untouched: true, slot }))
            }
        }
    }

    /// Whether [`Self::send`] would give a body now.
    pub(super) fn can_send(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Once(slot) => slot.0.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

impl Whole {
    fn new(frames: VecDeque<Frame<Bytes>>, length: usize) -> Self {
        let (mut data, mut trailers) = (Vec::with_capacity(frames.len()), None);
        for frame in frames {
            match frame.into_data() {
                Ok(bytes) => data.push(bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Self { data, trailers, length: length as u64 }
    }
}

/// An error that was met while looking ahead, in its place.
struct Failing(Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Status>> + Send>>);

impl http_body::Body for Failing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Whole { whole, next } => {
                let at = *next;
                *next += 1;
                let data = whole.data.get(at).cloned().map(Frame::data);
                let last = || {
                    let trailers = whole.trailers.clone().filter(|_| at == whole.data.len());
                    trailers.map(Frame::trailers)
                };
                Poll::Ready(data.or_else(last).map(Ok))
            }
            Self::Once { rest, untouched, .. } => {
                *untouched = false;
                let Some(rest) = rest else { return Poll::Ready(None) };
                match rest.begun.pop_front() {
                    Some(frame) => Poll::Ready(Some(Ok(frame))),
                    None => Pin::new(&mut rest.body).poll_frame(cx),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { whole, next } => {
                *next >= whole.data.len() + usize::from(whole.trailers.is_some())
            }
            Self::Once { rest, .. } => {
                rest.as_ref().is_none_or(|rest| rest.begun.is_empty() && rest.body.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { whole, next: 0 } => SizeHint::with_exact(whole.length),
            Self::Once { rest: Some(rest), .. } if rest.begun.is_empty() => rest.body.size_hint(),
            Self::Whole { .. } | Self::Once { .. } => SizeHint::default(),
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Self::Once { rest, untouched: true, slot } = self {
            *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = rest.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    fn full(text: &'static str) -> Body {
        Body::new(Full::new(Bytes::from_static(text.as_bytes())))
    }

    async fn read(body: Body) -> Result<Bytes, Status> {
        Ok(body.collect().await?.to_bytes())
    }

    /// A body that gives its parts, waiting before each but the first.
    fn slow(parts: &'static [Result<&'static str, ()>]) -> Body {
        let step = move |at: usize| async move {
            if at > 0 {
                tokio::task::yield_now().await;
            }
            let part = (*parts.get(at)?)
                .map(|text| Frame::data(Bytes::from_static(text.as_bytes())))
                .map_err(|()| Status::aborted("the caller failed"));
            Some((part, at + 1))
        };
        Body::new(StreamBody::new(Box::pin(futures_util::stream::unfold(0, step))))
    }

    #[tokio::test]
    async fn a_whole_body_is_sent_as_often_as_wanted_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", http::HeaderValue::from_static("1"));
        let end = std::future::ready(Some(Ok::<_, Status>(trailers)));
        let body = Full::new(Bytes::from_static(b"abc")).map_err(|never| match never {});
        let kept = Kept::new(Body::new(body.with_trailers(end)), 100);
        for _ in 0..3 {
            let sent = kept.send().unwrap().collect().await.unwrap();
            assert_eq!(sent.trailers().unwrap()["x-end"], "1");
            assert_eq!(sent.to_bytes(), "abc");
        }
    }

    #[tokio::test]
    async fn the_bound_is_exact_and_nothing_is_lost_above_it() {
        assert!(Kept::new(full("abcd"), 4).is_whole());
        let kept = Kept::new(full("abcde"), 4);
        assert!(!kept.is_whole());
        assert_eq!(read(kept.send().unwrap()).await.unwrap(), "abcde");
        assert!(kept.send().is_none());
    }

    #[tokio::test]
    async fn a_body_that_comes_bit_by_bit_is_put_back_while_untouched() {
        let kept = Kept::new(slow(&[Ok("one,"), Ok("two")]), 100);
        assert!(!kept.is_whole());
        drop(kept.send().unwrap());
        let mut begun = kept.send().unwrap();
        assert!(kept.send().is_none());
        begun.frame().await.unwrap().unwrap();
        drop(begun);
        assert!(kept.send().is_none());
        let kept = Kept::new(slow(&[Ok("one,"), Ok("two")]), 100);
        drop(kept.send());
        assert_eq!(read(kept.send().unwrap()).await.unwrap(), "one,two");
    }

    #[tokio::test]
    async fn an_error_of_the_caller_comes_in_its_place() {
        for parts in [&[Err(())][..], &[Ok("one"), Err(())]] {
            let kept = Kept::new(slow(parts), 100);
            let error = read(kept.send().unwrap()).await.unwrap_err();
            assert_eq!(error.message(), "the caller failed");
        }
    }

    #[test]
    fn an_empty_body_is_empty_every_time() {
        let kept = Kept::new(Body::empty(), 100);
        assert!(http_body::Body::is_end_stream(&kept.send().unwrap()));
        assert!(http_body::Body::is_end_stream(&kept.send().unwrap()));
        assert_eq!(Kept::new(full("abc"), 9).send().unwrap().size_hint().exact(), Some(3));
    }
}
