//! Trees of files, as archives (`archive`): [`pack`] walks one and makes records of it, [`unpack`]
//! makes it anew from records. Both programs run both, each on its side.
//!
//! Whoever made the tree, or the archive, may mean ill. So both go from directory to directory by
//! open descriptors, one name at a time, and follow no symbolic link below where they begin.

pub mod pack;
pub mod unpack;

#[cfg(test)]
mod tests;
