//! Trees, and several sources, between this host and a guest: archives that are packed on one side
//! and unpacked on the other, one request for all of them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quantix::archive::{self, Decoder, root_name};
use quantix::error::Failure;
use quantix::message::agent::TreeKind;
use quantix::message::{Body, agent};
use quantix::rt::tree::pack::{pack, size_of};
use quantix::rt::tree::unpack::{Order, Unpack};

use super::super::client::{Client, unexpected};
use super::super::{Trouble, render};
use super::progress::Progress;
use super::stream::{Upload, download};
use super::{How, hinted};

/// Into the guest: all sources in one archive. How many entries were not copied.
pub fn put(
    client: &mut Client,
    how: &How,
    sources: &[PathBuf],
    vm: &str,
    path: &str,
) -> Result<u64, Trouble> {
    let progress = Progress::new(|| Some(sources.iter().map(|source| size_of(source)).sum()));
    let request = agent::Tree {
        path: path.into(),
        into: sources.len() > 1,
        preserve: how.preserve,
        create_parents: how.parents,
        ..Default::default()
    };
    let mut upload = Upload::begin(client, vm, Body::WriteTree(request))?;
    let (mut missing, mut bytes) = (0, Vec::new());
    let mut emit = |mut record: agent::TreeRecord| {
        match record.kind() {
            TreeKind::Problem => {
                missing += 1;
                progress.say(&hinted(&record.message));
                // The guest has to know of it, and nothing about it.
                record.message = String::new();
            }
            TreeKind::File => progress.name(&record.path),
            _ => {}
        }
        progress.add(record.data.len());
        bytes.clear();
        if !archive::encode(&record, &mut bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        upload.write_all(&bytes)
    };
    let sent = sources
        .iter()
        .try_for_each(|source| pack(source, how.recursive, &|_| Ok(()), &mut emit))
        .and_then(|()| emit(archive::end()));
    if sent.is_err() && !upload.is_over() {
        return Err(unexpected());
    }
    let Body::WriteTreeResponse(answer) = upload.finish()? else {
        return Err(unexpected());
    };
    for line in &answer.lines {
        progress.say(&hinted(line));
    }
    let unsaid = answer.problems.saturating_sub(answer.lines.len() as u64);
    if unsaid > 0 {
        progress.say(&format!("{path}: {unsaid} more could not be written"));
    }
    Ok(missing + answer.problems)
}

/// From a guest: one source, whose name in the target is its own and no other.
pub fn fetch(
    client: &mut Client,
    how: &How,
    (vm, path): (&str, &str),
    target: &Path,
    into: bool,
) -> Result<u64, Trouble> {
    let progress = Progress::new(|| None);
    let root = root_name(path.as_bytes());
    let order = Order {
        target: target.to_owned(),
        into,
        root: Some(root.to_vec()).filter(|root| !root.is_empty()),
        preserve: how.preserve,
        parents: how.parents,
    };
    let (mut unmade, mut unread) = (0, 0);
    let mut report = |failure: Failure| {
        unmade += 1;
        progress.say(&hinted(&failure.message));
    };
    let mut unpack = Unpack::new(order, &mut report).map_err(here)?;
    let mut decoder = Decoder::default();
    let request = agent::Tree {
        path: path.into(),
        recursive: how.recursive,
        measure: progress.is_watched(),
        ..Default::default()
    };
    let mut sink = |bytes: &[u8]| {
        decoder.extend(bytes);
        while let Some(record) = decoder.take().map_err(|_| unexpected())? {
            match record.kind() {
                TreeKind::Problem => {
                    unread += 1;
                    progress.say(&hinted(&record.message));
                }
                TreeKind::File => progress.name(&record.path),
                TreeKind::Total => progress.set_total(record.size),
                _ => {}
            }
            progress.add(record.data.len());
            unpack.apply(record).map_err(here)?;
        }
        Ok(())
    };
    let (answer, _) = download(client, vm, Body::ReadTree(request), &mut sink)?;
    let Body::ReadTreeResponse(_) = answer else {
        return Err(unexpected());
    };
    unpack.finish().map_err(here)?;
    drop(unpack);
    Ok(unmade + unread)
}

/// A failure of this side, in words that may be a guest's.
fn here(failure: Failure) -> Trouble {
    Trouble::Local(render::plain(&failure.message))
}
