//! Envelopes that are written together, put down once: as the body of their request.
//!
//! A batch has megabytes. Envelopes as texts of their own and then once more as a body would be twice that, for as long as the request takes. So
//! they are written one behind the other into the body itself, which is sent as it is; only pieces of it are copied.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::bulk::Place;

const HEAD: &[u8] = br#"{"ordering":"strict_temporal","items":["#;
const END: &[u8] = b"]}";

/// What a [`Batch`] is made of.
#[derive(Debug)]
pub struct BatchBuilder {
    body: Vec<u8>,
    items: Vec<Item>,
}

/// Envelopes in the order in which they are written.
#[derive(Debug)]
pub struct Batch {
    body: Bytes,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
struct Item {
    key: String,
    scope: Arc<str>,
    json: Range<usize>,
}

impl BatchBuilder {
    /// With room for so many envelopes of so many bytes in all.
    #[must_use]
    pub fn with_capacity(envelopes: usize, bytes: usize) -> Self {
        let mut body = Vec::with_capacity(bytes + HEAD.len() + END.len());
        body.extend_from_slice(HEAD);
        Self {
            body,
            items: Vec::with_capacity(envelopes),
        }
    }

    /// Adds an envelope, which `write` puts down as compact JSON; it is given the key.
    pub fn push(&mut self, key: String, scope: Arc<str>, write: impl FnOnce(&mut Vec<u8>, &str)) {
        if !self.items.is_empty() {
            self.body.push(b',');
        }
        let start = self.body.len();
        write(&mut self.body, &key);
        self.items.push(Item {
            key,
            scope,
            json: start..self.body.len(),
        });
    }

    /// Nothing is added any more.
    #[must_use]
    pub fn finish(mut self) -> Batch {
        self.body.extend_from_slice(END);
        Batch {
            body: self.body.into(),
            items: self.items,
        }
    }
}

impl Batch {
    /// How many envelopes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What an envelope is asked for by.
    #[must_use]
    pub fn place(&self, index: usize) -> Place<'_> {
        let Item { key, scope, .. } = &self.items[index];
        Place { key, scope }
    }

    /// An envelope as it is sent.
    #[must_use]
    pub fn json(&self, index: usize) -> &str {
        let bytes = &self.body[self.items[index].json.clone()];
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// How many bytes that is.
    pub(super) fn bytes(&self, index: usize) -> usize {
        self.items[index].json.len()
    }

    /// The body of a request for some of them.
    pub(super) fn body(&self, piece: &[usize]) -> Bytes {
        if piece.len() == self.items.len() {
            return self.body.clone();
        }
        self.some(piece.iter().copied()).body
    }

    /// A batch of some of them.
    #[must_use]
    pub fn some(&self, indexes: impl IntoIterator<Item = usize>) -> Self {
        let indexes: Vec<usize> = indexes.into_iter().collect();
        let bytes: usize = indexes.iter().map(|&index| self.bytes(index) + 1).sum();
        let mut some = BatchBuilder::with_capacity(indexes.len(), bytes);
        for index in indexes {
            let Item { key, scope, json } = &self.items[index];
            some.push(key.clone(), Arc::clone(scope), |body, _| {
                body.extend_from_slice(&self.body[json.clone()]);
            });
        }
        some.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(envelopes: &[&str]) -> Batch {
        let mut builder = BatchBuilder::with_capacity(0, 0);
        for json in envelopes {
            builder.push((*json).to_owned(), "org:a".into(), |body, _| {
                body.extend_from_slice(json.as_bytes());
            });
        }
        builder.finish()
    }

    #[test]
    fn the_body_has_every_envelope_in_order_and_each_is_found_in_it() {
        let batch = batch(&["{}", "[1]", "2"]);
        let sent = |piece: &[usize]| String::from_utf8(batch.body(piece).to_vec()).unwrap();
        assert_eq!(
            sent(&[0, 1, 2]),
            r#"{"ordering":"strict_temporal","items":[{},[1],2]}"#
        );
        assert_eq!(
            sent(&[0, 2]),
            r#"{"ordering":"strict_temporal","items":[{},2]}"#
        );
        assert_eq!(batch.json(1), "[1]");
        assert_eq!(batch.place(2).key, "2");
    }

    #[test]
    fn some_of_a_batch_are_a_batch() {
        let some = batch(&["1", "2", "3"]).some([0, 2]);
        assert_eq!((some.len(), some.json(1), some.place(1).key), (2, "3", "3"));
    }

    #[test]
    fn a_batch_of_nothing_is_an_empty_list() {
        let empty = batch(&[]);
        assert!(empty.is_empty());
        assert_eq!(
            &*empty.body(&[]),
            br#"{"ordering":"strict_temporal","items":[]}"#
        );
    }
}
