//! What of a VM is shown in columns, how wide each is, and by what VMs are put in order. Pure.

use std::cmp::Ordering;

use quantix::message::node::{Sample, Vm, VmState};

use crate::cli::history::memory_percent;

/// What VMs are put in order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Name,
    State,
    Cpu,
    Memory,
    Disk,
    Load,
    Io,
    Traffic,
}

impl By {
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::State,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Load,
        Self::Io,
        Self::Traffic,
    ];

    /// Its name; the first letter is its key.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Load => "load",
            Self::Io => "io",
            Self::Traffic => "traffic",
        }
    }

    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.word() == word)
    }

    pub fn of_key(key: char) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.word().starts_with(key))
    }

    /// Which of two comes first: the busier, the fuller, the worse; in the end by name.
    pub fn compare(self, a: &Vm, b: &Vm) -> Ordering {
        let by = match self {
            Self::Name => Ordering::Equal,
            Self::State => urgency(a).cmp(&urgency(b)),
            _ => self.number(b).total_cmp(&self.number(a)),
        };
        by.then_with(|| a.name.cmp(&b.name))
    }

    /// Less than any number where nothing is known.
    fn number(self, vm: &Vm) -> f64 {
        let Some(of) = current(vm) else { return -1.0 };
        let both =
            |a: Option<u64>, b: Option<u64>| (a.unwrap_or(0).saturating_add(b.unwrap_or(0))) as f64;
        match self {
            Self::Name | Self::State => 0.0,
            Self::Cpu => of.cpu_usage_percent,
            Self::Memory => memory_percent(of),
            Self::Disk => of.fullest_disk_percent,
            Self::Load => of.load_avg_1m,
            Self::Io => both(of.disk_read, of.disk_written),
            Self::Traffic => both(of.received, of.sent),
        }
    }
}

/// What needs somebody comes first.
fn urgency(vm: &Vm) -> u8 {
    match vm.state() {
        VmState::Stalled => 0,
        VmState::Ready if !vm.ills.is_empty() => 1,
        VmState::Queued => 2,
        VmState::Waiting => 3,
        VmState::Connecting => 4,
        VmState::Ready => 5,
        VmState::Absent | VmState::Unspecified => 6,
    }
}

/// What it does now. Of one that is lost nothing is shown as if it were so still.
pub fn current(vm: &Vm) -> Option<&Sample> {
    vm.latest.as_ref().filter(|_| vm.state() == VmState::Ready)
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Name,
    State,
    Cpu,
    CpuPast,
    Memory,
    MemoryPast,
    Disk,
    Load,
    Read,
    Written,
    Received,
    Sent,
}

impl Column {
    /// From the left.
    const ALL: [Self; 12] = [
        Self::Name,
        Self::State,
        Self::Cpu,
        Self::CpuPast,
        Self::Memory,
        Self::MemoryPast,
        Self::Disk,
        Self::Load,
        Self::Read,
        Self::Written,
        Self::Received,
        Self::Sent,
    ];

    /// Which of them there are in a narrow terminal: the first ones.
    const RANKED: [Self; 12] = [
        Self::Name,
        Self::State,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::CpuPast,
        Self::Load,
        Self::Received,
        Self::Sent,
        Self::Read,
        Self::Written,
        Self::MemoryPast,
    ];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Name => "VM",
            Self::State => "STATE",
            Self::Cpu => "CPU",
            Self::CpuPast | Self::MemoryPast => "10 MIN",
            Self::Memory => "MEMORY",
            Self::Disk => "DISK",
            Self::Load => "LOAD",
            Self::Read => "READ/S",
            Self::Written => "WRITTEN/S",
            Self::Received => "RECEIVED/S",
            Self::Sent => "SENT/S",
        }
    }

    /// What one presses to have VMs in its order.
    pub const fn by(self) -> By {
        match self {
            Self::Name => By::Name,
            Self::State => By::State,
            Self::Cpu | Self::CpuPast => By::Cpu,
            Self::Memory | Self::MemoryPast => By::Memory,
            Self::Disk => By::Disk,
            Self::Load => By::Load,
            Self::Read | Self::Written => By::Io,
            Self::Received | Self::Sent => By::Traffic,
        }
    }

    /// Numbers stand at the right of their column.
    pub const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Name | Self::State | Self::CpuPast | Self::MemoryPast
        )
    }

    /// At least.
    const fn width(self) -> usize {
        match self {
            Self::Name => 12,
            Self::State | Self::Received => 10,
            Self::Cpu | Self::Disk | Self::Memory => 7,
            Self::CpuPast | Self::MemoryPast => 10,
            Self::Load => 6,
            Self::Read | Self::Written | Self::Sent => 9,
        }
    }

    /// Takes room that is left, and how much of it.
    const fn most(self) -> usize {
        match self {
            Self::Name => 32,
            Self::CpuPast | Self::MemoryPast => 20,
            other => other.width(),
        }
    }
}

/// Between two columns.
pub const GAP: usize = 2;

/// The columns that fit, and how wide each is. `name`: what the longest name needs.
pub fn fit(width: usize, name: usize) -> Vec<(Column, usize)> {
    let mut left = width;
    let mut chosen = Vec::new();
    for column in Column::RANKED {
        let gap = if chosen.is_empty() { 0 } else { GAP };
        let Some(rest) = left.checked_sub(column.width() + gap) else {
            break;
        };
        left = rest;
        chosen.push(column);
    }
    let mut fitted: Vec<(Column, usize)> = Column::ALL
        .into_iter()
        .filter(|column| chosen.contains(column))
        .map(|column| (column, column.width()))
        .collect();
    for (column, width) in &mut fitted {
        let most = match column {
            Column::Name => column.most().min(name.max(column.width())),
            other => other.most(),
        };
        let more = left.min(most - *width);
        *width += more;
        left -= more;
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, state: VmState, latest: Option<Sample>) -> Vm {
        Vm {
            name: name.to_owned(),
            state: state.into(),
            latest,
            ..Default::default()
        }
    }

    fn sample(cpu: f64, used: u64, read: Option<u64>) -> Option<Sample> {
        Some(Sample {
            cpu_usage_percent: cpu,
            memory_used: used,
            memory_total: 100,
            disk_read: read,
            ..Default::default()
        })
    }

    fn order(by: By) -> Vec<String> {
        let mut vms = [
            vm("idle", VmState::Ready, sample(1.0, 90, None)),
            vm("lost", VmState::Stalled, sample(99.0, 99, Some(99))),
            vm("new", VmState::Ready, None),
            vm("busy", VmState::Ready, sample(80.0, 10, Some(5))),
            vm("also", VmState::Ready, sample(1.0, 20, Some(0))),
            vm("off", VmState::Absent, None),
        ];
        vms.sort_by(|a, b| by.compare(a, b));
        vms.into_iter().map(|vm| vm.name).collect()
    }

    #[test]
    fn what_matters_is_first_and_what_is_lost_has_no_numbers() {
        assert_eq!(
            order(By::Cpu),
            ["busy", "also", "idle", "lost", "new", "off"]
        );
        assert_eq!(order(By::Memory)[..2], ["idle", "also"]);
        assert_eq!(order(By::Io)[0], "busy");
        assert_eq!(
            order(By::State),
            ["lost", "also", "busy", "idle", "new", "off"]
        );
        assert_eq!(order(By::Name)[0], "also");
    }

    #[test]
    fn each_order_has_a_key_of_its_own() {
        for by in By::ALL {
            let key = by.word().chars().next().unwrap();
            assert_eq!((By::of_key(key), By::of(by.word())), (Some(by), Some(by)));
        }
    }

    #[test]
    fn columns_never_need_more_than_there_is() {
        for width in 0..300 {
            let fitted = fit(width, 200);
            let gaps = GAP * fitted.len().saturating_sub(1);
            let all: usize = fitted.iter().map(|(_, width)| width).sum();
            assert!(all + gaps <= width, "{width}: {fitted:?}");
        }
        let columns = |width| fit(width, 12).len();
        assert_eq!(
            (columns(11), columns(12), columns(80), columns(200)),
            (0, 1, 7, 12)
        );
        // A wide one goes to the names first.
        assert_eq!(fit(300, 25)[0], (Column::Name, 25));
    }
}
