//! Bodies that are counted: what comes in against a budget of bytes, what goes out until it is gone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use servable_core::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::GaugeGuard;

/// How long a client may take for the next part of a request.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Answers are handed over in pieces, so that they count as being sent until nearly all of them is.
const PIECE_BYTES: usize = 64 << 10;
const UNIT_BYTES: usize = 1 << 10;
/// So little is not worth counting: the number of requests in flight is bounded as well.
const FREE_BYTES: usize = 16 << 10;

/// Bytes that all requests together may take while they come in and are worked on.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    most: usize,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Self { units: Arc::new(Semaphore::new((most / UNIT_BYTES).min(Semaphore::MAX_PERMITS))), most }
    }
}

/// What one request has of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    taken: Mutex<Vec<OwnedSemaphorePermit>>,
}

impl Share {
    pub(crate) fn of(budget: &Budget) -> Self {
        Self { budget: budget.clone(), taken: Mutex::default() }
    }

    /// Takes more. `RESOURCE_EXHAUSTED` if that is more than is left: the request may come again later.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Status> {
        if bytes <= FREE_BYTES {
            return Ok(());
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.units).try_acquire_many_owned(units).map_err(|_| {
            Status::resource_exhausted(format!(
                "requests at work take all of the {} bytes that this server has for them (max_bytes_in_flight)",
                self.budget.most
            ))
        })?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
        Ok(())
    }
}

/// The body of an answer, sent in pieces; its request counts as in flight until the last one.
pub(crate) struct Sent<B> {
    body: B,
    rest: Bytes,
    _in_flight: GaugeGuard,
}

impl<B> Sent<B> {
    pub(crate) fn new(body: B, in_flight: GaugeGuard) -> Self {
        Self { body, rest: Bytes::new(), _in_flight: in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact + rest),
            None => hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::app::Gauge;

    #[test]
    fn the_budget_is_given_back() {
        let budget = Budget::new(100 << 10);
        let share = Share::of(&budget);
        share.take(40 << 10).expect("there is room");
        share.take(50 << 10).expect("there is room");
        let refused = Share::of(&budget).take(20 << 10).expect_err("too much");
        assert!(refused.message.contains("max_bytes_in_flight"), "{refused}");
        Share::of(&budget).take(FREE_BYTES).expect("little is free");
        drop(share);
        Share::of(&budget).take(100 << 10).expect("all of it is there again");
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_last_piece_is_taken() {
        let gauge = Gauge::default();
        let data = Bytes::from(vec![7; 3 * PIECE_BYTES + 1]);
        let mut body = Sent::new(Full::new(data.clone()), gauge.enter());
        assert_eq!(body.size_hint().exact(), Some(data.len() as u64));
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(gauge.value(), 1);
            got.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
        assert_eq!(got, data);
        drop(body);
        assert_eq!(gauge.value(), 0);
    }
}
