//! How far a copy, or what else takes its time, is, for somebody who watches: a bar on stderr where that is a terminal, else nothing.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::render;

/// The bar, if there is one.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Of so many bytes, if that is known.
    pub fn new(total: impl FnOnce() -> Option<u64>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        draw(
            &bar,
            "{msg:30!} {spinner} {bytes} {binary_bytes_per_sec} {elapsed}",
        );
        let progress = Self(Some(bar));
        progress.set_total(total().unwrap_or(0));
        progress
    }

    /// Of so many VMs.
    pub fn of_many(total: usize) -> Self {
        if total < 2 || !io::stderr().is_terminal() {
            return Self(None);
        }
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        draw(&bar, "{pos}/{len} {wide_bar} {msg} {elapsed}");
        Self(Some(bar))
    }

    /// So many VMs have ended, so many of them failed, and so many are at it.
    pub fn count(&self, done: usize, failed: usize, running: usize) {
        if let Some(bar) = &self.0 {
            bar.set_message(format!("{running} at work, {failed} failed"));
            bar.set_position(done as u64);
        }
    }

    /// Does what prints something, beside the bar.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// It is of so many bytes; 0 is not known.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = self.0.as_ref().filter(|_| total > 0) {
            bar.set_length(total);
            draw(
                bar,
                "{msg:30!} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            );
        }
    }

    /// Somebody sees it.
    pub const fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    /// It is this file's turn. Its name is shown as a name: it may hold anything.
    pub fn name(&self, path: &[u8]) {
        if let Some(bar) = &self.0 {
            let name = path.rsplit(|byte| *byte == b'/').next();
            bar.set_message(render::plain_bytes(name.unwrap_or_default()));
        }
    }

    /// It is this one's turn, of so many bytes; so many of them are done.
    pub fn stand(&self, what: &str, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(render::plain(what));
            self.set_total(total);
            bar.set_position(done);
        }
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes as u64);
        }
    }

    /// So many bytes were there before.
    pub fn begin_at(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
            bar.reset_eta();
        }
    }

    /// A line beside the bar.
    pub fn say(&self, line: &str) {
        let say = || {
            let _ = writeln!(io::stderr(), "qx-node: {line}");
        };
        self.aside(say);
    }
}

fn draw(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
