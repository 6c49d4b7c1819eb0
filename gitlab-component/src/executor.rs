//! Turns the host's completion queue into ordinary `async` Rust.
//!
//! A component has one thread and no operating system: the only thing that it can wait for is `http.next`. So the executor is
//! small. A request is a future that waits in a slot under its ticket; [`block_on`] polls the root future until it waits,
//! then takes one finished request from the host, fills its slot and polls again. Finished bodies stay with the host
//! until they are taken one by one, so many requests in flight cost no memory here.
//!
//! A root future that waits while nothing is in flight would wait for ever: that is a bug of the connector and ends in a
//! panic that says so, instead of a run that hangs until its deadline.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::host::{Outcome, Ticket};

/// The requests that somebody waits for.
#[derive(Default)]
pub(crate) struct Queue {
    /// By ticket. Never more than a few dozen.
    slots: RefCell<Vec<(Ticket, Slot)>>,
}

enum Slot {
    Waiting(Option<Waker>),
    Finished(Outcome),
}

impl Queue {
    /// A future that is ready when the host has finished this request.
    pub(crate) fn completion(&self, ticket: Ticket) -> Completion<'_> {
        self.slots.borrow_mut().push((ticket, Slot::Waiting(None)));
        Completion {
            queue: self,
            ticket,
        }
    }

    /// Fills a slot. Requests that nobody waits for any more are dropped.
    pub(crate) fn complete(&self, ticket: Ticket, outcome: Outcome) {
        let mut slots = self.slots.borrow_mut();
        let Some((_, slot)) = slots.iter_mut().find(|(other, _)| *other == ticket) else {
            return;
        };
        let before = std::mem::replace(slot, Slot::Finished(outcome));
        drop(slots);
        if let Slot::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// Waits for one request.
pub(crate) struct Completion<'q> {
    queue: &'q Queue,
    ticket: Ticket,
}

impl Future for Completion<'_> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut slots = self.queue.slots.borrow_mut();
        let Some(index) = slots.iter().position(|(ticket, _)| *ticket == self.ticket) else {
            return Poll::Pending;
        };
        match &mut slots[index].1 {
            Slot::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            finished @ Slot::Finished(_) => {
                match std::mem::replace(finished, Slot::Waiting(None)) {
                    Slot::Finished(outcome) => Poll::Ready(outcome),
                    Slot::Waiting(_) => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for Completion<'_> {
    fn drop(&mut self) {
        self.queue
            .slots
            .borrow_mut()
            .retain(|(ticket, _)| *ticket != self.ticket);
    }
}

/// Runs a future to its end, taking finished requests from `next` whenever it waits.
///
/// # Panics
/// When the future waits although nothing is in flight.
pub(crate) fn block_on<T>(
    queue: &Queue,
    mut next: impl FnMut() -> Option<(Ticket, Outcome)>,
    future: impl Future<Output = T>,
) -> T {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            continue;
        }
        match next() {
            Some((ticket, outcome)) => queue.complete(ticket, outcome),
            None => panic!(
                "the connector is stuck: it waits for an answer, but no request is in flight"
            ),
        }
    }
}

/// Remembers that the root future has to be polled.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs jobs side by side, at most `limit` at a time, until all are done or one fails. A job is asked for when there is room for it,
/// because one that has not begun takes as much memory as one that has.
///
/// Boxed, because every caller's futures would otherwise bring their own copy of this machinery into the component.
pub(crate) fn side_by_side<'a, E: 'a>(
    limit: usize,
    jobs: impl IntoIterator<Item = Job<'a, E>, IntoIter: 'a>,
) -> Job<'a, E> {
    let jobs: Box<dyn Iterator<Item = Job<'a, E>> + 'a> = Box::new(jobs.into_iter());
    Box::pin(stream::iter(jobs).buffer_unordered(limit).try_collect())
}

/// One of several.
type Job<'a, E> = LocalBoxFuture<'a, Result<(), E>>;

/// Like [`side_by_side`], for jobs that have results; these come in the order of the jobs.
pub(crate) async fn gather<T, E, F: Future<Output = Result<T, E>>>(
    limit: usize,
    jobs: impl Iterator<Item = F>,
) -> Result<Vec<T>, E> {
    let results = RefCell::new(Vec::new());
    let jobs = jobs.enumerate().map(|(place, job)| {
        let results = &results;
        results.borrow_mut().push(None);
        let job = async move {
            let result = job.await?;
            results.borrow_mut()[place] = Some(result);
            Ok(())
        };
        job.boxed_local()
    });
    side_by_side(limit, jobs).await?;
    Ok(results.into_inner().into_iter().flatten().collect())
}

/// A number of permits. Who has the lowest rank gets one first, and of those who waits longest.
///
/// Work of a low rank is so brought to its end before work of a high one gets far, and what the latter has read and not yet written
/// stays small; it gets all that the former cannot use.
pub(crate) struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// Of what is being polled.
    rank: Cell<usize>,
}

#[derive(Default)]
struct Waiter {
    rank: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Permits {
    /// `count` permits, all free.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            free: Cell::new(count),
            waiting: RefCell::default(),
            rank: Cell::default(),
        }
    }

    /// This work with this rank. Without one it has the rank of what it is part of, and that is 0 in the end.
    pub(crate) fn ranked<'p, T: 'p>(
        &'p self,
        rank: usize,
        work: LocalBoxFuture<'p, T>,
    ) -> LocalBoxFuture<'p, T> {
        Box::pin(Ranked {
            current: &self.rank,
            rank,
            work,
        })
    }

    /// Waits for a permit. It is given back when it is dropped.
    pub(crate) fn acquire(&self) -> Acquire<'_> {
        Acquire {
            permits: self,
            waiter: None,
        }
    }

    /// A permit goes straight to who is first in the line, so that nobody can overtake.
    fn release(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some(waiter) => {
                waiter.granted.set(true);
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
            }
            None => self.free.set(self.free.get() + 1),
        }
    }
}

/// Work that says its rank whenever it is polled.
struct Ranked<'p, T> {
    current: &'p Cell<usize>,
    rank: usize,
    work: LocalBoxFuture<'p, T>,
}

impl<T> Future for Ranked<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let around = self.current.replace(self.rank);
        let polled = self.work.poll_unpin(context);
        self.current.set(around);
        polled
    }
}

/// Waits for a permit.
pub(crate) struct Acquire<'p> {
    permits: &'p Permits,
    waiter: Option<Rc<Waiter>>,
}

impl<'p> Future for Acquire<'p> {
    type Output = Permit<'p>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit<'p>> {
        let permits = self.permits;
        if let Some(waiter) = &self.waiter {
            if waiter.granted.get() {
                self.waiter = None;
                return Poll::Ready(Permit { permits });
            }
            *waiter.waker.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        if permits.free.get() > 0 {
            permits.free.set(permits.free.get() - 1);
            return Poll::Ready(Permit { permits });
        }
        let waiter = Rc::new(Waiter {
            rank: permits.rank.get(),
            ..Waiter::default()
        });
        *waiter.waker.borrow_mut() = Some(context.waker().clone());
        let mut waiting = permits.waiting.borrow_mut();
        let place = waiting.partition_point(|other| other.rank <= waiter.rank);
        waiting.insert(place, Rc::clone(&waiter));
        drop(waiting);
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            if waiter.granted.get() {
                self.permits.release();
            } else {
                self.permits
                    .waiting
                    .borrow_mut()
                    .retain(|other| !Rc::ptr_eq(other, &waiter));
            }
        }
    }
}

/// The right to have one request in flight.
pub(crate) struct Permit<'p> {
    permits: &'p Permits,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.permits.release();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::host::{HttpError, Response};

    fn answer(body: &str) -> Outcome {
        Ok(Response {
            status: 200,
            headers: Vec::new(),
            body: body.to_owned(),
        })
    }

    #[test]
    fn a_ready_future_needs_no_host() {
        let value = block_on(
            &Queue::default(),
            || unreachable!("nothing is in flight"),
            async { 7 },
        );
        assert_eq!(value, 7);
    }

    #[test]
    fn answers_reach_who_waits_for_them_in_whatever_order_they_come() {
        let queue = Queue::default();
        let mut finished = vec![(1, answer("one")), (3, answer("three")), (2, answer("two"))];
        let futures = [1, 2, 3].map(|ticket| queue.completion(ticket));
        let bodies = block_on(&queue, || finished.pop(), join_all(futures));
        let bodies: Vec<_> = bodies
            .into_iter()
            .map(|outcome| outcome.expect("answered").body)
            .collect();
        assert_eq!(bodies, ["one", "two", "three"]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_dropped() {
        let queue = Queue::default();
        drop(queue.completion(1));
        let mut finished = vec![(2, Err(HttpError::Interrupted)), (1, answer("late"))];
        let outcome = block_on(&queue, || finished.pop(), queue.completion(2));
        assert_eq!(outcome, Err(HttpError::Interrupted));
        assert!(queue.slots.borrow().is_empty());
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_and_a_failure_ends_all() {
        let queue = Queue::default();
        let in_flight = RefCell::new(Vec::new());
        let job = |ticket| {
            let (queue, in_flight) = (&queue, &in_flight);
            async move {
                in_flight.borrow_mut().push(ticket);
                queue.completion(ticket).await.map(|_| ticket)
            }
        };
        // The last one first, and ticket 99 fails.
        let next = || {
            let ticket = in_flight.borrow_mut().pop()?;
            let outcome = if ticket == 99 {
                Err(HttpError::Interrupted)
            } else {
                answer("")
            };
            Some((ticket, outcome))
        };
        let results = block_on(&queue, next, gather(4, (1..=10).map(job)));
        assert_eq!(results, Ok((1..=10).collect()));
        let results = block_on(&queue, next, gather(4, (95..=110).map(job)));
        assert_eq!(results, Err(HttpError::Interrupted));
        assert!(queue.slots.borrow().is_empty());
    }

    #[test]
    #[should_panic(expected = "no request is in flight")]
    fn waiting_for_nothing_is_reported_instead_of_hanging() {
        block_on(&Queue::default(), || None, std::future::pending::<()>());
    }

    #[test]
    fn no_more_than_the_permitted_number_is_in_flight_and_everybody_gets_a_turn() {
        let queue = Queue::default();
        let permits = Permits::new(3);
        let in_flight = RefCell::new(VecDeque::new());
        let most = Cell::new(0);
        let jobs = (0..20).map(|ticket| {
            let (queue, permits, in_flight, most) = (&queue, &permits, &in_flight, &most);
            async move {
                let _permit = permits.acquire().await;
                in_flight.borrow_mut().push_back(ticket);
                most.set(most.get().max(in_flight.borrow().len()));
                queue.completion(ticket).await.is_ok()
            }
        });
        let next = || {
            in_flight
                .borrow_mut()
                .pop_back()
                .map(|ticket| (ticket, answer("")))
        };
        let done = block_on(&queue, next, join_all(jobs));
        assert_eq!(done, [true; 20]);
        assert_eq!(most.get(), 3);
        assert_eq!(permits.free.get(), 3);
    }

    #[test]
    fn a_permit_goes_to_the_lowest_rank_and_among_equals_to_who_waits_longest() {
        let queue = Queue::default();
        let permits = Permits::new(2);
        let in_flight = RefCell::new(VecDeque::new());
        let began = RefCell::new(Vec::new());
        let job = |ticket: u64| {
            let (queue, permits, in_flight, began) = (&queue, &permits, &in_flight, &began);
            async move {
                let _permit = permits.acquire().await;
                began.borrow_mut().push(ticket);
                in_flight.borrow_mut().push_back(ticket);
                queue.completion(ticket).await.is_ok()
            }
        };
        let next = || {
            in_flight
                .borrow_mut()
                .pop_front()
                .map(|ticket| (ticket, answer("")))
        };
        // The tens are the rank. A job may have parts, which have its rank.
        let parts = |rank: u64| join_all([1, 2, 3].map(|part| job(10 * rank + part))).boxed_local();
        let work = [(3, parts(3)), (1, parts(1)), (2, parts(2))]
            .map(|(rank, work)| permits.ranked(rank, work));
        block_on(&queue, next, join_all(work));
        assert_eq!(*began.borrow(), [31, 32, 11, 12, 13, 21, 22, 23, 33]);
        assert_eq!(permits.rank.get(), 0);
    }

    #[test]
    fn a_permit_granted_to_a_future_that_is_dropped_goes_to_the_next() {
        let permits = Permits::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(held) = pin!(permits.acquire()).poll(&mut context) else {
            panic!("one permit is free")
        };
        let mut first = Box::pin(permits.acquire());
        let mut second = Box::pin(permits.acquire());
        let mut third = Box::pin(permits.acquire());
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        drop(second);
        drop(held);
        drop(first);
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(third);
        assert_eq!(permits.free.get(), 1);
    }
}
