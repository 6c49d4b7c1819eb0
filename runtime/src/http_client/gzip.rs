//! Bodies that came compressed, piece by piece: a few bytes may stand for a thousand times as many, and whoever reads has to be able to stop
//! in between.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

/// Compressed bytes that are looked at together; at most a thousand times as many come of them.
const STEP: usize = 512;

/// What came and is not decompressed yet, and how far it is.
#[derive(Debug)]
pub(super) struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    packed: Bytes,
    begun: bool,
    ended: bool,
}

impl Default for Gunzip {
    fn default() -> Self {
        Self {
            decoder: MultiGzDecoder::new(Vec::new()),
            packed: Bytes::new(),
            begun: false,
            ended: false,
        }
    }
}

impl Gunzip {
    /// What comes next of the compressed body. What came before has to be used up.
    pub(super) fn feed(&mut self, packed: Bytes) {
        self.begun |= !packed.is_empty();
        self.packed = packed;
    }

    /// The next piece of the text; `None` if more has to come first.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.packed.is_empty() {
            let step = self.packed.split_to(self.packed.len().min(STEP));
            self.decoder.write_all(&step)?;
            if let Some(text) = self.taken() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// No more will come: the rest of the text. A body that is not whole is an error; one without a byte is an empty text.
    pub(super) fn finish(&mut self) -> io::Result<Option<Bytes>> {
        if self.begun && !self.ended {
            self.ended = true;
            self.decoder.try_finish()?;
        }
        Ok(self.taken())
    }

    fn taken(&mut self) -> Option<Bytes> {
        let text = std::mem::take(self.decoder.get_mut());
        (!text.is_empty()).then(|| text.into())
    }
}
