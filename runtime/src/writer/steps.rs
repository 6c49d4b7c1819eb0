//! Pages and cursors in the order in which the component handed them over.
//!
//! A cursor stands for everything before it. It passes when each record of each earlier page has its fate, whatever the order in which
//! they got it; never earlier.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;

/// A cursor and its value, or its end.
pub(super) type Cursor = (String, Option<String>);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: VecDeque<Step>,
    /// Number of the first of them.
    first: u64,
}

#[derive(Debug)]
enum Step {
    Page {
        /// Records without a fate.
        left: usize,
        /// Their room in the queue, which they give back one by one: a thread of many turns keeps no room for those around it that are written.
        /// The last of it goes with the page.
        room: OwnedSemaphorePermit,
        /// Bytes of it that are free, and too few to be given back.
        free: usize,
    },
    Cursor {
        cursor: Cursor,
        _room: OwnedSemaphorePermit,
    },
}

impl Steps {
    /// A page of so many records; answers its number.
    pub(super) fn page(&mut self, records: usize, room: OwnedSemaphorePermit) -> u64 {
        self.steps.push_back(Step::Page {
            left: records,
            room,
            free: 0,
        });
        self.first + self.steps.len() as u64 - 1
    }

    pub(super) fn cursor(&mut self, cursor: Cursor, room: OwnedSemaphorePermit) {
        self.steps.push_back(Step::Cursor {
            cursor,
            _room: room,
        });
    }

    /// A record of this page has its fate, and gives back the room that it took: so many bytes.
    pub(super) fn settled(&mut self, page: u64, bytes: usize) {
        let index = page.checked_sub(self.first).map(usize::try_from);
        if let Some(Ok(index)) = index
            && let Some(Step::Page { left, room, free }) = self.steps.get_mut(index)
        {
            *left = left.saturating_sub(1);
            *free += bytes;
            let given = (*free >> 10).min(room.num_permits().saturating_sub(1));
            *free -= given << 10;
            drop(room.split(given));
        }
    }

    /// The cursors that stand for nothing but settled pages, in order.
    pub(super) fn passed(&mut self) -> Vec<Cursor> {
        let mut cursors = Vec::new();
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Page { left: 0, .. } => {}
                Step::Page { .. } => {
                    self.steps.push_front(step);
                    break;
                }
                Step::Cursor { cursor, .. } => cursors.push(cursor),
            }
            self.first += 1;
        }
        cursors
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn cursor(name: &str) -> Cursor {
        (name.to_owned(), Some("1".to_owned()))
    }

    #[tokio::test]
    async fn a_cursor_passes_when_every_page_before_it_is_settled_whatever_the_order() {
        let room = Arc::new(Semaphore::new(7));
        let page = || Arc::clone(&room).try_acquire_owned().unwrap();
        let mut steps = Steps::default();
        let first = steps.page(2, page());
        steps.cursor(cursor("a"), page());
        let second = steps.page(1, page());
        steps.cursor(cursor("b"), page());
        let empty = steps.page(0, page());
        steps.cursor(cursor("c"), page());
        assert_eq!((first, second, empty), (0, 2, 4));

        steps.settled(second, 0);
        assert_eq!(steps.passed(), []);
        steps.settled(first, 0);
        assert_eq!(steps.passed(), []);
        assert_eq!(room.available_permits(), 1);
        steps.settled(first, 0);
        assert_eq!(steps.passed(), [cursor("a"), cursor("b"), cursor("c")]);
        assert_eq!(room.available_permits(), 7);
        let later = steps.page(1, page());
        steps.cursor(cursor("d"), page());
        steps.settled(later, 0);
        assert_eq!(steps.passed(), [cursor("d")]);
    }

    #[tokio::test]
    async fn room_comes_back_with_each_record_as_much_as_it_took_and_the_last_of_it_with_the_page()
    {
        let room = Arc::new(Semaphore::new(100));
        let taken = Arc::clone(&room).try_acquire_many_owned(100).unwrap();
        let mut steps = Steps::default();
        let page = steps.page(4, taken);
        let mut after = |bytes| {
            steps.settled(page, bytes);
            room.available_permits()
        };
        // One large record keeps what is its own, however many small ones go before it.
        assert_eq!([after(1000), after(1000), after(200)], [0, 1, 2]);
        assert_eq!(after(200 << 10), 99);
        assert_eq!(steps.passed(), []);
        assert_eq!(room.available_permits(), 100);
    }
}
