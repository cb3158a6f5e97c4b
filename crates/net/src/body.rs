//! Bodies that are counted: what comes in against a budget of bytes, what goes out until it is gone.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use servable_core::servable::Room;
use servable_core::{Code, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::app::InFlight;
use crate::load::Place;
use crate::quota::{Full, Quota, Turn};
use crate::stall::{Sending, Stalls};

/// How long a client may take for the next part of a request, and longer for all of it only as it goes on.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
const LEAST_BYTES_PER_S: usize = 500;
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

    /// Bytes that are held at the moment.
    pub(crate) fn held(&self) -> usize {
        self.most.saturating_sub(self.units.available_permits() * UNIT_BYTES)
    }
}

/// What one request has of all that is limited: given back when nobody has it any more, neither who waits for the answer
/// nor a run that goes on without anybody.
pub(crate) struct Share {
    budget: Budget,
    held: Mutex<Held>,
    /// Its place among all, and among those of its client.
    place: Option<Place>,
    _turn: Option<Turn<Option<IpAddr>>>,
}

/// What it comes to have on its way.
#[derive(Default)]
struct Held {
    bytes: Option<OwnedSemaphorePermit>,
    /// Its place among the requests for its model.
    turn: Option<Turn<String>>,
}

impl Share {
    /// Of a request that is counted elsewhere.
    pub(crate) fn of(budget: &Budget) -> Self {
        Self { budget: budget.clone(), held: Mutex::default(), place: None, _turn: None }
    }

    pub(crate) fn placed(budget: &Budget, place: Place, turn: Option<Turn<Option<IpAddr>>>) -> Self {
        Self { place: Some(place), _turn: turn, ..Self::of(budget) }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self::of(&Budget::new(0)))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes its place among the requests for this model, once.
    pub(crate) fn take_turn(&self, of_models: &Quota<String>, model: &str) -> Result<(), Full> {
        let turn = &mut self.held().turn;
        if turn.is_none() {
            *turn = Some(of_models.take(|| model.to_owned())?);
        }
        Ok(())
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn abandon(&self) {
        if let Some(place) = &self.place {
            place.abandon();
        }
    }

    /// Holds so many bytes in all, whatever it was before. `RESOURCE_EXHAUSTED` if there are not so many left: the request
    /// may come again later.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), Status> {
        let units = if bytes <= FREE_BYTES { 0 } else { bytes.div_ceil(UNIT_BYTES) };
        let held = &mut self.held().bytes;
        let before = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if units < before {
            drop(held.as_mut().and_then(|permit| permit.split(before - units)));
        } else if units > before {
            let more = u32::try_from(units - before).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.budget.units).try_acquire_many_owned(more).map_err(|_| {
                Status::resource_exhausted(format!(
                    "requests at work take all of the {} bytes that this server has for them (max_bytes_in_flight)",
                    self.budget.most
                ))
            })?;
            match held.as_mut() {
                Some(permit) => permit.merge(more),
                None => *held = Some(more),
            }
        }
        Ok(())
    }

    pub(crate) fn give_back(&self) {
        self.held().bytes = None;
    }

    /// Whether it has nothing of the budget.
    pub(crate) fn is_empty(&self) -> bool {
        self.held().bytes.as_ref().is_none_or(|permit| permit.num_permits() == 0)
    }
}

impl Room for Share {
    fn hold(&self, bytes: usize) -> Result<(), Status> {
        Share::hold(self, bytes)
    }
}

/// Bytes that a request has brought so far, and what it holds of the budget for them.
///
/// A length that is only announced costs nothing. What has come is held in steps that grow with it, so that this is done
/// a few times for each request.
pub(crate) struct Arrived<'a> {
    share: &'a Share,
    bytes: usize,
    held: usize,
}

impl<'a> Arrived<'a> {
    pub(crate) fn new(share: &'a Share) -> Self {
        Self { share, bytes: 0, held: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes further bytes, of which there will be `most` in all.
    pub(crate) fn add(&mut self, bytes: usize, most: usize) -> Result<(), Status> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.held {
            self.held = self.bytes.max(self.held.saturating_mul(2).min(most));
            self.share.hold(self.held)?;
        }
        Ok(())
    }
}

/// Bytes that the tensors of a request take, held before they are made: its message may stand for far more than it holds.
pub(crate) struct Made<'a> {
    share: &'a Share,
    bytes: usize,
    held: usize,
}

impl<'a> Made<'a> {
    /// Of a message of so many bytes, which are held.
    pub(crate) fn of(share: &'a Share, message: usize) -> Self {
        Self { share, bytes: 0, held: message.max(FREE_BYTES) }
    }

    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Status> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.held {
            self.share.hold(self.bytes)?;
            self.held = self.bytes;
        }
        Ok(())
    }
}

/// How long a request may take to come: each part of it, and all of it for its size. The clock starts with the first
/// part that is not there yet.
#[derive(Default)]
pub(crate) struct Patience(Option<Instant>);

impl Patience {
    /// Waits for the next part of a request of which so many bytes have come. `CANCELLED` if that takes too long.
    pub(crate) async fn wait<T>(&mut self, bytes: usize, part: impl Future<Output = T>) -> Result<T, Status> {
        let mut part = pin!(part);
        if let Some(part) = part.as_mut().now_or_never() {
            return Ok(part);
        }
        let now = Instant::now();
        let worth = Duration::from_secs((bytes / LEAST_BYTES_PER_S) as u64);
        let end = (*self.0.get_or_insert(now) + PART_TIMEOUT + worth).min(now + PART_TIMEOUT);
        tokio::time::timeout_at(end, part).await.map_err(|_| {
            let seconds = PART_TIMEOUT.as_secs();
            Status::new(
                Code::Cancelled,
                format!(
                    "the request did not go on for {seconds} s, or at less than {LEAST_BYTES_PER_S} bytes a second"
                ),
            )
        })
    }
}

/// The body of an answer, sent in pieces; its request counts as in flight until the last one.
pub(crate) struct Sent<B> {
    body: B,
    rest: Bytes,
    sending: Sending,
    _in_flight: InFlight,
}

impl<B> Sent<B> {
    pub(crate) fn of(response: Response<B>, in_flight: InFlight, stalls: &Stalls) -> Response<Self> {
        let sending = stalls.begin(in_flight.is_large());
        response.map(|body| Self { body, rest: Bytes::new(), sending, _in_flight: in_flight })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                self.sending.rests();
                return Poll::Pending;
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        self.sending.goes_on();
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
    use crate::load::Load;

    #[test]
    fn the_budget_is_given_back() {
        let budget = Budget::new(100 << 10);
        let share = Share::of(&budget);
        share.hold(40 << 10).expect("there is room");
        share.hold(90 << 10).expect("there is room");
        let refused = Share::of(&budget).hold(20 << 10).expect_err("too much");
        assert!(refused.message.contains("max_bytes_in_flight"), "{refused}");
        Share::of(&budget).hold(FREE_BYTES).expect("little is free");
        share.hold(80 << 10).expect("less than before");
        Share::of(&budget).hold(20 << 10).expect("this much is there again");
        share.hold(0).expect("nothing");
        assert!(share.is_empty());
        share.hold(100 << 10).expect("all of it is there again");
        assert!(!share.is_empty());
        drop(share);
        Share::of(&budget).hold(100 << 10).expect("all of it is there again");
    }

    #[test]
    fn what_arrives_is_held_and_no_more_than_will_come() {
        let budget = Budget::new(100 << 10);
        let share = Share::of(&budget);
        let mut arrived = Arrived::new(&share);
        for _ in 0..9 {
            arrived.add(10 << 10, 90 << 10).expect("there is room");
        }
        assert_eq!(arrived.bytes(), 90 << 10);
        assert!(Share::of(&budget).hold(20 << 10).is_err());
        drop(share);
        Share::of(&budget).hold(100 << 10).expect("it is given back");
    }

    #[test]
    fn what_is_made_is_held_before_it_is_made() {
        let budget = Budget::new(100 << 10);
        let share = Share::of(&budget);
        share.hold(30 << 10).expect("a message");
        let mut made = Made::of(&share, 30 << 10);
        made.add(20 << 10).expect("less than the message");
        assert_eq!(budget.held(), 30 << 10);
        made.add(20 << 10).expect("there is room");
        assert_eq!(budget.held(), 40 << 10);
        made.add(usize::MAX).expect_err("no room");
        assert_eq!(budget.held(), 40 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_to_go_on() {
        let mut patience = Patience::default();
        let slow = |seconds: u64| tokio::time::sleep(Duration::from_secs(seconds));
        patience.wait(0, slow(59)).await.expect("in time");
        assert_eq!(patience.wait(0, slow(59)).await.expect_err("a byte a minute").code, Code::Cancelled);
        patience.wait(1 << 20, slow(59)).await.expect("much has come");
        assert_eq!(patience.wait(1 << 20, slow(61)).await.expect_err("it stopped").code, Code::Cancelled);
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_last_piece_is_taken() {
        let load = Arc::new(Load::default());
        let share = Arc::new(Share::placed(&Budget::new(0), load.enter(), None));
        let data = Bytes::from(vec![7; 3 * PIECE_BYTES + 1]);
        let mut body =
            Sent::of(Response::new(Full::new(data.clone())), InFlight::new(Arc::clone(&share)), &Stalls::default())
                .into_body();
        assert_eq!(body.size_hint().exact(), Some(data.len() as u64));
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(load.waited_for(), 1);
            got.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
        assert_eq!(got, data);
        drop(body);
        assert_eq!((load.at_work(), load.waited_for()), (1, 0), "somebody still works on it");
        drop(share);
        assert_eq!((load.at_work(), load.waited_for()), (0, 0));
    }
}
