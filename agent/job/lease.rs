//! The memory of one chunk, for bytes that come out of a pipe: lent to the chunk on its way to the port,
//! and back for the next one.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use quantix::chunk::Parcel;
use quantix::limits::MAX_WRITE;

/// Where it is while nobody has it.
#[derive(Clone, Default)]
pub struct Home(Rc<Cell<Vec<u8>>>);

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Home")
    }
}

/// The memory, or more of it where somebody has that.
#[derive(Debug)]
pub struct Lease {
    bytes: Vec<u8>,
    home: Home,
}

impl Home {
    /// Lends it.
    pub fn lend(&self) -> Lease {
        let mut bytes = self.0.take();
        bytes.resize(MAX_WRITE, 0);
        Lease {
            bytes,
            home: self.clone(),
        }
    }

    /// Gives it back to the system until it is needed again.
    pub fn release(&self) {
        self.0.take();
    }
}

impl Parcel for Lease {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.home.0.set(std::mem::take(&mut self.bytes));
    }
}
