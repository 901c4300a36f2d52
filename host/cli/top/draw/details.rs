//! One VM, closely: what it is, its last hour, its mounts. Pure.

use std::time::Duration;

use quantix::message::agent::{Disk, Telemetry};
use quantix::message::node::{Sample, Vm, VmState};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget};

use super::super::past::cells;
use super::super::view::Past;
use super::{Looks, Moment, down};
use crate::cli::history::memory_percent;
use crate::cli::render::{bytes, plain, span};
use crate::daemon::{is_own_mount, state_text};

/// All that it can make use of.
pub const HEIGHT: u16 = 20;

/// As much as the daemon keeps.
const HOUR: Duration = Duration::from_secs(3600);

/// Two charts are beside each other where each has so much.
const CHART: u16 = 36;

/// A chart of the last hour.
struct Chart {
    name: &'static str,
    value: fn(&Sample) -> Option<f64>,
    /// Its top; without one, the highest value.
    most: Option<f64>,
    text: fn(f64) -> String,
}

const CHARTS: [Chart; 4] = [
    Chart {
        name: "CPU",
        value: |of| Some(of.cpu_usage_percent),
        most: Some(100.0),
        text: percent,
    },
    Chart {
        name: "memory",
        value: |of| Some(memory_percent(of)),
        most: Some(100.0),
        text: percent,
    },
    Chart {
        name: "disks",
        value: |of| both(of.disk_read, of.disk_written),
        most: None,
        text: rate,
    },
    Chart {
        name: "network",
        value: |of| both(of.received, of.sent),
        most: None,
        text: rate,
    },
];

fn both(a: Option<u64>, b: Option<u64>) -> Option<f64> {
    Some(a?.saturating_add(b?) as f64)
}

fn percent(of: f64) -> String {
    format!("{of:.1} %")
}

// A sum of two rates, which is not below 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rate(of: f64) -> String {
    format!("{}/s", bytes(of as u64))
}

/// Draws it, as far as there is room.
pub fn draw(
    frame: &mut Frame,
    area: Rect,
    (vm, report): (&Vm, Option<&Telemetry>),
    past: Option<&Past>,
    looks: &Looks,
    moment: Moment,
) {
    let mut left = area;
    frame.render_widget(headline(vm, looks), down(&mut left, 1));
    if let Some(why) = why(vm) {
        let why = Span::styled(why, looks.loud(Color::Red));
        frame.render_widget(why, down(&mut left, 1));
    }
    let mounts = report.map(mounts).unwrap_or_default();
    let is_wide = left.width >= 2 * CHART;
    let (beside, bands) = if is_wide { (2, 2) } else { (1, 4) };
    let wanted = u16::try_from(mounts.len()).unwrap_or(u16::MAX);
    // Each chart has its name and two lines at least.
    let below = wanted.min(left.height.saturating_sub(bands * 3));
    let band = ((left.height - below) / bands).min(5);
    for charts in CHARTS.chunks(beside) {
        let mut row = down(&mut left, band);
        for chart in charts {
            let width = if is_wide { row.width / 2 } else { row.width };
            let area = Rect {
                width: width.saturating_sub(2),
                ..row
            };
            chart.draw(frame, area, past, looks, moment);
            row.x += width;
        }
    }
    let names = mounts.iter().map(|disk| plain(&disk.mount_point));
    let name = names.map(|name| name.chars().count()).max().unwrap_or(0);
    for disk in mounts {
        let area = down(&mut left, 1);
        frame.render_widget(mount(disk, name.min(32), looks), area);
    }
}

/// `db1  ready, 3h 5m  up 3h 6m  Debian 12  10.0.0.5`
fn headline(vm: &Vm, looks: &Looks) -> Line<'static> {
    let state = plain(&state_text(vm.state(), vm.behind.as_ref()));
    let mut facts = format!(", {}", span(vm.since_ms / 1000));
    if let (Some(agent), VmState::Ready) = (&vm.agent, vm.state()) {
        facts += &format!("  up {}", span(vm.uptime_seconds));
        let system = format!("{} {}", agent.os_name, agent.os_version);
        for fact in [system.trim(), &agent.hostname, &agent.primary_address] {
            if !fact.is_empty() {
                facts += "  ";
                facts += &plain(fact);
            }
        }
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Line::from(vec![
        Span::styled(plain(&vm.name), bold),
        Span::raw("  "),
        Span::styled(state, looks.of_state(vm.state())),
        Span::raw(facts),
    ])
    .style(Style::new().add_modifier(Modifier::UNDERLINED))
}

fn why(vm: &Vm) -> Option<String> {
    let why = [&vm.reason, &vm.ills].map(|why| plain(why));
    why.into_iter().find(|why| !why.is_empty())
}

/// Those that are the guest's own, the fullest first.
fn mounts(report: &Telemetry) -> Vec<&Disk> {
    let own = report.disks.iter();
    let own = own.filter(|disk| is_own_mount(&disk.filesystem, &disk.mount_point));
    let mut own: Vec<&Disk> = own.collect();
    own.sort_by(|a, b| b.usage_percent.total_cmp(&a.usage_percent));
    own
}

/// `/var  91.5 %  ########--  18.3 GiB of 20.0 GiB  ext4`
fn mount(disk: &Disk, width: usize, looks: &Looks) -> Line<'static> {
    const BAR: usize = 20;
    // A share of the bar.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let full = (disk.usage_percent.clamp(0.0, 100.0) / 100.0 * BAR as f64).round() as usize;
    let bars = looks.bars();
    let bar = bars.full.repeat(full) + &bars.one_eighth.repeat(BAR - full);
    let name = plain(&disk.mount_point);
    let (used, total) = (bytes(disk.used), bytes(disk.total));
    let (kind, problem) = (plain(&disk.filesystem), plain(&disk.problem));
    let style = looks.of_percent(disk.usage_percent);
    Line::from(vec![
        Span::raw(format!("{name:width$}  ")),
        Span::styled(format!("{:>7}  ", percent(disk.usage_percent)), style),
        Span::styled(bar, style),
        Span::raw(format!("  {used} of {total}  {kind}  {problem}")),
    ])
}

impl Chart {
    fn draw(
        &self,
        frame: &mut Frame,
        area: Rect,
        past: Option<&Past>,
        looks: &Looks,
        moment: Moment,
    ) {
        let mut left = area;
        let head = down(&mut left, 1);
        let values = past.map_or_else(Vec::new, |past| {
            let age = moment.now.since(past.at);
            cells(&past.samples, age, HOUR, area.width.into(), self.value)
        });
        let most = values.iter().flatten().copied().fold(0.0, f64::max);
        let last = past.and_then(|past| past.samples.last().and_then(self.value));
        let (name, text) = (self.name, self.text);
        let said = match last {
            None => format!("{name}: nothing reported"),
            Some(last) => format!("{name}: {}, 1 h peak {}", text(last), text(most)),
        };
        frame.render_widget(Line::from(said), head);
        let top = self.most.unwrap_or(most).max(1.0);
        // Thousandths of the top; what is known is never empty.
        let known = 1000 / (u64::from(left.height.max(1)) * 8) + 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let part = |value: f64| ((value / top * 1000.0).clamp(0.0, 1000.0) as u64).max(known);
        let data = values.iter().map(|cell| cell.map(part));
        Sparkline::default()
            .data(data.collect::<Vec<Option<u64>>>())
            .max(1000)
            .bar_set(looks.bars())
            .absent_value_symbol(" ")
            .style(looks.style(Color::Green))
            .render(left, frame.buffer_mut());
    }
}
