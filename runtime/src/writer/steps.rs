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
        /// Their room in the queue, given back with the last of them.
        _room: OwnedSemaphorePermit,
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
            _room: room,
        });
        self.first + self.steps.len() as u64 - 1
    }

    pub(super) fn cursor(&mut self, cursor: Cursor, room: OwnedSemaphorePermit) {
        self.steps.push_back(Step::Cursor {
            cursor,
            _room: room,
        });
    }

    /// A record of this page has its fate.
    pub(super) fn settled(&mut self, page: u64) {
        let index = page.checked_sub(self.first).map(usize::try_from);
        if let Some(Ok(index)) = index
            && let Some(Step::Page { left, .. }) = self.steps.get_mut(index)
        {
            *left = left.saturating_sub(1);
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

        steps.settled(second);
        assert_eq!(steps.passed(), []);
        steps.settled(first);
        assert_eq!(steps.passed(), []);
        assert_eq!(room.available_permits(), 1);
        steps.settled(first);
        assert_eq!(steps.passed(), [cursor("a"), cursor("b"), cursor("c")]);
        assert_eq!(room.available_permits(), 7);
        let later = steps.page(1, page());
        steps.cursor(cursor("d"), page());
        steps.settled(later);
        assert_eq!(steps.passed(), [cursor("d")]);
    }
}
