//! A decoder to compare with: it keeps every byte, looks at all of them at once, and has its numbers
//! from docs/protocol.md and not from the code.

/// Cuts a stream into bodies, slowly.
#[derive(Default)]
pub struct Naive {
    bytes: Vec<u8>,
    /// Behind a header that is none, up to the next idle byte.
    junk: bool,
    /// Bytes dropped outside any frame.
    pub garbage: u64,
}

impl Naive {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole body.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.junk {
                let end = self.bytes.iter().position(|b| *b == 0xFF);
                self.garbage += self.drop(end.unwrap_or(self.bytes.len()));
                end?;
                self.junk = false;
            }
            let idle = self.bytes.iter().take_while(|b| **b == 0xFF).count();
            self.drop(idle);
            let &[a, b, c, d] = self.bytes.first_chunk()?;
            match u32::from_be_bytes([a, b, c, d]) as usize {
                length @ 1..=131_072 => {
                    let body = self.bytes.get(4..4 + length)?.to_vec();
                    self.drop(4 + length);
                    return Some(body);
                }
                _ => {
                    self.garbage += self.drop(4);
                    self.junk = true;
                }
            }
        }
    }

    /// Bytes of a body that is not yet whole.
    pub fn buffered(&self) -> usize {
        self.bytes.len().saturating_sub(4)
    }

    /// Something that is not a whole frame stands at the end.
    pub fn is_cut(&self) -> bool {
        self.junk || !self.bytes.is_empty()
    }

    fn drop(&mut self, count: usize) -> u64 {
        self.bytes.drain(..count);
        count as u64
    }
}

/// Session and number, where a body ends with them.
pub fn seal(body: &[u8]) -> Option<(u64, u64)> {
    let at = body.len().checked_sub(20)?;
    let number = |from: usize| u64::from_le_bytes(body[from..from + 8].try_into().unwrap());
    let tags = (&body[at..at + 2], &body[at + 10..at + 12]);
    let found = tags == (&[0x81, 0x7D], &[0x89, 0x7D]) && number(at + 2) != 0;
    found.then(|| (number(at + 2), number(at + 12)))
}
