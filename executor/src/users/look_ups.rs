//! What this machine is asked about its users: a few questions at a time, each with a deadline; equal ones share an answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits;

/// A question that somebody waits for.
type Asking<T> = Shared<BoxFuture<'static, Option<T>>>;

/// The questions of one process.
pub(super) struct LookUps<T: Clone> {
    turns: Arc<Semaphore>,
    /// By user. Who stops waiting last ends the question.
    asked: Mutex<BTreeMap<u32, WeakShared<BoxFuture<'static, Option<T>>>>>,
}

impl<T: Clone + Send + Sync + 'static> LookUps<T> {
    pub(super) fn new() -> Self {
        let turns = Arc::new(Semaphore::new(limits::USER_LOOK_UPS));
        Self { turns, asked: Mutex::default() }
    }

    /// What `look` finds, or what somebody who asks the same finds; none: not within `USER_LOOK_UP_MS` from when it was first asked,
    /// also when that is for others that are looked up. Answers are not kept: who comes later asks anew.
    pub(super) async fn ask<F>(&self, uid: u32, look: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.join(uid, look).await
    }

    fn join<F>(&self, uid: u32, look: impl FnOnce() -> F) -> Asking<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, asking| asking.upgrade().is_some_and(|asking| asking.peek().is_none()));
        if let Some(known) = asked.get(&uid).and_then(WeakShared::upgrade) {
            return known;
        }
        let (turns, look) = (self.turns.clone(), look());
        let in_turn = async move {
            let _turn = turns.acquire().await.ok()?;
            Some(look.await)
        };
        let deadline = Duration::from_millis(limits::USER_LOOK_UP_MS);
        let asking = async move { timeout(deadline, in_turn).await.ok().flatten() }.boxed().shared();
        asked.extend(asking.downgrade().map(|asking| (uid, asking)));
        asking
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// How many look-ups there were, and at once at most.
    #[derive(Default)]
    struct Counted {
        all: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Counted {
        /// Takes so long, and finds the number itself.
        async fn look(self: Arc<Self>, uid: u32, ms: u64) -> u32 {
            struct One(Arc<Counted>);
            impl Drop for One {
                fn drop(&mut self) {
                    self.0.now.fetch_sub(1, Ordering::SeqCst);
                }
            }
            self.all.fetch_add(1, Ordering::SeqCst);
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let _one = One(self.clone());
            sleep(Duration::from_millis(ms)).await;
            uid
        }

        fn so_far(&self) -> (usize, usize, usize) {
            let [all, now, most] =
                [&self.all, &self.now, &self.most].map(|count| count.load(Ordering::SeqCst));
            (all, now, most)
        }
    }

    const MANY: u32 = 200;

    #[tokio::test(start_paused = true)]
    async fn equal_questions_share_an_answer_and_later_ones_ask_anew() {
        let (look_ups, counted) = (LookUps::new(), Arc::new(Counted::default()));
        let ask = || look_ups.ask(1_000, || counted.clone().look(1_000, 50));
        let answers = join_all((0..MANY).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| *answer == Some(1_000)));
        assert_eq!(counted.so_far(), (1, 0, 1));
        assert_eq!(ask().await, Some(1_000));
        assert_eq!(counted.so_far(), (2, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_bound_are_looked_up_at_once() {
        let (look_ups, counted) = (LookUps::new(), Arc::new(Counted::default()));
        let (look_ups, counts) = (&look_ups, &counted);
        let ask = |uid: u32| look_ups.ask(uid, move || counts.clone().look(uid, 10));
        let answers = join_all((0..MANY).map(ask)).await;
        assert!(answers.iter().zip(0..).all(|(answer, uid)| *answer == Some(uid)));
        assert_eq!(counted.so_far(), (MANY as usize, 0, limits::USER_LOOK_UPS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_does_not_answer_holds_each_up_until_its_deadline() {
        let (look_ups, counted) = (LookUps::new(), Arc::new(Counted::default()));
        let begun = Instant::now();
        let (look_ups, counts) = (&look_ups, &counted);
        let ask = |uid: u32| look_ups.ask(uid, move || counts.clone().look(uid, u64::from(u32::MAX)));
        let answers = join_all((0..MANY).map(ask)).await;
        assert!(answers.iter().all(Option::is_none));
        assert_eq!(begun.elapsed().as_millis() as u64, limits::USER_LOOK_UP_MS);
        assert_eq!((counted.so_far().1, counted.so_far().2), (0, limits::USER_LOOK_UPS));
        // It answers again.
        assert_eq!(look_ups.ask(7, || counted.clone().look(7, 10)).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_the_answer_from_nobody_and_the_last_one_ends_the_question() {
        let (look_ups, counted) = (LookUps::new(), Arc::new(Counted::default()));
        let ask = || look_ups.ask(1_000, || counted.clone().look(1_000, 50));
        let gone = timeout(Duration::from_millis(10), ask());
        let (gone, stays) = tokio::join!(gone, ask());
        assert!(gone.is_err() && stays == Some(1_000));
        assert_eq!(counted.so_far(), (1, 0, 1));
        assert!(timeout(Duration::from_millis(10), ask()).await.is_err());
        assert_eq!(counted.so_far(), (2, 0, 1));
    }
}
